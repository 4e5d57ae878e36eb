"""Runs of the causal suite: two models, one model, a difference, and what cannot be ablated."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from saebench import cli
from saebench.measure.causal import ablations
from saebench.metrics.catalogue import CAUSAL
from saebench.record import Record
from saebench.report.causal import section
from saebench.report.causal_table import csv_text
from tests.kind_runs import FAILED, OK, USAGE, Runs, opened, refuse_models, strict_json
from tests.kinds import F

GATE = "--gate=causal_effect_over_random >= 0"
QUICK = {"n_probes": 10, "min_probes": 6, "max_latents": 30, "n_controls": 5, "n_resamples": 40}
ZERO, SAME = 5, 60  # latents without a base row, and as many that are alike in both models


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with opened(tmp_path_factory.mktemp("causal")) as found:
        yield found


def protocol(**changed: int) -> list[str]:
    return [f"--protocol=causal.{name}={value}" for name, value in {**QUICK, **changed}.items()]


def part(runs: Runs, name: str, out: str, *more: str, code: int = OK) -> Record:
    """The causal record of a run of a kind; each output folder is run once."""
    folder = runs.root / "out" / out
    if not folder.exists():
        options = ("--suite=causal", GATE, *protocol(), *more)
        assert runs.command(name, *options, out=out) == code
    found = [strict_json(path) for path in (folder / "records").glob("*.json")]
    return Record.from_json(next(one for one in found if one["part"] == "causal"))


def alike(runs: Runs) -> Any:
    """A crosscoder whose rows are the same in both models, but for some that one model lacks."""
    path = runs.path("model-crosscoder").parent / "alike"
    if not path.exists():
        path.mkdir()
        source = runs.path("model-crosscoder")
        w = load_file(source / "crosscoder_final.safetensors")
        w["W_dec"][:, 1] = w["W_dec"][:, 0]
        w["W_dec"][:ZERO, 0] = 0
        save_file(w, path / "crosscoder_final.safetensors")
        config = json.loads((source / "cfg.json").read_text())
        config |= {"norm_scale_A": 0.17, "norm_scale_B": 0.17}
        (path / "cfg.json").write_text(json.dumps(config))
    return path


def run_alike(runs: Runs, out: str, models: tuple[int, int], *more: str) -> Record:
    folder = runs.root / "out" / out
    options = runs.options("model-crosscoder", folder)
    rest = [option for option in options if not option.startswith("--model=")]
    given = [f"--model={runs.models[i]}" for i in models]
    done = cli.main(
        ["run", str(alike(runs)), *rest, *given, "--suite=causal", GATE, *protocol(), *more]
    )
    assert done == OK
    found = [strict_json(path) for path in (folder / "records").glob("*.json")]
    return Record.from_json(next(one for one in found if one["part"] == "causal"))


def test_identical_models_are_exactly_equivalent_where_the_shift_varies(runs):
    record = run_alike(runs, "identical", (0, 0))
    columns = record.details["causal"]["latents"]
    shared = [i for i, name in enumerate(columns["class"]) if name == "shared"]
    assert len(shared) == QUICK["max_latents"]
    for i in shared:
        for name in ("pearson", "spearman", "log", "partial_log", "reverse_pearson", "cosine"):
            assert columns[name][i] == 1, (i, name)
        assert (columns["pearson_low"][i], columns["pearson_high"][i]) == (1, 1)
        assert columns["random_pearson"][i] == 1
        assert columns["effect_base"][i] == columns["effect_chat"][i] > 0
        assert columns["logit_cosine"][i] == pytest.approx(1, abs=1e-5)
    assert record.get("causal_equivalence").value == 1
    assert record.get("causal_over_random").value == 0
    assert "give as much, within ±0.05" in section(record)


def test_a_row_of_zero_in_one_model_is_undefined_and_not_zero(runs):
    record = run_alike(runs, "zero-rows", (0, 1))
    columns = record.details["causal"]["latents"]
    chat_only = [i for i, name in enumerate(columns["class"]) if name == "chat_only"]
    assert 0 < len(chat_only) <= ZERO
    for i in chat_only:
        assert columns["latent"][i] < ZERO
        assert columns["pearson"][i] is columns["partial_log"][i] is columns["cosine"][i] is None
        assert columns["reason"][i] == "base decoder row is 0: no shift"
        assert columns["effect_base"][i] == 0 < columns["effect_chat"][i]
    assert record.get("causal_equivalence_chat_only").value is None
    assert "Undefined, not 0" in section(record)


def test_every_metric_has_a_value_or_a_reason_and_counts_add_up(runs):
    record = part(runs, "model-crosscoder", "pair")
    assert set(record.measurements) == {item.metric for item in CAUSAL}
    assert all(m.value is not None or m.reason for m in record.measurements.values())
    found = record.details["causal"]
    assert sum(row["n"] for row in found["selection"]) == F
    tested = sum(row["n_tested"] for row in found["selection"])
    assert tested == len(found["latents"]["latent"]) == len(set(found["latents"]["latent"]))
    assert sum(found["latents"]["n_probes"]) == found["n_probes"]
    assert max(found["latents"]["n_probes"]) <= QUICK["n_probes"]
    assert min(found["latents"]["n_probes"]) >= QUICK["min_probes"]


def test_the_csv_holds_every_ablated_latent_and_parses_back(runs):
    record = part(runs, "model-crosscoder", "pair")
    rows = list(csv.DictReader(io.StringIO(csv_text(record))))
    columns = record.details["causal"]["latents"]
    assert set(rows[0]) == set(columns)
    for name, values in columns.items():
        found = [row[name] for row in rows]
        if name in ("class", "reason"):
            assert found == values
        else:
            assert [None if text == "" else float(text) for text in found] == values


def test_batches_have_no_influence(runs, monkeypatch):
    one = part(runs, "model-crosscoder", "pair").details["causal"]["latents"]
    monkeypatch.setattr("saebench.config.schema.Config.batch_size", 3, raising=False)
    config = runs.root / "gates.toml"
    before = config.read_text()
    config.write_text(f"batch_size = 3\n{before}")
    try:
        other = part(runs, "model-crosscoder", "pair-batches").details["causal"]["latents"]
    finally:
        config.write_text(before)
    assert one["latent"] == other["latent"]
    assert one["mismatched_with"] == other["mismatched_with"]
    for name in ("effect_base", "effect_chat", "pearson", "logit_cosine"):
        for a, b in zip(one[name], other[name], strict=True):
            assert a == pytest.approx(b, rel=1e-3, abs=1e-6), name


def test_ablations_are_those_of_plain_hooks_in_each_model(runs, monkeypatch):
    seen: dict[str, Any] = {}

    def watched(models, batches, sites, probes, arms, **more):
        found = real(models, batches, sites, probes, arms, **more)
        seen.update(probes=probes, arms={arm.name: arm for arm in arms}, found=found)
        seen["ids"] = {
            int(number): row
            for batch in batches_again()
            for number, row in zip(batch.sequence_ids, batch.ids, strict=True)
        }
        return found

    real, measure = ablations.shifts, ablations.measured
    holder: list[Any] = []
    monkeypatch.setattr(ablations, "shifts", watched)
    monkeypatch.setattr(
        "saebench.measure.causal.job.measured",
        lambda run, *rest: (holder.append(run), measure(run, *rest))[1],
    )

    def batches_again():
        return holder[0].stream.batches(4)

    part(runs, "model-crosscoder", "hooks")
    weights = load_file(runs.path("model-crosscoder") / "crosscoder_final.safetensors")
    rows = [weights["W_dec"][:, 0] / 0.17, weights["W_dec"][:, 1] / 0.16]
    layer = 2
    probes, arms, found = seen["probes"], seen["arms"], seen["found"]
    for m, path in enumerate(runs.models):
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        for i in (0, len(probes) // 2, len(probes) - 1):
            latent = int(probes.latent[i])
            taken = {"latent": rows[m][latent] * probes.code[i]}
            unit = arms["random"].directions[m][arms["random"].rows[i]]
            taken["random"] = unit * probes.code[i]
            assert float(unit.norm()) == pytest.approx(float(rows[m][latent].norm()), rel=1e-4)
            other = arms["mismatched"].directions[m][arms["mismatched"].rows[i]]
            assert float(other.norm()) == pytest.approx(float(rows[m][latent].norm()), rel=1e-4)
            cosines = rows[m] @ other / rows[m].norm(dim=1) / other.norm()
            assert float(cosines.max()) == pytest.approx(1, abs=1e-5)
            assert int(cosines.argmax()) != latent
            taken["mismatched"] = other * probes.code[i]
            ids, at = seen["ids"][int(probes.sequence[i])][None], int(probes.position[i])
            for arm, vector in taken.items():
                expected = _kl(model, layer, ids, at, vector.float())
                assert found.kl[arm][m][i] == pytest.approx(expected, rel=2e-2, abs=1e-6), arm


def _kl(model: Any, layer: int, ids: torch.Tensor, at: int, vector: torch.Tensor) -> float:
    def subtract(_module: Any, _inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden.clone()
        hidden[0, at] -= vector
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    decoder = model.get_decoder()
    block = (decoder.layers if hasattr(decoder, "layers") else decoder.h)[layer]
    with torch.no_grad():
        clean = model(ids).logits[0, at].double().log_softmax(-1)
        handle = block.register_forward_hook(subtract)
        ablated = model(ids).logits[0, at].double().log_softmax(-1)
        handle.remove()
    return float((clean.exp() * (clean - ablated)).sum())


@pytest.mark.parametrize("name", ["sae", "difference"])
def test_latents_of_one_model_are_ablated_there_and_have_no_equivalence(runs, name):
    record = part(runs, name, f"{name}-single")
    found = record.details["causal"]
    assert found["mode"] == "single"
    assert found["models"] == (["tuned"] if name == "difference" else ["model"])
    for metric in ("causal_effect", "causal_effect_ratio", "causal_effect_over_random"):
        assert record.get(metric).value > 0
        assert record.get(metric).low is not None
    assert "reads one model" in record.get("causal_equivalence").reason
    assert record.get("causal_tested").value is None
    text = section(record)
    assert "more than a random direction of equal norm" in text
    above = record.get("causal_effect_over_random")
    assert ("not told apart from the half that chance" in text) == (above.low <= 0.5 <= above.high)
    assert ("less than chance would have it" in text) == (above.high < 0.5)
    assert csv_text(record).startswith("latent,class,norm,")
    (row,) = (row for row in found["selection"] if row["class"] == "all")
    assert row["n_tested"] == min(row["n_enough"], QUICK["max_latents"])
    assert len(found["latents"]["latent"]) == row["n_tested"]
    assert "| all |" in text
    assert ("random sample" in text) == (row["n_enough"] > QUICK["max_latents"])


@pytest.mark.parametrize("name", ["sae", "model-crosscoder", "unscaled-crosscoder", "difference"])
def test_a_stream_that_changed_between_the_passes_is_refused(runs, monkeypatch, capsys, name):
    real = ablations.shifts

    def changed(models, batches, *rest, **more):
        return real(models, (replace(b, ids=b.ids.flip(0)) for b in batches), *rest, **more)

    options = ("--suite=causal", GATE, *protocol())
    monkeypatch.setattr(ablations, "shifts", changed)
    code = runs.command(name, *options, out=f"{name}-changed")
    if name == "difference":
        # the model that is subtracted is not ablated: its activations, and so the codes, are not there
        assert code == OK
        return
    assert code not in (OK, FAILED)
    assert "codes differ" in capsys.readouterr().err


def test_the_codes_of_the_stream_itself_are_those_of_the_pass(runs, monkeypatch):
    seen = []
    real = ablations.shifts

    def watched(models, batches, sites, probes, arms, *, encode):
        def compared(activations, latents):
            found = encode(activations, latents)
            seen.append((found, latents))
            return found

        return real(models, batches, sites, probes, arms, encode=compared)

    monkeypatch.setattr(ablations, "shifts", watched)
    part(runs, "unscaled-crosscoder", "estimated")
    ((found, latents),) = seen
    assert found.shape == latents.shape
    assert (found > 0).all()


APART = {
    "transcoder": "reads one activation and writes another",
    "layer-crosscoder": "several activations of one model",
    "cross-layer": "not linear in its codes",
    "temporal": "not linear in its codes",
}


@pytest.mark.parametrize("name", APART)
def test_what_cannot_be_ablated_has_no_value_and_says_why(runs, name):
    record = part(runs, name, f"{name}-apart", code=FAILED)
    assert set(record.measurements) == {item.metric for item in CAUSAL}
    for measured in record.measurements.values():
        assert measured.value is None
        assert APART[name] in measured.reason
    assert APART[name] in section(record)
    assert csv_text(record) == ""


def test_another_protocol_measures_again_and_the_same_one_does_not(runs, monkeypatch):
    part(runs, "model-crosscoder", "pair")
    same = ("--suite=causal", GATE)
    with monkeypatch.context() as patch:
        refuse_models(patch)
        assert runs.command("model-crosscoder", *same, *protocol(), out="pair") == OK
    assert runs.command("model-crosscoder", *same, *protocol(seed=1), out="pair") == OK
    found = [strict_json(path) for path in (runs.root / "out/pair/records").glob("*causal*")]
    a, b = (one["details"]["causal"]["latents"]["latent"] for one in found)
    assert a != b


def test_more_probes_than_a_latent_gets_are_refused(runs, capsys):
    options = ("--suite=causal", GATE, *protocol(n_probes=5, min_probes=6))
    assert runs.command("model-crosscoder", *options, out="refused") == USAGE
    assert "min_probes = 6 in [causal]" in capsys.readouterr().err


def test_latents_that_never_fire_often_enough_leave_reasons_and_no_forward(runs):
    options = ("--suite=causal", GATE, *protocol(n_probes=100, min_probes=90))
    assert runs.command("model-crosscoder", *options, out="rare") == FAILED
    (path,) = (runs.root / "out/rare/records").glob("*causal*")
    record = Record.from_json(strict_json(path))
    assert record.get("causal_equivalence").value is None
    assert "90 sequences" in record.get("causal_equivalence").reason
    assert record.passes == {}
    assert np.shape(record.details["causal"]["latents"]["latent"]) == (0,)
    assert "not known" in section(record)
