"""The first lines of a card count who is ahead, and tell equal training seeds from different ones."""

from __future__ import annotations

import pytest

from saebench.comparison.alike import training_seed
from saebench.comparison.card import render_comparison
from saebench.comparison.document import compare
from saebench.comparison.in_short import in_short
from tests.comparison.studies import group, matched, record, report, small_study
from tests.report.records import section

COSINES = {  # within x, within y, equal seeds of x and y, different seeds
    ("x-s0", "x-s1"): 0.6, ("y-s0", "y-s1"): 0.5,
    ("x-s0", "y-s0"): 0.9, ("x-s1", "y-s1"): 0.7,
    ("x-s0", "y-s1"): 0.4, ("x-s1", "y-s0"): 0.2,
}  # fmt: skip


def seeds_study(cosines=COSINES):
    names = ["x-s0", "x-s1", "y-s0", "y-s1"]
    pairs = [matched(a, b, cosine) for (a, b), cosine in cosines.items()]
    groups = [group("x", names[:2]), group("y", names[2:]), group("all", names, pairs=pairs)]
    return compare({"run": report([record(name, fve=0.5) for name in names], groups)})


def test_each_source_is_named_with_the_places_it_is_ahead_in():
    lines = in_short(compare({"run": small_study()})).splitlines()
    assert lines[0] == "- **faithful** is ahead in nothing."
    assert lines[1] == "- **web** is ahead in FVE (2 of 2), Shared latents (decoder) (2 of 2)."
    assert "L0" not in lines[1]  # it has no better direction


def test_lower_is_ahead_where_lower_is_better_and_a_tie_has_no_leader():
    records = [record("a", dead_fraction=0.1, fve=0.5), record("b", dead_fraction=0.2, fve=0.5)]
    text = in_short(compare({"run": report(records, [group("g", "a"), group("h", "b")])}))
    assert "**g** is ahead in Dead latents (1 of 1)." in text
    assert "FVE" not in text


def test_pairs_within_and_across_sources_and_of_equal_seeds_are_told_apart():
    (one,) = seeds_study().alike
    assert (one.within.mean, one.within.n) == (pytest.approx(0.55), 2)
    assert (one.across.mean, one.across.n) == (pytest.approx(0.55), 4)
    assert (one.equal.mean, one.equal.n) == (pytest.approx(0.8), 2)
    assert (one.different.mean, one.different.n) == (pytest.approx(0.3), 2)
    assert one.chance == pytest.approx(0.2)
    assert dict(one.by_source) == pytest.approx({"x": 0.6, "y": 0.5})
    assert one.equal_by_sources == (("x", "y", pytest.approx(0.8)),)


def test_the_line_on_seeds_says_so_and_what_it_means():
    text = in_short(seeds_study())
    assert (
        "m: 0.550 within sources, 0.550 across (0.800 for equal training seeds, 0.300 for different "
        "ones), chance 0.200." in text
    )
    assert "x and y (0.800 against 0.600) are in every place more alike" in text
    weaker = {**COSINES, ("x-s0", "y-s0"): 0.5, ("x-s1", "y-s1"): 0.5}
    assert "initialisation" not in in_short(seeds_study(weaker))


def test_pairs_of_other_places_are_in_no_mean():
    names = ["x-k8", "x-k16", "y-k8", "y-k16"]
    groups = [group(n, [n], source=n[0], block=n[2:]) for n in names]
    pairs = [matched("x-k8", "y-k8", 0.5), matched("x-k8", "y-k16", 0.9)]
    groups.append(group("all", names, pairs=pairs))
    (one,) = compare({"run": report([record(n, fve=0.5) for n in names], groups)}).alike
    assert (one.block, one.across.mean, one.across.n) == ("k8", 0.5, 1)
    assert (one.equal.n, one.different.n) == (0, 0)  # k8 and k16 are no seeds


@pytest.mark.parametrize(
    ("name", "provenance", "seed"),
    [
        ("web-k8-s1", None, "1"),
        ("web_seed12", None, "12"),
        ("seed-07", None, "7"),
        ("docs8", None, None),
        ("k8", None, None),
        ("layers3", None, None),
        ("web-s1", {"seed": 42}, "42"),
        ("web-s1", {"saebench": {"seeds": {"weights": 3}}, "seed": 42}, "3"),
        ("web-s1", {"saebench": {"recipe": {"seed": 0}}}, "0"),
        ("web-s1", {"seed": True}, "1"),
        ("web", {"saebench": None}, None),
    ],
)
def test_a_training_seed_is_what_the_files_say_or_the_end_of_the_name(name, provenance, seed):
    made = record(name, part={"checkpoint": {"name": name, "provenance": provenance}})
    assert training_seed(made) == seed


def test_it_is_the_first_section_and_never_ten_lines():
    sources, blocks = [f"s{n}" for n in range(9)], [f"k{n}" for n in range(9)]
    study = compare({"run": small_study(sources, blocks)})
    body = render_comparison(study, {})
    assert body.index("## In short") < body.index("\n## Groups")
    lines = [line for line in section(body, "In short").splitlines() if line]
    assert len(lines) < 10
    assert "5 more sources" in section(body, "In short")
    assert "5 more places" in section(body, "In short")


def test_one_source_without_matchings_has_nothing_in_short():
    assert in_short(compare({"run": report([record("a", fve=0.5)], [group("g", "a")])})) == ""
