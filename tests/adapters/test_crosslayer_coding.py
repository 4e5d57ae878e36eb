"""crosslayer-coding: statistics beside the weights, tied decoders, gates that depend on the batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from saebench.adapters import claim
from saebench.adapters.cross_layer import crosslayer_coding
from saebench.adapters.reading.choices import Choices
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import CrossLayerTranscoder

D_IN, D_SAE, N = 4, 10, 2
CONFIG = {
    "num_features": D_SAE,
    "num_layers": N,
    "d_model": D_IN,
    "model_name": "gpt2",
    "normalization_method": "mean_std",
    "activation_fn": "jumprelu",
    "jumprelu_threshold": 0.03,
    "clt_dtype": "float32",
    "mlp_input_template": "transformer.h.{}.mlp",
    "tl_input_template": "blocks.{}.hook_resid_mid",
    "tl_output_template": "blocks.{}.hook_mlp_out",
    "decoder_tying": "none",
    "skip_connection": False,
}
SIDE = {"mean": [0.5] * D_IN, "std": [2.0] * D_IN}
STATS = {str(layer): {"inputs": SIDE, "targets": SIDE} for layer in range(N)}


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {"theta_manager.log_threshold": torch.full((N, D_SAE), -1.0)}
    for s in range(N):
        encoder = f"encoder_module.encoders.{s}"
        found[f"{encoder}.weight"] = torch.randn(D_SAE, D_IN, generator=generator)
        found[f"{encoder}.bias_param"] = torch.randn(D_SAE, generator=generator)
        for t in range(s, N):
            decoder = f"decoder_module.decoders.{s}->{t}"
            found[f"{decoder}.weight"] = torch.randn(D_IN, D_SAE, generator=generator)
            found[f"{decoder}.bias_param"] = torch.randn(D_IN, generator=generator)
    return found


def write(
    path: Path, stats: dict[str, Any] | None = STATS, drop: str = "", **keys: Any
) -> CheckpointFiles:
    config = {key: value for key, value in (CONFIG | keys).items() if value is not ...}
    (path / "cfg.json").write_text(json.dumps(config))
    if stats is not None:
        (path / "norm_stats.json").write_text(json.dumps(stats))
    tensors = {key: value for key, value in weights().items() if key != drop}
    save_file(tensors, path / "model.safetensors")
    return CheckpointFiles(path, tuple(sorted(item.name for item in path.iterdir())))


def read(files: CheckpointFiles, **settings: str) -> CrossLayerTranscoder:
    adapter, found = claim(files)
    assert found.format == "crosslayer_coding"
    clt = adapter.read(files, found, Choices(settings))
    assert isinstance(clt, CrossLayerTranscoder)
    return clt


def refused(files: CheckpointFiles, **settings: str) -> str:
    with pytest.raises(CheckpointError) as error:
        read(files, **settings)
    return str(error.value)


def test_hook_points_follow_the_templates_of_the_config(tmp_path: Path) -> None:
    cfg = read(write(tmp_path)).cfg
    assert cfg.sites == ("blocks.0.hook_resid_mid", "blocks.1.hook_resid_mid")
    assert cfg.sites_out == ("blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out")
    assert cfg.facts["sites"].source == "cfg.json: tl_input_template"
    assert (cfg.model, cfg.d_sae, cfg.n_sources) == ("gpt2", N * D_SAE, N)


def test_biases_of_all_decoders_of_a_layer_add_up_in_units_of_activations(tmp_path: Path) -> None:
    found, w = read(write(tmp_path)), weights()
    both = sum(w[f"decoder_module.decoders.{s}->1.bias_param"] for s in range(2))
    assert torch.allclose(found.b_dec[1], both * 2 + 0.5, atol=1e-5)


def test_statistics_that_are_not_in_the_folder_are_asked_for(tmp_path: Path) -> None:
    message = refused(write(tmp_path, stats=None))
    assert "norm_stats.json beside model.safetensors" in message
    assert "cfg.json: normalization_method is mean_std" in message


@pytest.mark.parametrize("std", [[2.0] * 3, [-1.0] * D_IN, ["2"] * D_IN, None])
def test_statistics_of_another_shape_are_refused(tmp_path: Path, std: object) -> None:
    bad = STATS | {"1": {"inputs": SIDE | {"std": std}, "targets": SIDE}}
    assert "norm_stats.json: 1.inputs.std (4 numbers)" in refused(write(tmp_path, stats=bad))


def test_an_unknown_normalisation_is_asked_for(tmp_path: Path) -> None:
    files = write(tmp_path, stats=None, normalization_method=...)
    assert "--set normalization=none" in refused(files)
    assert read(files, normalization="none").cfg.facts["normalization"].how == "user"
    assert "sqrt_d_model" in refused(write(tmp_path, normalization_method="sqrt_d_model"))


def test_statistics_beside_weights_of_an_old_config_are_assumed_to_be_meant(tmp_path: Path) -> None:
    assert (
        read(write(tmp_path, normalization_method=...)).cfg.facts["normalization"].how == "assumed"
    )


@pytest.mark.parametrize("gate", ["topk", "batchtopk"])
def test_gates_that_rank_by_the_batch_are_refused(tmp_path: Path, gate: str) -> None:
    message = refused(write(tmp_path, activation_fn=gate))
    assert "cfg.json: activation_fn of relu or jumprelu" in message
    assert "in the batch at hand" in message


def test_thresholds_beside_a_config_with_relu_are_refused(tmp_path: Path) -> None:
    message = refused(write(tmp_path, activation_fn="relu"))
    assert "cfg.json: activation_fn of jumprelu" in message
    assert "'theta_manager.log_threshold'" in message
    assert read(write(tmp_path, activation_fn="relu", drop="theta_manager.log_threshold"))


def test_tied_decoders_and_skips_are_refused(tmp_path: Path) -> None:
    assert "decoder_tying 'none': 'per_target'" in refused(
        write(tmp_path, decoder_tying="per_target")
    )
    assert "skip_connection" in refused(write(tmp_path, skip_connection=True))


def test_missing_tensors_and_other_sizes_are_named(tmp_path: Path) -> None:
    gone = "decoder_module.decoders.0->1.weight"
    assert repr(gone) in refused(write(tmp_path, drop=gone))
    assert "d_model 5" in refused(write(tmp_path, d_model=5))
    assert "encoder_module.encoders.99.weight" in refused(write(tmp_path, num_layers=100))


def test_shards_of_a_distributed_run_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "rank_0_model.safetensors")
    names = ("cfg.json", "norm_stats.json", "rank_0_model.safetensors")
    assert "Merge the shards" in refused(CheckpointFiles(tmp_path, names))


def test_other_configs_are_not_claimed(tmp_path: Path) -> None:
    assert crosslayer_coding.sniff(write(tmp_path, num_layers=...)) is None
