"""Cross-validated probes in small runs: cases, their arms, and what becomes of texts that do not serve."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

from saebench.config import Config
from saebench.config.schema import DataSpec, ModelSpec, SAESpec
from saebench.errors import ConfigError
from saebench.measure import Run, cv_probing, prepare
from saebench.measure.cases import CasePart
from saebench.measure.cv_probing import CvProbingJob, joined_documents
from saebench.measure.jobs import run_jobs
from saebench.metrics.catalogue.cv_probing import CV_PROBING
from saebench.probing.cv_folds import draw_folds
from saebench.protocols import Concept, CrossValidation
from saebench.record import Record
from saebench.report.cv_probing import section
from saebench.train import save_checkpoint
from tests.small_runs import random_sae
from tests.small_world import LENGTH, SITE, World, make_world
from tests.tiny_models import VOCAB

N = 40
ASKED = CrossValidation(repeats=2, n_permutations=49, ks=(1, 5), n_path=2)
PART = CasePart("cv_probing", cv_probing.identity, CvProbingJob)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("cv"))


def write_texts(
    place: Path, n: int = N, seed: int = 0, documents: int = 0, classes: int = 2
) -> str:
    """Texts whose words come from the lower or, mostly, the upper half of the vocabulary."""
    generator, rows = np.random.default_rng(seed), []
    for row in range(n):
        label = (row * documents // n if documents else row) % classes
        words = generator.integers(2, VOCAB // 2 + 6, generator.integers(3, 15))
        text = " ".join(f"w{word}" for word in words + label * (VOCAB // 2 - 6))
        of = {"document": f"d{row * documents // n}"} if documents else {}
        rows.append(json.dumps({"text": text, "label": "upper" if label else "lower", **of}))
    place.write_text("\n".join(rows) + "\n")
    return str(place)


def prepared(
    world: World, *concepts: Concept, saes=("good", "bad"), batch_size=8, asked=ASKED, **options
) -> Run:
    config = Config(
        model=ModelSpec(str(world.model)),
        data=DataSpec(str(world.data), context_size=LENGTH),
        out=world.folder / "out",
        device="cpu",
        batch_size=batch_size,
        suites=("cv_probing",),
        concepts=concepts,
        cross_validation=asked,
        **options,
    )
    if not isinstance(saes, dict):
        saes = {name: name for name in saes}
    places = {name: str(world.folder / "saes" / folder) for name, folder in saes.items()}
    return prepare(config, [(name, ref, SAESpec(ref)) for name, ref in places.items()])


def measured(run: Run) -> dict[str, Record]:
    job = CvProbingJob(run, PART.cases(run))
    return {record.name: record for record in run_jobs(run, [job])}


def numbers(record: Record) -> dict[str, float | None]:
    return {m.name: m.value for m in record.measurements.values()}


@pytest.fixture(scope="module")
def concept(world) -> Concept:
    return Concept("upper", write_texts(world.folder / "upper.jsonl"))


@pytest.fixture(scope="module")
def records(world, concept) -> dict[str, Record]:
    return measured(prepared(world, concept))


def test_each_checkpoint_has_a_record_on_each_concept(records):
    assert set(records) == {"good/upper", "bad/upper"}
    record = records["good/upper"]
    assert (record.part, record.checkpoint["of"], record.checkpoint["case"]) == (
        "cv_probing",
        "good",
        "upper",
    )
    assert set(numbers(record)) == {item.id for item in CV_PROBING}


def test_all_texts_of_the_data_are_tested_also_those_that_other_suites_hold_out(records):
    found = records["good/upper"].details["cv_probing"]
    assert found["n_texts"] == N
    assert sum(sum(part["classes"].values()) for part in found["data"]) == N
    assert found["held_out"] is None


def test_a_concept_that_is_there_is_found_in_every_arm(records):
    found = numbers(records["good/upper"])
    assert found["cv_auroc_raw"] > 0.7
    assert found["cv_auroc_latents"] > 0.7
    assert found["cv_auroc_reconstruction"] == pytest.approx(found["cv_auroc_raw"], abs=1e-6)
    assert found["cv_p"] == 1 / 50
    assert found["cv_gap"] == pytest.approx(found["cv_auroc_latents"] - found["cv_auroc_raw"])


def naive_auroc(x, labels: np.ndarray) -> float:
    """The mean over repeats of the AUROC of folds of one size, each fitted by a pipeline."""
    folds = draw_folds(labels, None, n_folds=5, n_repeats=2, seed=0)
    dense = isinstance(x, np.ndarray)
    areas = []
    for repeat in range(2):
        for train, test in folds.splits(repeat):
            scaler = StandardScaler() if dense else MaxAbsScaler()
            model = make_pipeline(scaler, LogisticRegression(tol=1e-10, max_iter=100_000))
            fitted = model.fit(x[train].astype(np.float64), labels[train])
            given = fitted.decision_function(x[test].astype(np.float64))
            areas.append(roc_auc_score(labels[test], np.round(given, 6)))
    return float(np.mean(areas))


def test_every_arm_is_the_pipeline_on_its_own_rows(world, concept):
    run = prepared(world, concept)
    found = numbers(measured(run)["bad/upper"])
    (rows,) = run.kept["concept rows"].values()
    splits = [rows.train, rows.held_out]
    labels = np.concatenate([rows.labels(split) for split in splits])
    (stack,) = rows.train.sites
    arms = {
        "raw": np.concatenate([split.sites[stack].x for split in splits]),
        "reconstruction": np.concatenate([split.subjects["bad"].x_hat for split in splits]),
        "latents": sparse.vstack([split.subjects["bad"].latents for split in splits]).tocsr(),
        "other": sparse.vstack([split.subjects["good"].latents for split in splits]).tocsr(),
        "random": sparse.vstack([split.controls["bad"].latents for split in splits]).tocsr(),
    }
    for arm, x in arms.items():
        assert found[f"cv_auroc_{arm}"] == pytest.approx(naive_auroc(x, labels), abs=1e-3), arm


def test_another_sae_is_the_next_one_at_the_site(records):
    good, bad = (records[f"{name}/upper"] for name in ("good", "bad"))
    assert good.details["cv_probing"]["other"] == "bad"
    assert numbers(good)["cv_auroc_other"] == numbers(bad)["cv_auroc_latents"]
    assert numbers(bad)["cv_auroc_other"] == numbers(good)["cv_auroc_latents"]
    assert numbers(good)["cv_auroc_raw"] == numbers(bad)["cv_auroc_raw"]


def test_a_checkpoint_alone_has_no_other_and_all_else(world, concept):
    record = measured(prepared(world, concept, saes=("good",)))["good/upper"]
    lacking = record.get("cv_auroc_other")
    assert lacking.value is None
    assert "no other checkpoint of the run reads this site" in lacking.reason
    assert record.get("cv_over_other").reason == lacking.reason
    assert record.get("cv_auroc_random").value is not None


def test_the_other_sae_can_be_named(world, concept):
    asked = replace(ASKED, other="bad")
    records = measured(prepared(world, concept, asked=asked))
    assert records["good/upper"].get("cv_auroc_other").value is not None
    assert "it is the other SAE itself" in records["bad/upper"].get("cv_auroc_other").reason
    run = prepared(world, concept, asked=replace(ASKED, other="worse"))
    with pytest.raises(ConfigError, match=r"'worse' as the other SAE.*good, bad"):
        CvProbingJob(run, [])


def test_the_size_of_batches_does_not_matter(world, concept, records):
    other = measured(prepared(world, concept, batch_size=3))
    for name, record in records.items():
        found, expected = numbers(other[name]), numbers(record)
        for metric, value in expected.items():
            assert found[metric] == pytest.approx(value, abs=0.02), metric


def test_records_lie_under_the_keys_that_are_looked_for(world, concept, records):
    run = prepared(world, concept)
    assert PART.keys(run) == {name: record.key for name, record in records.items()}


def test_keys_hold_the_protocol_the_texts_and_the_other_checkpoints(world, concept):
    keys = [
        PART.keys(run)["good/upper"]
        for run in (
            prepared(world, concept),
            prepared(world, concept, asked=replace(ASKED, seed=1)),
            prepared(world, concept, saes=("good",)),
            prepared(world, replace(concept, positive="lower")),
        )
    ]
    assert len(set(keys)) == 4


@pytest.fixture(scope="module")
def third(world) -> str:
    """Another checkpoint at the site of the two."""
    sae = random_sae(seed=7)
    sae.cfg = replace(sae.cfg, site=SITE, model="counting")
    save_checkpoint(sae, world.folder / "saes" / "third")
    return "third"


def key_of_good(world, concept, saes, **options) -> str:
    return PART.keys(prepared(world, concept, saes=saes, **options))["good/upper"]


def test_the_key_holds_the_one_other_sae_and_so_the_order_of_checkpoints(world, concept, third):
    keys = {
        key_of_good(world, concept, saes)
        for saes in (("good", "bad", third), ("good", third, "bad"), ("good",))
    }
    assert len(keys) == 3


def test_a_checkpoint_that_is_not_the_other_changes_no_key(world, concept, third):
    key = key_of_good(world, concept, ("good", "bad", third))
    assert key_of_good(world, concept, ("good", "bad")) == key
    assert key_of_good(world, concept, {"good": "good", "b": "bad", "c": "third"}) == key
    named = {"asked": replace(ASKED, other="bad")}
    assert key_of_good(world, concept, ("good", third, "bad"), **named) == key
    renamed = {"asked": replace(ASKED, other="b")}
    assert key_of_good(world, concept, {"good": "good", "b": "bad"}, **renamed) == key


def test_names_of_one_site_are_one_site_in_keys_as_in_passes(world, concept, third):
    sae = random_sae(seed=8)
    sae.cfg = replace(sae.cfg, site="hidden_states[2]", model="counting")
    save_checkpoint(sae, world.folder / "saes" / "alias")
    run = prepared(world, concept, saes=("good", "alias"))
    assert len({run.subject(target).reads for target in run.targets}) == 1
    other, reason = cv_probing.other_of(run, run.targets[0])
    assert (other.name, reason) == ("alias", "")


def test_a_case_alone_is_set_beside_another_in_the_dtype_of_the_run(world, concept):
    options = {"sae_dtype": "bfloat16"}
    together = measured(prepared(world, concept, **options))["bad/upper"]
    run = prepared(world, concept, **options)
    job = CvProbingJob(run, [case for case in PART.cases(run) if case.name == "bad/upper"])
    (alone,) = run_jobs(run, [job])
    assert {target.checkpoint.sae.dtype for target in run.targets} == {torch.bfloat16}
    assert numbers(alone) == numbers(together)


def test_texts_of_one_class_give_a_reason_and_other_concepts_are_measured(world, concept):
    path = write_texts(world.folder / "one.jsonl", classes=1)
    run = prepared(world, Concept("one", path), concept)
    records = measured(run)
    assert numbers(records["good/upper"])["cv_auroc_raw"] > 0.7
    lacking = records["good/one"]
    assert all(m.value is None for m in lacking.measurements.values())
    assert "class" in lacking.get("cv_p").reason
    assert lacking.key == PART.keys(run)["good/one"]
    assert "Not measured" in section(lacking)


def test_fewer_texts_than_folds_give_the_number_that_fits(world):
    path = write_texts(world.folder / "few.jsonl", n=8)
    record = measured(prepared(world, Concept("few", path), saes=("good",)))["good/few"]
    assert "Set folds = 4" in record.get("cv_auroc_raw").reason


def test_documents_are_kept_whole_and_shuffled_whole(world):
    path = write_texts(world.folder / "documents.jsonl", documents=20)
    record = measured(prepared(world, Concept("upper", path), saes=("good",)))["good/upper"]
    found = record.details["cv_probing"]
    assert (found["n_units"], found["unit"]) == (20, "documents")
    assert found["shuffling"].startswith("between documents")
    assert "20 documents" in record.get("cv_auroc_latents").interval


def test_held_out_texts_of_their_own_are_judged_apart(world, concept):
    other = write_texts(world.folder / "held.jsonl", n=30, seed=5)
    record = measured(prepared(world, replace(concept, held_out=other), saes=("good",)))
    found = record["good/upper"].details["cv_probing"]
    assert found["n_texts"] == N
    assert sum(found["held_out"]["classes"].values()) == 30
    assert found["arms"]["raw"]["transfer"]["auroc"] > 0.7
    assert "judged on the held-out ones" in section(record["good/upper"])


def test_documents_of_two_splits_are_numbered_apart():
    numbers = [np.array([4, 4, 9]), np.array([4, 1])]
    assert joined_documents(numbers, [3, 2]).tolist() == [0, 0, 1, 3, 2]
    assert joined_documents([None, np.array([7, 7])], [2, 2]).tolist() == [0, 1, 2, 2]
    assert joined_documents([None, None], [2, 2]) is None


def test_the_section_of_a_real_record_holds_its_tables(records):
    text = section(records["good/upper"])
    assert "| Probe on | Balanced accuracy | AUROC |" in text
    assert "| Another SAE, `bad` |" in text
    assert "| This SAE, shuffled labels |" in text
    assert "p of the AUROC from 49 shuffles between texts" in text
    assert "<details><summary>Probes with an L1 penalty" in text
