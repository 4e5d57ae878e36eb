"""Probes of checkpoints in a run: two passes per task, one baseline per site, numbers of plain loops."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from saebench.config import Config
from saebench.config.schema import DataSpec, ModelSpec, SAESpec
from saebench.errors import ConfigError
from saebench.measure import Run, prepare
from saebench.measure.probing import identity, tasks_of
from saebench.probing import arms, fit_and_score
from saebench.protocols import ProbingProtocol, Task
from saebench.record import Record
from saebench.train import save_checkpoint
from tests import kinds
from tests.kind_runs import DATA, SHIPPED
from tests.probe_runs import N_TEST, N_TRAIN, measured, prepared, write_task
from tests.small_runs import random_sae
from tests.small_world import LENGTH, World, _placed, make_world
from tests.tiny_models import WIDTH

LABELLED = SHIPPED / "labelled"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    found = make_world(tmp_path_factory.mktemp("world"))
    dead = random_sae()
    with torch.no_grad():
        dead.b_enc.fill_(-1000)
    save_checkpoint(_placed(dead), found.folder / "saes" / "dead")
    return found


@pytest.fixture(scope="module")
def task(world: World) -> Task:
    return write_task(world.folder, "halves")


@pytest.fixture(scope="module")
def run(world: World, task: Task) -> Run:
    return prepared(world, task)


@pytest.fixture(scope="module")
def records(run: Run) -> dict[str, Record]:
    return measured(run)


def naive_arms(run: Run, name: str, pool) -> dict[str, list[np.ndarray]]:
    """The oracle: text after text, each alone, dense."""
    subject = run.subject(next(target for target in run.targets if target.name == name))
    model, (reading,) = run.models[0], subject.reads
    rows: dict[str, list[np.ndarray]] = {"baseline": [], "latents": [], "reconstruction": []}
    for part in tasks_of(run)["halves"]:
        found: dict[str, list] = {arm: [] for arm in rows}
        for batch in part.stream.batches(1):
            x = model.prefix(batch.ids, None, [reading.site]).at(reading.site)[batch.counted]
            found["baseline"].append(pool(x))
            found["latents"].append(pool(subject.sae.encode(x)))
            found["reconstruction"].append(pool(subject.sae(x)))
        for arm, values in found.items():
            rows[arm].append(torch.stack(values).numpy())
    return rows


POOLS = {"mean": lambda x: x.mean(0), "last": lambda x: x[-1], "max": lambda x: x.amax(0)}


@pytest.mark.parametrize("pooling", POOLS)
def test_scores_are_those_of_texts_read_one_by_one(world, task, pooling):
    run = prepared(world, task, pooling=pooling)
    train, test = (part.labels for part in tasks_of(run)["halves"])
    assert (len(train), len(test)) == (N_TRAIN, N_TEST)
    for name, record in measured(run).items():
        for arm, rows in naive_arms(run, name, POOLS[pooling]).items():
            rows = [sparse.csr_array(part) for part in rows] if arm == "latents" else rows
            expected = fit_and_score(rows[0], train, rows[1], test, "logistic", 42)
            # a text on the boundary may go either way with the last digit
            value = record.get(f"probe_accuracy_{arm}").value
            assert value == pytest.approx(expected.accuracy, abs=1 / N_TEST)
            found = record.details["probing"]["tasks"]["halves"]["arms"][arm]
            assert found["accuracy"] == value
            assert found["n_features"] == rows[0].shape[1]
            norm = found["coefficient_norm"]
            assert norm == pytest.approx(expected.coefficient_norm, rel=1e-3)


def test_probes_read_what_the_words_say(records):
    good = records["good"]
    assert good.get("probe_accuracy_baseline").value > 0.8
    assert good.get("probe_accuracy_reconstruction").value > 0.8  # it gives back what it reads
    assert good.get("probes_collapsed").value == 0
    assert good.part == "probing"


@pytest.mark.parametrize("batch_size", [1, 7, 200])
def test_the_batch_size_does_not_matter(world, task, records, batch_size):
    for name, record in measured(prepared(world, task, batch_size=batch_size)).items():
        for metric, one in record.measurements.items():
            assert one.value == pytest.approx(records[name].measurements[metric].value, abs=0.026)


def test_each_side_of_a_task_is_one_pass_that_stops_at_the_site(run, records):
    batches = -(-N_TRAIN // 8) + -(-N_TEST // 8)
    assert dict(records["good"].passes) == {"prefix": batches}


def test_checkpoints_at_a_site_share_one_baseline(world, task, monkeypatch):
    fits = []
    monkeypatch.setattr(
        arms, "fit_and_score", lambda *given: fits.append(given[0].shape) or fit_and_score(*given)
    )
    found = measured(prepared(world, task))
    assert len(fits) == 2 * (1 + 2 * 2)  # each arm once, and once more to shuffled labels
    base = [
        record.details["probing"]["tasks"]["halves"]["arms"]["baseline"]
        for record in found.values()
    ]
    assert base[0] == base[1]


def test_details_say_what_was_read(run, records):
    found = records["bad"].details["probing"]
    json.dumps(records["bad"].to_json(), allow_nan=False)
    assert found["protocol"]["length"] == LENGTH
    assert found["features"]["latents"] == "24 codes"
    table = found["tasks"]["halves"]
    assert table["classes"] == ["0", "1"]
    assert table["n_empty"] == {"train": 0, "test": 0}
    sides = tasks_of(run)["halves"]
    assert table["data"]["train"]["digest"] == sides[0].digest
    n_tokens = sides[1].stream.tally().n_counted
    assert records["bad"].get("probe_f1_gap").n_tokens == n_tokens


def test_several_tasks_are_averaged(world, task, records):
    other = write_task(world.folder, "others", seed=1)
    found = measured(prepared(world, task, other))["bad"].get("probe_accuracy_latents")
    assert set(found.detail["by_task"]) == {"halves", "others"}
    assert found.value == pytest.approx(np.mean(list(found.detail["by_task"].values())))
    alone = records["bad"].get("probe_accuracy_latents").value
    assert found.detail["by_task"]["halves"] == alone


def test_a_checkpoint_without_a_live_latent_has_no_latent_probe_and_says_why(world, task):
    record = measured(prepared(world, task, saes=("dead",)))["dead"]
    for name in ("probe_accuracy_latents", "probe_f1_gap"):
        assert record.get(name).value is None
        assert "no latent fires" in record.get(name).reason
    assert record.get("probe_accuracy_baseline").value > 0.8
    majority = record.get("probe_accuracy_majority").value
    assert record.get("probe_accuracy_reconstruction").value == majority
    assert record.get("probes_collapsed").detail["probes"] == ["halves/reconstruction"]


def test_the_published_protocol_runs_on_pooled_features(world, task):
    found = measured(prepared(world, task, classifier="one_epoch"))["good"]
    arm = found.details["probing"]["tasks"]["halves"]["arms"]["latents"]
    assert arm["converged"] is None
    assert arm["n_iterations"] == N_TRAIN / 4


def test_a_run_without_a_task_is_told_to_name_one(world):
    with pytest.raises(ConfigError, match="tasks to train probes on") as caught:
        identity(prepared(world))
    assert "--task" in caught.value.next_step


def test_records_depend_on_every_label_and_on_how_probes_are_trained(world, task):
    found = [identity(prepared(world, task))]
    found.append(identity(prepared(world, task, pooling="max")))
    found.append(identity(prepared(world, task, max_train=20)))
    found.append(identity(prepared(world, write_task(world.folder, "halves2", seed=2))))
    path = Path(write_task(world.folder, "flipped").train)
    first, rest = path.read_text().split("\n", 1)
    row = json.loads(first)
    path.write_text(json.dumps({**row, "label": 1 - row["label"]}) + "\n" + rest)
    flipped = Task("halves", str(path), task.test)
    found.append(identity(prepared(world, flipped)))
    texts = [json.dumps(item, sort_keys=True) for item in found]
    assert len(set(texts)) == len(texts)
    assert identity(prepared(world, task)) == found[0]


# --- the shipped model, and kinds that read or write something else ----------------------------------


def shipped(out: Path, saes: dict[str, str], **options) -> Run:
    files = (str(LABELLED / "code" / f"{part}.jsonl") for part in ("train", "test"))
    config = Config(
        model=ModelSpec(str(SHIPPED / "model")),
        data=DataSpec(str(DATA), context_size=32, n_sequences=4),
        out=out,
        device="cpu",
        probing=ProbingProtocol(
            tasks=(Task("code", *files),), max_train=96, max_test=48, length=48
        ),
    )
    return prepare(config, [(name, ref, SAESpec(ref, **options)) for name, ref in saes.items()])


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    return tmp_path_factory.mktemp("out")


def test_latents_of_the_shipped_model_tell_code_from_prose(out):
    names = ("topk-s0", "batchtopk-s1")
    found = measured(shipped(out, {name: str(SHIPPED / "saes" / name) for name in names}))
    for record in found.values():
        for arm in ("baseline", "latents", "reconstruction"):
            one = record.get(f"probe_accuracy_{arm}")
            assert one.low > 0.6, arm
        assert record.get("probes_collapsed").value == 0


def test_a_transcoder_is_probed_on_what_it_reads_and_on_what_it_writes(out, tmp_path):
    path = kinds.write("transcoder", tmp_path)
    record = measured(shipped(out, {"t": str(path)}))["t"]
    features = record.details["probing"]["features"]
    assert features["baseline"] == "x at blocks.1.mlp.hook_in"
    assert features["reconstruction"] == "x̂ for blocks.1.hook_mlp_out"
    assert record.get("probe_accuracy_reconstruction").value > 0.5


def test_readings_of_a_crosscoder_are_side_by_side(out, tmp_path):
    path = kinds.write("layer-crosscoder", tmp_path)
    settings = {"sources": "layers", "sites": kinds.PAIR}
    record = measured(shipped(out, {"c": str(path)}, settings=settings))["c"]
    table = record.details["probing"]["tasks"]["code"]["arms"]
    assert table["baseline"]["n_features"] == table["reconstruction"]["n_features"] == 2 * kinds.D
    assert table["latents"]["n_features"] == kinds.F
    first, second = kinds.PAIR.split(",")
    assert record.details["probing"]["features"]["baseline"] == f"x at {first} | {second}"


def test_the_tiny_world_is_as_wide_as_the_baseline(records):
    table = records["good"].details["probing"]["tasks"]["halves"]["arms"]
    assert table["baseline"]["n_features"] == WIDTH
