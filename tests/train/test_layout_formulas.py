"""Each layout's own formula, written out on the tensors saved, gives the codes and outputs of the SAE.

Nothing of saebench reads the files here: this is what the libraries that the layouts belong to compute.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saebench.sae import SAE
from saebench.train import save_checkpoint
from tests.train.dictionaries import SITE, D, F, activations, dictionary

ORACLES = Path(__file__).parents[1] / "oracles"


def assert_equal(sae: SAE, codes: Tensor, output: Tensor, x: Tensor) -> None:
    """``x``, ``output`` with the sources apart ``[n, M, D]``, of one source ``[n, D]``."""
    expected = sae.encode(x)
    assert torch.equal(codes != 0, expected != 0)
    assert bool((codes != 0).any())
    assert float((codes - expected).abs().max()) <= 5e-6 * float(expected.abs().max())
    rebuilt = sae(x)
    assert float((output - rebuilt).abs().max()) <= 5e-6 * float(rebuilt.abs().max())


@pytest.mark.parametrize("kind", ["none", "scale", "centre", "standardize"])
@pytest.mark.parametrize("subtracts", [True, False])
def test_saelens(tmp_path: Path, kind: str, subtracts: bool) -> None:
    sae = dictionary(1, kind, subtracts=subtracts)
    folder = save_checkpoint(sae, tmp_path / "a")
    w = load_file(folder / "sae_weights.safetensors")
    config = json.loads((folder / "cfg.json").read_text())
    x = activations()
    inputs = x - w["b_dec"] if config["apply_b_dec_to_input"] else x
    pre = inputs @ w["W_enc"] + w["b_enc"]
    codes = pre.relu() * (pre > w["threshold"])
    assert config["normalize_activations"] == "none"
    assert_equal(sae, codes, codes @ w["W_dec"] + w["b_dec"], x)


@pytest.mark.parametrize("kind", ["none", "scale", "centre", "standardize"])
@pytest.mark.parametrize("subtracts", [True, False])
def test_batch_top_k_sae_of_the_forks(tmp_path: Path, kind: str, subtracts: bool) -> None:
    sae = dictionary(1, kind, difference="1-0", subtracts=subtracts)
    folder = save_checkpoint(sae, tmp_path / "a", layout="dictionary_learning")
    w = load_file(folder / "model.safetensors")
    shapes = {name: tuple(value.shape) for name, value in w.items()}
    assert shapes == {
        **{"encoder.weight": (F, D), "encoder.bias": (F,), "decoder.weight": (D, F), "b_dec": (D,)},
        **{"k": (), "threshold": (), "target_rms": (), "activation_global_scale": ()},
        **{"activation_mean": (D,), "activation_std": (D,)},
    }
    assert w["k"].dtype == torch.int32
    x = activations()
    mean, scale = w["activation_mean"], w["activation_global_scale"]
    normalizes = not bool(w["activation_mean"].isnan().any() | w["activation_std"].isnan().any())
    assert normalizes == (kind != "none")
    h = (x - mean) * scale if normalizes else x
    pre = ((h - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    codes = pre * (pre > w["threshold"])
    y = codes @ w["decoder.weight"].T + w["b_dec"]
    assert_equal(sae, codes, y / (scale + 1e-8) + mean if normalizes else y, x)
    if normalizes:
        total = w["activation_std"].square().sum()
        assert float(scale) == pytest.approx(float(w["target_rms"] / total.sqrt()), rel=1e-5)
    arguments = json.loads((folder / "config.json").read_text())
    assert set(arguments) == {
        *("dict_class", "activation_dim", "dict_size", "k", "target_rms"),
        *("activation_mean", "activation_std", "encoder_init_norm"),
    }


def test_standard_deviations_are_those_of_the_data(tmp_path: Path) -> None:
    x = activations(1, n=500, seed=1)
    recipe = {"recipe": {"target_rms": 10.0, "normalization": "standardize"}}
    options = {"layout": "dictionary_learning", "provenance": recipe}
    folder = save_checkpoint(dictionary(1, "standardize"), tmp_path / "a", **options)  # type: ignore[arg-type]
    w = load_file(folder / "model.safetensors")
    assert torch.allclose(w["activation_std"], x.std(0, correction=0), rtol=1e-5)
    assert torch.allclose(w["activation_mean"], x.mean(0), rtol=1e-5)
    assert float(w["target_rms"]) == 10


@pytest.mark.parametrize("kind", ["none", "scale", "centre"])
@pytest.mark.parametrize("n_sources", [2, 3])
@pytest.mark.parametrize("subtracts", [True, False])
def test_batch_top_k_crosscoder_of_the_forks(
    tmp_path: Path, kind: str, n_sources: int, subtracts: bool
) -> None:
    M = n_sources
    sae = dictionary(M, kind, subtracts=subtracts)
    folder = save_checkpoint(sae, tmp_path / "a", layout="dictionary_learning")
    w = load_file(folder / "model.safetensors")
    shapes = {name: tuple(value.shape) for name, value in w.items()}
    assert shapes == {
        **{"encoder.weight": (M, D, F), "encoder.bias": (F,), "decoder.weight": (M, F, D)},
        **{"decoder.bias": (M, D), "k": (), "threshold": (), "code_normalization_id": ()},
        **{"activation_mean": (M, D), "activation_std": (M, D)},
        **{"activation_global_scale": (M,), "target_rms": ()},
    }
    assert int(w["code_normalization_id"]) == 1
    x = activations(M).reshape(-1, M, D)
    normalizes = not bool(w["activation_mean"].isnan().any())
    mean, scale = w["activation_mean"], w["activation_global_scale"][:, None]
    h = (x - mean) * scale if normalizes else x
    f = (torch.einsum("nmd,mdf->nf", h, w["encoder.weight"]) + w["encoder.bias"]).relu()
    code_norm = w["decoder.weight"].norm(dim=2).sum(0)
    codes = f * (f * code_norm > w["threshold"])
    y = torch.einsum("nf,mfd->nmd", codes, w["decoder.weight"]) + w["decoder.bias"]
    assert_equal(sae, codes, y / (scale + 1e-8) + mean if normalizes else y, x)
    arguments = json.loads((folder / "config.json").read_text())
    known = {  # anything else would be an argument that the class does not take
        *("dict_class", "activation_dim", "dict_size", "num_layers", "k", "norm_init_scale"),
        *("code_normalization", "target_rms"),
    }
    assert set(arguments) == known
    assert (arguments["num_layers"], arguments["code_normalization"]) == (M, "CROSSCODER")


@pytest.mark.parametrize("kind", ["none", "scale"])
@pytest.mark.parametrize("subtracts", [True, False])
def test_open_interp(tmp_path: Path, kind: str, subtracts: bool) -> None:
    sae = dictionary(2, kind, subtracts=subtracts)
    folder = save_checkpoint(sae, tmp_path / "a", layout="open_interp")
    w = load_file(folder / "crosscoder_final.safetensors")
    config = json.loads((folder / "cfg.json").read_text())
    assert {name: tuple(value.shape) for name, value in w.items()} == {
        **{"W_enc": (2, D, F), "W_dec": (F, 2, D), "b_enc": (F,), "b_dec": (2, D)},
        "threshold": (F,),
    }
    assert {value.dtype for value in w.values()} == {torch.float32}
    scales = torch.tensor([config["norm_scale_A"], config["norm_scale_B"]])[:, None]
    x = activations(2).reshape(-1, 2, D)
    pre = torch.einsum("nmd,mdf->nf", x * scales - w["b_dec"], w["W_enc"]) + w["b_enc"]
    codes = pre.relu() * (pre > w["threshold"])
    y = torch.einsum("nf,fmd->nmd", codes, w["W_dec"]) + w["b_dec"]
    assert_equal(sae, codes, y / scales, x)
    assert config["architecture"] == "cross_model_crosscoder"
    assert (config["base_model"], config["chat_model"]) == ("org/base", "org/tuned")
    assert (config["layer"], config["d_model"], config["n_features"]) == (1, D, F)
    assert config["k_batchtopk"] == sae.cfg.k


@pytest.mark.parametrize("kind", ["none", "scale", "standardize"])
def test_our_own_of_crosscoders(tmp_path: Path, kind: str) -> None:
    sae = dictionary(3, kind)
    w = load_file(save_checkpoint(sae, tmp_path / "a") / "sae_weights.safetensors")
    x = activations(3).reshape(-1, 3, D)
    scale, mean = w.get("input_scale", torch.ones(())), w.get("input_mean", torch.zeros(()))
    h = (x - mean) * scale - w["b_dec"]
    pre = torch.einsum("nmd,mdf->nf", h, w["W_enc"]) + w["b_enc"]
    codes = pre.relu() * (pre > w["threshold"])
    y = torch.einsum("nf,fmd->nmd", codes, w["W_dec"]) + w["b_dec"]
    assert_equal(sae, codes, y / scale + mean, x)
    assert math.prod(w["format_version"].shape) == 1


def _oracle_python() -> str | None:
    named = os.environ.get("SAEBENCH_ORACLE_PYTHON")
    beside = ORACLES.parents[1] / ".venv-oracles" / "bin" / "python"
    return named or (str(beside) if beside.exists() else None)


@pytest.mark.oracle
@pytest.mark.skipif(_oracle_python() is None, reason="needs the peers: set SAEBENCH_ORACLE_PYTHON")
def test_saelens_computes_the_same_of_a_difference_sae_with_folded_inputs(tmp_path: Path) -> None:
    x = activations()
    save_file({"x": x}, tmp_path / "x.safetensors")
    saes = {
        kind: dictionary(1, kind, difference="1-0") for kind in ("scale", "centre", "standardize")
    }
    folders = [str(save_checkpoint(sae, tmp_path / kind)) for kind, sae in saes.items()]
    script = [str(_oracle_python()), str(ORACLES / "load_saelens.py")]
    done = subprocess.run(
        [*script, str(tmp_path / "x.safetensors"), *folders], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    described = json.loads(done.stdout.strip().splitlines()[-1])
    for folder, sae in zip(folders, saes.values(), strict=True):
        theirs = load_file(f"{folder}.safetensors")
        assert_equal(sae, theirs["codes"], theirs["output"], x)
        assert described[folder]["hook_name"] == SITE
