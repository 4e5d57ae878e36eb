"""What probes of a run resample, what their tasks share, when they have converged, what is kept of them."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pytest

from saebench.data import stream_from_ids
from saebench.data.labelled import LabelledText
from saebench.evals.pooling import PooledSubject
from saebench.measure import probing as job
from saebench.measure.probing import identity, shared_test_texts, tasks_of
from saebench.probing import arms
from saebench.protocols import Task
from saebench.record import Record
from tests.probe_runs import N_TEST, measured, prepared, write_task
from tests.small_world import World, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def task(world: World) -> Task:
    return write_task(world.folder, "halves")


@pytest.fixture(scope="module")
def records(world: World, task: Task) -> dict[str, Record]:
    return measured(prepared(world, task))


def test_documents_are_resampled_where_the_files_name_them(world, records):
    one = write_task(world.folder, "documents", documents=5)
    found = measured(prepared(world, one))
    for record in found.values():
        assert "over 5 test documents," in record.get("probe_accuracy_baseline").interval
        assert record.policy["resampling"] == "5 test documents"
        table = record.details["probing"]["tasks"]["documents"]
        assert table["resampling"] == "5 test documents"
        assert table["data"]["test"]["n_documents"] == 5
    assert f"over {N_TEST} test texts," in records["good"].get("probe_accuracy_gap").interval
    assert records["good"].policy["resampling"] == f"{N_TEST} test texts"


def test_the_interval_over_documents_is_that_of_a_loop_over_them(world):
    """All checkpoints and arms meet the same draws of whole documents."""
    run = prepared(world, write_task(world.folder, "documents", documents=5))
    _, test = tasks_of(run)["documents"]
    seen = []
    scored = arms.TaskLabels.scored

    def spy(self, predictions):
        seen.append((self, predictions))
        return scored(self, predictions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arms.TaskLabels, "scored", spy)
        measured(run)
    assert len({id(labels) for labels, _ in seen}) == 1
    labels, predictions = seen[1]
    right = predictions == test.labels
    by_document = [right[test.documents == i] for i in range(5)]
    drawn = labels.resamples._counts
    expected = [
        np.concatenate([np.tile(by_document[i], n) for i, n in enumerate(row)]).mean()
        for row in drawn[:50]
    ]
    np.testing.assert_allclose(scored(labels, predictions).samples["accuracy"][:50], expected)


def test_tasks_that_share_test_texts_are_named_with_how_many(world, task):
    other = write_task(world.folder, "others", seed=1)
    lines = [Path(one.test).read_text().splitlines() for one in (task, other)]
    mixed = world.folder / "mixed.jsonl"
    mixed.write_text("\n".join(lines[1][:7] + lines[0][-3:]) + "\n")
    third = Task("mixed", task.train, str(mixed))
    run = prepared(world, task, other, third)
    texts = [
        {tuple(ids[mask].tolist()) for b in one.stream.batches(1) for ids, mask in pairs(b)}
        for _, one in tasks_of(run).values()
    ]
    names = ("halves", "others", "mixed")
    expected = [
        {"tasks": [names[i], names[j]], "n_texts": len(texts[i] & texts[j])}
        for i, j in ((0, 1), (0, 2), (1, 2))
        if texts[i] & texts[j]
    ]
    found = shared_test_texts(tasks_of(run))
    assert found == expected
    assert [item["n_texts"] for item in found if "mixed" in item["tasks"]] == [3, 7]
    details = measured(run)["good"].details["probing"]
    assert details["shared_test_texts"] == expected


def pairs(batch):
    return zip(batch.ids, batch.attention_mask, strict=True)


def test_a_text_is_the_same_one_whatever_it_is_padded_to():
    def task(*rows):
        stream = stream_from_ids([list(row) for row in rows])
        text = LabelledText("", stream, np.zeros(len(rows), int), ("a",), 0, "")
        return text, text

    tasks = {
        "a": task((1, 2), (1, 2, 3, 4)),
        "b": task((1, 2), (1, 2, 3)),
        "c": task(
            (1, 2, 0, 0),
        ),
    }
    assert shared_test_texts(tasks) == [{"tasks": ["a", "b"], "n_texts": 1}]


def test_tasks_apart_share_nothing(records):
    assert records["good"].details["probing"]["shared_test_texts"] == []


def test_definitions_say_that_tasks_are_drawn_apart(records):
    for name in ("probe_accuracy_latents", "probe_f1_gap", "probe_f1_majority"):
        text = records["good"].definitions[f"{name}@1"]["interval"]
        assert "as if independent, also where they share texts" in text
        assert "over test documents" in text


def test_records_say_what_counts_as_converged(world, task, records):
    assert records["good"].details["probing"]["protocol"]["tolerance"] == 1e-6
    assert identity(prepared(world, task))["probing"]["protocol"]["tolerance"] == 1e-6
    published = identity(prepared(world, task, classifier="one_epoch"))
    assert "tolerance" not in published["probing"]["protocol"]


def test_pooled_rows_of_a_checkpoint_go_once_it_has_been_probed(world, task, monkeypatch):
    made: list[weakref.ref] = []

    class Watched(PooledSubject):
        def __init__(self, *given, **options):
            super().__init__(*given, **options)
            made.append(weakref.ref(self))

    monkeypatch.setattr(job, "PooledSubject", Watched)
    run = prepared(world, task)
    left = []
    made_of = job.TaskProbes
    monkeypatch.setattr(
        job, "TaskProbes", lambda *given: left.append(alive(made)) or made_of(*given)
    )
    measured(run)
    assert left == [2, 0]  # of two checkpoints on two sides


def alive(made: list[weakref.ref]) -> int:
    return sum(one() is not None for one in made)
