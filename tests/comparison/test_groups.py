"""Groups come from runs or from patterns; what cannot be grouped is named, what is ambiguous refused."""

from __future__ import annotations

import pytest

from saebench.comparison.checkpoints import name_models, pool
from saebench.comparison.groups import gather, parse_group
from saebench.errors import ConfigError
from tests.comparison.studies import group, matched, record, report, small_study


def gathered(*reports, patterns=()):
    return gather(pool({f"run{i}": one for i, one in enumerate(reports)}), patterns)


def test_stored_groups_have_their_source_and_block():
    found = gathered(small_study())
    places = [(g.name, g.source, g.block, g.model, len(g.members)) for g in found.groups]
    assert places[0] == ("faithful-k8", "faithful", "k8", "m", 2)
    assert found.sources == ["faithful", "web"]
    assert found.left_out == ()


def test_the_source_of_a_group_without_one_is_its_name():
    found = gathered(report([record("a"), record("b")], [group("g", ["a", "b"])]))
    assert (found.groups[0].source, found.groups[0].block) == ("g", "")


def test_patterns_replace_the_stored_groups_and_keep_what_was_matched():
    found = gathered(
        small_study(), patterns=[("new/k8", "faithful-k8-*"), ("old", "web-k8-s0"), ("old", "web-k16-s0")]
    )  # fmt: skip
    assert [(g.source, g.block, g.names) for g in found.groups] == [
        ("new", "k8", ("faithful-k8-s0", "faithful-k8-s1")),
        ("old", "", ("web-k8-s0", "web-k16-s0")),
    ]
    assert len(found.groups[0].pairs) == 1
    assert found.groups[0].threshold == 0.7
    assert found.groups[0].summary is not None
    assert found.groups[1].summary is None
    assert [name for _, name in found.left_out] == [
        "faithful-k16-s0", "faithful-k16-s1", "web-k8-s1", "web-k16-s1",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["faithful", "=x-*", "name=", " = "])
def test_a_group_option_is_a_name_and_a_pattern(text):
    with pytest.raises(ConfigError, match="NAME=GLOB"):
        parse_group(text)
    assert parse_group("a=b=c") == ("a", "b=c")


def test_without_any_group_the_error_says_how_to_name_some():
    with pytest.raises(ConfigError, match="--group NAME=GLOB"):
        gathered(report([record("a")]))


def test_a_pattern_without_a_match_names_what_there_is():
    with pytest.raises(ConfigError, match="There are: a, b"):
        gathered(report([record("a"), record("b")]), patterns=[("g", "c*")])


def test_a_missing_member_is_noted_and_a_group_of_none_is_left_out():
    groups = [group("g", ["a", "gone"]), group("h", ["nobody"])]
    found = gathered(report([record("a")], groups))
    assert [g.name for g in found.groups] == ["g"]
    assert found.notes == (
        "g: its member gone has no record in the reports",
        "h: its member nobody has no record in the reports",
        "h: left out, none of its members has a record",
    )


def test_one_name_on_two_models_is_two_groups():
    runs = [
        report([record("a", model=m), record("b", model=m)], [group("g", ["a", "b"], model=m)])
        for m in ("m1", "m2")
    ]
    found = gathered(*runs)
    assert [(g.name, g.model, g.names) for g in found.groups] == [
        ("g", "m1", ("a", "b")),
        ("g", "m2", ("a", "b")),
    ]


def test_seeds_of_one_group_in_two_folders_are_united_without_the_numbers_of_a_part():
    runs = [
        report([record("a"), record("b")], [group("g", ["a", "b"], shared_decoder=0.5)]),
        report([record("c")], [group("g", ["c"])]),
    ]
    (found,) = gathered(*runs).groups
    assert found.names == ("a", "b", "c")
    assert found.summary is None


def test_the_same_checkpoint_in_two_folders_counts_once_with_all_that_was_measured():
    runs = [report([record("a", fve=0.5)], [group("g", ["a"])]), report([record("a", l0=8.0)])]
    (found,) = gathered(*runs).groups
    assert {m.name for m in found.members[0].measurements.values()} == {"fve", "l0"}


def test_two_folders_that_contradict_each_other_are_refused():
    other = record("a", part={"key": "another"})
    with pytest.raises(ConfigError, match="run0 and run1 have different measurements"):
        gathered(report([record("a")], [group("g", ["a"])]), report([other]))


def test_two_groups_in_the_same_place_are_refused():
    groups = [group("g", ["a"], source="s", block="k"), group("h", ["b"], source="s", block="k")]
    with pytest.raises(ConfigError, match="both are source 's' in block 'k' on m"):
        gathered(report([record("a"), record("b")], groups))


def test_groups_that_share_members_are_noted():
    groups = [group("g", ["a", "b"]), group("h", ["b", "c"])]
    found = gathered(report([record(n) for n in "abc"], groups))
    assert found.notes == ("g and h share b: they are not independent of each other",)


def test_two_names_for_the_same_checkpoints_are_two_groups():
    found = gathered(report([record(n) for n in "ab"], [group("g", "ab"), group("h", "ab")]))
    assert [g.name for g in found.groups] == ["g", "h"]


def test_a_group_that_holds_others_is_no_side_but_its_pairs_are_kept():
    pairs = [matched("a", "c", 0.4)]
    groups = [group("all", "abcd", pairs=pairs), group("g", "ab"), group("h", "cd")]
    found = gathered(report([record(n) for n in "abcd"], groups))
    assert [g.name for g in found.groups] == ["g", "h"]
    assert ("m", frozenset("ac")) in found.checkpoints.pairs
    assert "all holds all of g, h" in found.notes[0]


def test_a_group_record_with_damaged_members_and_details_is_a_group_of_none():
    odd = record("odd", part={"checkpoint": {"name": "odd", "members": 3}, "details": []})
    found = gathered(report([record("a")], [odd, group("g", ["a"])]))
    assert [g.name for g in found.groups] == ["g"]


def test_models_are_told_apart_by_precision_and_weights():
    base = {"id": "/home/x/model", "digest": "1" * 64, "dtype": "float32"}
    models = [base, {**base, "dtype": "bfloat16"}, {**base, "id": "other"}]
    labels = name_models([*models[:2], {"id": "other", "revision": "abc"}])
    assert list(labels.values()) == [
        "model (float32, 11111111)",
        "model (bfloat16, 11111111)",
        "other",
    ]
    assert len(name_models([base, dict(base)])) == 1
