"""Every kind of checkpoint through a whole run on the shipped model: pass, metrics, gates, report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from saebench import cli
from saebench.data import Batch, open_stream
from saebench.loading import load_sae
from saebench.models import locate
from tests import kinds
from tests.kind_runs import (
    CONTEXT,
    DATA,
    FAILED,
    GATES,
    OK,
    SEQUENCES,
    SEVERAL,
    Runs,
    opened,
    refuse_models,
    strict_json,
)
from tests.kinds import KINDS


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with opened(tmp_path_factory.mktemp("kinds")) as found:
        yield found


# --- what a run leaves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_a_run_is_measured_gated_and_recorded(runs: Runs, name: str) -> None:
    kind = KINDS[name]
    assert runs.run(name)[0] == OK
    record = runs.record(name)
    checkpoint, found = record["checkpoint"], record["measurements"]
    assert tuple(checkpoint["reads"]) == kind.reads
    assert len(checkpoint["writes"]) == kind.writes
    assert {key: checkpoint["facts"][key]["how"] for key in kind.hows} == kind.hows
    assert 0 < found["l0@1"]["value"] < kinds.F * kinds.LAYERS
    assert found["fve@1"]["low"] <= found["fve@1"]["value"] <= found["fve@1"]["high"] < 1
    assert ("fve_lowest_reading@1" in found) == (name in SEVERAL)
    centred = any("mean over dimensions was taken out" in note for note in checkpoint["notes"])
    assert checkpoint["centred"] == centred
    n_models = 1 + len(record["model"].get("others", ()))
    assert n_models == kind.n_models


@pytest.mark.parametrize("name", KINDS)
def test_the_card_says_what_it_is_and_where_each_fact_is_from(runs: Runs, name: str) -> None:
    card, kind = runs.card(name), KINDS[name]
    assert ("Each activation written:" in card) == (name in SEVERAL)
    facts = card.split("## What it is")[1].split("## How to load it")[0]
    assert ("given by the user: " in facts) == ("user" in kind.hows.values())
    if "assumed" in kind.hows.values():
        assert "assumed: " in facts
    assert runs.root.name not in card  # folders of the computer it ran on are nobody's business
    counted = "| Activations read side by side | 2 |" in facts
    assert counted == (name in ("layer-crosscoder", "model-crosscoder", "unscaled-crosscoder"))
    if name in SEVERAL:
        table = card.split("Each activation written:")[1].split("<details>")[0]
        assert table.count("\n| `") == kind.writes


def test_a_run_that_centred_what_it_read_says_so_in_its_record_and_snippet(runs: Runs) -> None:
    assert runs.command("sae", "--set=centred=true", out="centred") in (OK, FAILED)
    out = runs.root / "out" / "centred"
    (path,) = (out / "records").glob("*.json")
    assert json.loads(path.read_text("utf-8"))["checkpoint"]["centred"] is True
    assert "# x centred: x - x.mean(-1, keepdim=True)" in (out / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", KINDS)
def test_the_snippet_of_the_card_loads_what_was_measured(runs: Runs, name: str) -> None:
    (code,) = re.findall(r"```python\n(from saebench.*?)```", runs.card(name), re.DOTALL)
    cfg = runs.record(name)["checkpoint"]["cfg"]
    sources = (cfg["n_sources"],) if cfg["n_sources"] > 1 else ()
    x = torch.randn(2, 5, *sources, cfg["d_in"]) * 20
    names: dict[str, Any] = {"x": x}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(runs.root)
        (runs.root / "path").mkdir(exist_ok=True)
        link = runs.root / "path" / "to"
        link.unlink(missing_ok=True)
        link.symlink_to(runs.path(name).parent)
        exec(code, names)
    assert names["f"].shape == (2, 5, cfg["d_sae"])
    written = names["y_hat"] if "y_hat" in names else names["x_hat"]
    targets = (cfg["n_targets"],) if cfg["n_targets"] > 1 else ()
    assert written.shape == (2, 5, *targets, cfg["d_out"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sae", "A sparse autoencoder: "),
        ("transcoder", "A transcoder: "),
        ("layer-crosscoder", "A crosscoder: "),
        ("model-crosscoder", "A crosscoder: "),
        ("difference", "A sparse autoencoder of the difference of two models: "),
        ("cross-layer", "A cross-layer transcoder: "),
    ],
)
def test_the_card_begins_with_the_kind(runs: Runs, name: str, words: str) -> None:
    assert words in runs.card(name)


@pytest.mark.parametrize(
    ("name", "estimated"), [("batch-top-k", "threshold"), ("unscaled-crosscoder", "input_scale")]
)
def test_what_the_files_lack_is_estimated_and_said_so(
    runs: Runs, name: str, estimated: str
) -> None:
    record = runs.record(name)
    fact = record["checkpoint"]["facts"][estimated]
    tokens = record["policy"]["calibration_tokens"]
    said = f"estimated on {tokens:,} tokens of the first {SEQUENCES} sequences"
    assert (fact["how"], fact["source"][: len(said)]) == ("assumed", said)
    assert f"assumed: `{said}" in runs.card(name)
    value = fact["value"] if isinstance(fact["value"], list) else [fact["value"]]
    settings = {estimated: ",".join(map(str, value))}
    sae = load_sae(runs.path(name), allow_pickle=True, settings=settings)
    assert not sae.pending
    if name == "batch-top-k":  # as many latents pass as training kept
        l0 = record["measurements"]["l0@1"]["value"]
        assert l0 == pytest.approx(kinds.K, abs=1 / tokens)


# --- the numbers ---------------------------------------------------------------------------------------


@contextmanager
def outputs_of(modules: dict[str, torch.nn.Module]) -> Iterator[dict[str, Tensor]]:
    """The inputs (``… in``) and outputs of modules, seen by plain hooks."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_: object, args: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output
            seen[f"{name} in"] = args[0]

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture(scope="module")
def activations(runs: Runs) -> list[dict[str, Tensor]]:
    """What each model computes at the counted positions: residual streams and MLPs by layer."""
    located = locate(str(runs.models[0]))
    given = {"context_size": CONTEXT, "n_sequences": SEQUENCES}
    stream = open_stream(str(DATA), located.tokenizer(), **given)
    batch: Batch = next(iter(stream.batches(SEQUENCES)))
    found = []
    for path in runs.models:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        layers = dict(enumerate(model.gpt_neox.layers))
        modules = {f"resid {i}": layer for i, layer in layers.items()}
        modules |= {f"mlp {i}": layer.mlp for i, layer in layers.items()}
        with outputs_of(modules) as seen, torch.no_grad():
            model(batch.ids)
        found.append({name: value[batch.counted] for name, value in seen.items()})
    return found


def fve(x: Tensor, x_hat: Tensor) -> float:
    x, x_hat = x.double().flatten(1), x_hat.double().flatten(1)
    return float(1 - (x - x_hat).square().sum() / (x - x.mean(0)).square().sum())


def sae_by_hand(path: Path, seen: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    w, x = load_file(path / "sae_weights.safetensors"), seen[0]["resid 2"]
    f = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    return x, f @ w["W_dec"] + w["b_dec"]


def transcoder_by_hand(path: Path, seen: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    w, x = load_file(path / "sae.safetensors"), seen[0]["mlp 1 in"]
    pre = (x @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    top = pre.topk(kinds.K, dim=-1)
    f = torch.zeros_like(pre).scatter_(-1, top.indices, top.values)
    return seen[0]["mlp 1"], f @ w["W_dec"] + w["b_dec"] + x @ w["W_skip"].T


def crosscoder_by_hand(path: Path, seen: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    w = load_file(path / "crosscoder_final.safetensors")
    x, scale = torch.stack([s["resid 2"] for s in seen], 1), torch.tensor([[0.17], [0.16]])
    pre = torch.einsum("nmd,mdf->nf", x * scale - w["b_dec"], w["W_enc"]) + w["b_enc"]
    f = pre.relu() * (pre > w["threshold"])
    return x, (torch.einsum("nf,fmd->nmd", f, w["W_dec"]) + w["b_dec"]) / scale


def difference_by_hand(path: Path, seen: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    w, x = load_file(path / "model.safetensors"), seen[1]["resid 2"] - seen[0]["resid 2"]
    mean, scale = w["activation_mean"], w["activation_global_scale"]
    pre = ((x - mean) * scale - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
    f = pre.relu() * (pre > w["threshold"])
    return x, (f @ w["decoder.weight"].T + w["b_dec"]) / (scale + 1e-8) + mean


def cross_layer_by_hand(path: Path, seen: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    layers = range(kinds.LAYERS)
    w = {k: v for file in path.glob("*.safetensors") for k, v in load_file(file).items()}
    f = [(seen[0][f"mlp {i} in"] @ w[f"W_enc_{i}"].T + w[f"b_enc_{i}"]).relu() for i in layers]
    y_hat = [
        sum((f[i] @ w[f"W_dec_{i}"][:, t - i] for i in range(t + 1)), w[f"b_dec_{t}"])
        for t in layers
    ]
    return torch.stack([seen[0][f"mlp {t}"] for t in layers], 1), torch.stack(y_hat, 1)


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("sae", sae_by_hand),
        ("transcoder", transcoder_by_hand),
        ("model-crosscoder", crosscoder_by_hand),
        ("difference", difference_by_hand),
        ("cross-layer", cross_layer_by_hand),
    ],
)
def test_fve_is_that_of_the_formula_on_what_plain_hooks_see(
    runs: Runs,
    activations: list[dict[str, Tensor]],
    name: str,
    by_hand: Callable[..., tuple[Tensor, Tensor]],
) -> None:
    x, x_hat = by_hand(runs.path(name), activations)
    found = runs.record(name)["measurements"]
    assert found["fve@1"]["value"] == pytest.approx(fve(x, x_hat), rel=1e-4)
    if name in SEVERAL:
        each = [fve(x[:, i], x_hat[:, i]) for i in range(x.shape[1])]
        by_reading = found["fve@1"]["detail"]["by_reading"]
        assert list(by_reading.values()) == pytest.approx(each, rel=1e-4)
        assert found["fve_lowest_reading@1"]["value"] == pytest.approx(min(each), rel=1e-4)


def test_signed_codes_are_counted(runs: Runs) -> None:
    found = runs.record("absolute-top-k")["measurements"]
    assert found["l0@1"]["value"] == kinds.K


# --- again, and otherwise -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model-crosscoder", "difference", "unscaled-crosscoder"])
def test_another_limit_measures_nothing_again(
    runs: Runs, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.run(name)
    refuse_models(monkeypatch)
    metric = "fve_lowest_reading" if name in SEVERAL else "fve"
    assert runs.command(name, f"--gate={metric} >= 0.9999") == FAILED
    assert "is below the gate >= 0.9999" in capsys.readouterr().out


def test_one_model_in_the_place_of_two_is_noted(runs: Runs) -> None:
    options = runs.options("model-crosscoder", runs.root / "out" / "twins")
    options[1] = options[0]
    assert cli.main(["run", str(runs.path("model-crosscoder")), *options]) == OK
    (path,) = (runs.root / "out" / "twins" / "records").glob("*.json")
    twins = "models 0 and 1 have the same config and weights (digest "
    assert any(note.startswith(twins) for note in strict_json(path)["checkpoint"]["notes"])
    assert "models 0 and 1 have the same" in (path.parents[1] / "README.md").read_text("utf-8")
    others = runs.record("model-crosscoder")["checkpoint"]["notes"]
    assert not any(note.startswith("models 0 and 1") for note in others)


def test_another_setting_measures_again(runs: Runs) -> None:
    for setting in ("k=8", "k=4", "k=4"):
        assert runs.command("hand-made", f"--set={setting}", out="settings") == OK
    records = map(strict_json, (runs.root / "out" / "settings" / "records").glob("*.json"))
    found = {r["checkpoint"]["cfg"]["k"]: r["measurements"]["l0@1"]["value"] for r in records}
    assert found == {8: 8.0, 4: 4.0}


@pytest.mark.parametrize("name", ["sae", "transcoder", "model-crosscoder", "cross-layer"])
def test_a_plan_counts_what_a_run_would_do(
    runs: Runs, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.command(name, verb="plan", out="planned") == OK
    text, kind = capsys.readouterr().out, KINDS[name]
    n_models = (
        len({reading.rpartition(" of ")[2] for reading in kind.reads}) if kind.n_models > 1 else 1
    )
    assert f"{kind.n_models} prefixes" in text
    assert f"{n_models + 3 * kind.writes} suffixes" in text
    assert text.count("model        ") == kind.n_models


@pytest.mark.parametrize("name", KINDS)
def test_inspect_says_the_same_facts_without_a_model(
    runs: Runs, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ("--set", "--map", "--site", "--allow-pickle")
    given = [option for option in KINDS[name].options if option.startswith(told)]
    command = ["inspect", str(runs.path(name)), *given, "--json"]
    assert cli.main(command) == OK
    whole = json.loads(capsys.readouterr().out)
    assert cli.main([*command, "--headers-only"]) == OK
    outline = json.loads(capsys.readouterr().out)
    facts = whole["facts"]
    assert (outline["facts"], outline["notes"]) == (facts, whole["notes"])
    recorded = runs.record(name)["checkpoint"]["facts"]
    estimated = {key for key, fact in recorded.items() if "estimated on" in fact["source"]}
    assert set(facts) == set(recorded)
    assert all(facts[key] == recorded[key] for key in set(facts) - estimated)


# --- other ways to say it ---------------------------------------------------------------------------------


def test_a_configuration_says_settings_tensors_and_models(runs: Runs, tmp_path: Path) -> None:
    models = ", ".join(f"'{path}'" for path in runs.models)
    lines = [
        f"model = [{models}]",
        f"data = {{ spec = '{DATA}', context_size = {CONTEXT}, n_sequences = {SEQUENCES} }}",
        f"out = '{tmp_path / 'out'}'",
        GATES,
        f"[[sae]]\nref = '{runs.path('difference')}'\nname = 'difference'",
        f"site = '{kinds.SITE}'\nset = {{ direction = 'difference_bft' }}",
        f"[[sae]]\nref = '{runs.path('hand-made')}'\nname = 'hand'\nallow_pickle = true",
        f"site = '{kinds.SITE}'",
        "set = { activation = 'topk', k = 8, relu = true, subtract_b_dec = true }",
        "map = { encoder = 'lift', decoder = 'drop', b_dec = 'offset' }",
        f"[[sae]]\nref = '{runs.path('model-crosscoder')}'\nname = 'crosscoder'",
    ]
    (tmp_path / "saebench.toml").write_text("\n".join(lines))
    assert cli.main(["run", f"--config={tmp_path / 'saebench.toml'}"]) == OK
    found = {
        record["checkpoint"]["name"]: record
        for record in map(strict_json, (tmp_path / "out" / "records").glob("*.json"))
    }
    assert found["difference"]["checkpoint"]["reads"] == [f"{kinds.SITE} of model − tuned"]
    for name, other in (("hand", "hand-made"), ("crosscoder", "model-crosscoder")):
        values = [r["measurements"]["fve@1"]["value"] for r in (found[name], runs.record(other))]
        assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert "Each activation written:" in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_the_pytest_suites_take_the_same_options(runs: Runs, tmp_path: Path) -> None:
    options = runs.options("hand-made", tmp_path / "out")
    given = [f"--saebench-{option.removeprefix('--')}" for option in options]
    given.append(f"--saebench-sae={runs.path('hand-made')}")
    arguments = [
        "--pyargs",
        "saebench.suites",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--rootdir={tmp_path}",
    ]
    assert pytest.main([*arguments, *given]) == OK
    (record,) = map(strict_json, (tmp_path / "out" / "records").glob("*.json"))
    assert record["checkpoint"]["given"]["tensors"] == {
        "encoder": "lift",
        "decoder": "drop",
        "b_dec": "offset",
    }
    assert record["measurements"]["fve@1"] == runs.record("hand-made")["measurements"]["fve@1"]
