"""Concept statistics in small runs: what is found, what is not there, and texts that do not serve."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from saebench.config import Config
from saebench.config.schema import DataSpec, ModelSpec, SAESpec
from saebench.errors import DataError
from saebench.measure import Run, prepare
from saebench.measure import run as run_module
from saebench.measure.cases import CasePart
from saebench.measure.concepts import job
from saebench.measure.concepts.job import ConceptsJob
from saebench.measure.concepts.rows import rows_of
from saebench.measure.jobs import run_jobs
from saebench.metrics.catalogue.concepts import CONCEPTS
from saebench.protocols import Concept, ConceptsProtocol
from saebench.record import Record
from saebench.report.concepts import section
from tests.concepts.matrices import naive_d
from tests.small_world import LENGTH, World, make_world
from tests.tiny_models import VOCAB

N = 80
ASKED = ConceptsProtocol(n_permutations=99, n_resamples=20, top_k=4, n_examples=2)
PART = CasePart("concepts", job.identity, ConceptsJob)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("concepts"))


def write_texts(
    place: Path,
    n: int = N,
    seed: int = 0,
    gap: int = VOCAB // 2,
    documents: int = 0,
    positive: int = 2,
) -> str:
    """Random words; those of every ``positive``-th text lie ``gap`` further on in the vocabulary."""
    generator, rows = np.random.default_rng(seed), []
    for row in range(n):
        of = row * documents // n if documents else row
        label = of % positive == 1
        words = generator.integers(2, VOCAB - 2 - gap, generator.integers(3, 12)) + label * gap
        text = " ".join(f"w{word}" for word in words)
        document = {"document": f"d{of}"} if documents else {}
        rows.append({"text": text, "label": "upper" if label else "lower", **document})
    place.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(place)


def prepared(
    world: World, *wanted: Concept, saes=("good", "bad"), batch_size=8, asked=ASKED
) -> Run:
    config = Config(
        model=ModelSpec(str(world.model)),
        data=DataSpec(str(world.data), context_size=LENGTH),
        out=world.folder / "out",
        device="cpu",
        batch_size=batch_size,
        suites=("concepts",),
        concepts=wanted,
        concept_statistics=asked,
    )
    places = {name: str(world.folder / "saes" / name) for name in saes}
    return prepare(config, [(name, ref, SAESpec(ref)) for name, ref in places.items()])


def measured(run: Run) -> dict[str, Record]:
    job = ConceptsJob(run, PART.cases(run))
    return {record.name: record for record in run_jobs(run, [job])}


def numbers(record: Record) -> dict[str, float | None]:
    return {m.name.removeprefix("concept_"): m.value for m in record.measurements.values()}


@pytest.fixture(scope="module")
def concept(world) -> Concept:
    data = write_texts(world.folder / "upper.jsonl")
    return Concept("upper", data, control=write_texts(world.folder / "c.jsonl", seed=9, gap=0))


@pytest.fixture(scope="module")
def run(world, concept) -> Run:
    return prepared(world, concept)


@pytest.fixture(scope="module")
def records(run) -> dict[str, Record]:
    return measured(run)


def test_each_checkpoint_has_every_metric_of_each_concept(records):
    assert set(records) == {"good/upper", "bad/upper"}
    for record in records.values():
        assert record.part == "concepts"
        assert set(record.measurements) == {item.metric for item in CONCEPTS}
        assert all(m.value is not None for m in record.measurements.values()), numbers(record)
        assert json.loads(json.dumps(record.to_json(), allow_nan=False))


def test_what_is_found_is_what_a_loop_over_latents_finds(run, records):
    rows = rows_of(run, "upper", None)
    for name in ("good", "bad"):
        x = rows.train.subjects[name].latents.toarray()
        labels = rows.train.text.labels == 1
        d = np.where((x != 0).sum(0) >= 5, naive_d(x, labels), 0)
        found = numbers(records[f"{name}/upper"])
        assert found["d_max"] == pytest.approx(np.abs(d).max(), rel=1e-5)
        assert found["n_over_1"] == (np.abs(d) > 1).sum()
        best = int(np.abs(d).argmax())
        held = rows.held_out.subjects[name].latents.toarray()[:, [best]]
        expected = naive_d(held, rows.held_out.text.labels == 1)[0] * np.sign(d[best])
        assert found["d_held_out"] == pytest.approx(expected, rel=1e-5)


def test_words_that_differ_are_found_on_the_behaviour_and_not_on_controls(records):
    found = numbers(records["good/upper"])
    assert found["d_max_p"] == found["d_max_held_out_p"] == 1 / 100
    assert found["d_max_control_p"] > 0.02
    assert found["d_held_out"] > 0.8
    assert found["d_max"] > found["d_max_null"]
    held = records["good/upper"].get("concept_behaviour_minus_control")
    assert held.low > 0
    assert found["d_held_out_mean_difference"] > found["d_held_out"] - 1


def test_checkpoints_at_one_site_share_the_baselines(records):
    one, other = (numbers(record) for record in records.values())
    for name in ("d_max_activations", "d_held_out_mean_difference"):
        assert one[name] == other[name]
    assert one["d_max"] != other["d_max"]


def test_examples_are_texts_of_their_class_with_the_token_that_peaks(run, records):
    rows, record = rows_of(run, "upper", None), records["bad/upper"]
    found = record.details["concepts"]
    assert found["examples_of"] == "held_out"
    assert len(found["top"]) == 4
    split = rows.held_out
    codes = split.peaks["bad"].values.toarray()
    ids = {
        int(number): row
        for batch in split.text.stream.batches(8)
        for number, row in zip(batch.sequence_ids, batch.ids, strict=True)
    }
    shown = 0
    for row in found["top"]:
        for name, some in row["examples"].items():
            of_class = split.text.labels == split.text.classes.index(name)
            for one in some:
                shown += 1
                assert of_class[one["text"]]
                assert one["code"] == pytest.approx(codes[one["text"], row["latent"]])
                token = int(ids[one["text"]][one["position"]])
                assert one["token"].strip() == f"w{token}"
            firing = codes[of_class, row["latent"]]
            if some:
                assert some[0]["code"] == pytest.approx(firing[firing != 0].max())
    assert shown > 4


def test_the_size_of_batches_does_not_matter(world, concept, records):
    other = measured(prepared(world, concept, batch_size=3))
    for name, record in records.items():
        for metric, value in numbers(record).items():
            assert numbers(other[name])[metric] == pytest.approx(value, rel=1e-3), metric


def test_records_lie_under_the_keys_that_are_looked_for(world, concept, records):
    fresh = prepared(world, concept)
    assert PART.keys(fresh) == {name: record.key for name, record in records.items()}
    other = prepared(world, concept, asked=replace(ASKED, n_permutations=50))
    assert PART.keys(other)["good/upper"] != records["good/upper"].key


def test_without_held_out_and_control_texts_the_rest_is_measured(world):
    data = write_texts(world.folder / "alone.jsonl")
    asked = replace(ASKED, held_out=0.0)
    record = measured(prepared(world, Concept("alone", data), saes=("good",), asked=asked))[
        "good/alone"
    ]
    found = numbers(record)
    assert found["d_max"] is not None
    lacking = {name for name, value in found.items() if value is None}
    assert {"d_held_out", "d_control", "behaviour_minus_control"} <= lacking
    assert found["top_k_overlap"] is not None
    assert "set held_out in [concepts]" in record.get("concept_d_held_out").reason
    assert "control = in [[concept]]" in record.get("concept_d_control").reason
    assert record.details["concepts"]["examples_of"] == "train"


def test_texts_of_one_class_give_a_reason_and_other_concepts_are_measured(world, concept):
    path = write_texts(world.folder / "one.jsonl", positive=10_000)
    fresh = prepared(world, Concept("one", path), concept, saes=("good",))
    found = measured(fresh)
    assert numbers(found["good/upper"])["d_max"] is not None
    lacking = found["good/one"]
    assert all(m.value is None for m in lacking.measurements.values())
    assert "class" in lacking.get("concept_d_max").reason
    assert lacking.key == PART.keys(fresh)["good/one"]
    assert "Not measured" in section(lacking)


def test_a_class_of_a_single_text_gives_a_reason(world):
    path = write_texts(world.folder / "single.jsonl", n=12, positive=11)
    asked = replace(ASKED, held_out=0.0)
    record = measured(prepared(world, Concept("single", path), saes=("good",), asked=asked))
    reason = record["good/single"].get("concept_d_max").reason
    assert "11 of 'lower' and 1 of 'upper'" in reason


def test_latents_that_never_fire_often_enough_give_a_reason(world, concept):
    asked = replace(ASKED, min_firings=1000)
    record = measured(prepared(world, concept, saes=("good",), asked=asked))["good/upper"]
    assert "lower min_firings" in record.get("concept_d_max").reason


def spoiled(monkeypatch, spoil) -> None:
    """Let ``spoil`` at the training rows before anything is made of them."""

    def rows(*args):
        found = rows_of(*args)
        spoil(found.train)
        return found

    monkeypatch.setattr(job, "rows_of", rows)


def test_codes_that_are_not_finite_name_the_remedy_and_spare_the_other_checkpoint(
    world, concept, monkeypatch
):
    def spoil(train):
        assert train.subjects["good"].latents.nnz  # which puts the batches together
        train.subjects["good"]._codes[0].data[0] = np.inf

    spoiled(monkeypatch, spoil)
    found = measured(prepared(world, concept))
    assert "float16 ends at 65,504" in found["good/upper"].get("concept_d_max").reason
    assert numbers(found["bad/upper"])["d_max"] is not None


def test_activations_that_are_not_finite_cost_their_own_numbers_alone(world, concept, monkeypatch):
    def spoil(train):
        (site,) = train.sites.values()
        site._x[2, 3] = np.nan

    spoiled(monkeypatch, spoil)
    record = measured(prepared(world, concept, saes=("good",)))["good/upper"]
    assert "float16" in record.get("concept_d_max_activations").reason
    assert "float16" in record.get("concept_d_held_out_mean_difference").reason
    assert numbers(record)["d_max"] is not None
    assert "Activations: finite values" in section(record)


def test_held_out_texts_with_a_class_of_one_cost_what_needs_them(world, concept):
    held = write_texts(world.folder / "held.jsonl", n=8, seed=4, positive=7)
    record = measured(prepared(world, replace(concept, held_out=held), saes=("good",)))
    found = record["good/upper"]
    assert "1 of 'upper'" in found.get("concept_d_held_out").reason
    assert "1 of 'upper'" in found.get("concept_behaviour_minus_control").reason
    assert found.get("concept_d_control").value is not None


def test_documents_trade_labels_whole(world):
    path = write_texts(world.folder / "documents.jsonl", documents=24)
    record = measured(prepared(world, Concept("upper", path), saes=("good",)))["good/upper"]
    side = record.details["concepts"]["latents"]["splits"]["train"]
    assert (side["exchanged"], side["n_units"], side["unit"]) == ("documents", 12, "documents")
    assert side["exact"]
    found = record.get("concept_d_held_out")  # too few documents for an interval
    assert found.interval == ""
    assert "documents" in str(found.reason)


def test_the_section_of_a_real_record_holds_its_tables(records):
    text = section(records["good/upper"])
    assert "| Texts | n | Latents | Largest \\|d\\| |" in text
    for start in ("| Training |", "| Held out |", "| Control |", "| Difference of mean x |"):
        assert start in text
    assert "Stability: in 20 random splits" in text
    assert "Top examples of each class among the held out texts" in text
    assert "<b>w" in text


def test_controls_that_do_not_serve_cost_the_control_alone(world):
    data = write_texts(world.folder / "rest.jsonl")
    alone = write_texts(world.folder / "one_class.jsonl", n=20, positive=1)
    record = measured(prepared(world, Concept("kept", data, control=alone), saes=("good",)))
    found = record["good/kept"]
    assert found.get("concept_d_max").value is not None
    assert found.get("concept_d_control").value is None
    assert "every labelled text is of class 'lower'" in str(found.get("concept_d_control").reason)


def test_a_bad_file_is_read_once_in_a_run(world, monkeypatch):
    run = prepared(world, Concept("gone", str(world.folder / "gone.jsonl")))
    opened = []
    whole = run_module.open_concept
    monkeypatch.setattr(
        run_module, "open_concept", lambda *a, **k: opened.append(a) or whole(*a, **k)
    )
    for _ in range(3):
        with pytest.raises(DataError):
            run.concept("gone")
    assert len(opened) == 1
