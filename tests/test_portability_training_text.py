"""Portability on training samples fewer than latents, and averages of d over concepts."""

from dataclasses import replace

import pytest

from saebench.measure.portability.separation import averages
from saebench.protocols import Variant
from saebench.report.portability import overview, section
from tests.portability_runs import SAME, measured, nine_tenths, numbers, prepared, saved
from tests.small_world import make_world

WITHHELD = (
    *("portable", "equivalent", "fve_reference", "fve_variant", "fve_shift", "fve_drop"),
    *("ce_recovered", "ce_recovered_reference", "kl_spliced", "kl_spliced_reference"),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("portability"))


def trained_on(run, sae, samples: int) -> None:
    """Let a checkpoint state a training on the text of the run."""
    stated = {"training_samples": samples, "data": {"text_digest": run.stream.digest}}
    provenance = {"saebench": {**stated, "final": {"fve": 0.25}}}
    sae.cfg = replace(sae.cfg, provenance=provenance)


def record_of(world, samples: int, **options):
    run = prepared(world, SAME, saes=("good",), **options)
    trained_on(run, run.targets[0].checkpoint.sae, samples)
    (record,) = measured(run).values()
    return record


def test_what_was_learnt_by_heart_is_not_portable_or_equivalent(world):
    record = record_of(world, samples=3)
    got = numbers(record)
    reason = got["fve_reference"].reason
    assert reason.startswith("held out 0.25, as its files state; 3 training samples for 32 latents")
    for name in WITHHELD:
        assert got[name].value is got[name].low is got[name].high is None, name
        assert got[name].detail["on_training_samples"]["value"] is not None, name
        assert "3 training samples for 32 latents" in got[name].reason
    for name in ("portable", "equivalent"):
        assert got[name].reason == reason
        assert "verdict" not in got[name].detail
        assert got[name].detail["on_training_samples"]["verdict"]
    assert got["survival"].value == 1
    assert got["ce_variant"].value is not None


def test_the_section_says_why_and_calls_nothing_portable(world):
    record = record_of(world, samples=3)
    found = record.details["portability"]
    assert found["failed"] == numbers(record)["portable"].reason
    assert "equivalence_intervals" not in found
    text = section(record)
    assert text.startswith("**Not measured.**")
    assert "3 training samples for 32 latents" in text
    assert "portable**" not in text
    assert "| not measured |" in overview([record])


def test_enough_samples_leave_every_number(world):
    record = record_of(world, samples=32)
    got = numbers(record)
    assert got["portable"].value == 1
    assert "failed" not in record.details["portability"]
    assert all("on_training_samples" not in one.detail for one in got.values())


@pytest.mark.parametrize(
    ("memory", "gone", "left"),
    [
        ("native", {"fve_native", "transfer_gap"}, {"portable", "fve_variant"}),
        ("checkpoint", {"portable", "fve_variant", "transfer_gap"}, {"fve_native"}),
    ],
)
def test_the_checkpoint_trained_on_the_variant_is_judged_by_its_own_training(
    world, monkeypatch, memory, gone, left
):
    from saebench.measure.portability import variants

    native = saved(nine_tenths(), world.folder / f"native-{memory}")
    run = prepared(world, Variant("same", precision="float32", sae=str(native)), saes=("good",))
    whole = variants.open_checkpoint

    def opened(ref):
        found = whole(ref)
        if memory == "native":
            trained_on(run, found.sae, 3)
        return found

    monkeypatch.setattr(variants, "open_checkpoint", opened)
    if memory == "checkpoint":
        trained_on(run, run.targets[0].checkpoint.sae, 3)
    (record,) = measured(run).values()
    got = numbers(record)
    assert all(got[name].value is None for name in gone)
    assert all(got[name].value is not None for name in left)
    assert ("failed" in record.details["portability"]) == (memory == "checkpoint")


def test_means_over_concepts_are_of_the_same_concepts_under_both():
    names = ("d_max_reference", "d_max", "d_best_reference", "d_best")
    rows = [(3.0, 2.0, 3.0, 1.0), (5.0, 4.0, 9.0, None), (None, 8.0, None, None)]
    table = [
        {"concept": f"c{i}", "n_held_out": 10, **dict(zip(names, row, strict=True))}
        for i, row in enumerate(rows)
    ]
    table.append({"concept": "lost", "reason": "one class only"})
    found = {item.name.removeprefix("port_"): item for item in averages(table).values()}
    assert [found[name].value for name in names] == [4.0, 3.0, 3.0, 1.0]
    assert [found[name].n_sequences for name in names] == [20, 20, 10, 10]
    assert found["d_best"].detail == {"concepts": 1, "left_out": ["c1", "c2", "lost"]}
    none = averages(table[2:])
    assert all(item.value is None and item.reason for item in none.values())
