"""Temporal SAEs in their authors' layout: conf.yaml, and D, b, attn_layers in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from saebench.errors import CheckpointError
from saebench.loading import load_sae, open_checkpoint
from saebench.sae.temporal import TemporalSAE

D_IN, D_SAE = 4, 8
X = torch.randn(2, 5, D_IN, generator=torch.Generator().manual_seed(1))
SAE_TABLE = {
    "exp_factor": 2,
    "n_heads": 2,
    "n_attn_layers": 1,
    "bottleneck_factor": 2,
    "sae_diff_type": "topk",
    "kval_topk": 3,
    "tied_weights": True,
    "scaling_factor": 0.25,
}


def write(path: Path, *, lead: tuple[int, ...] = (1,), **keys: Any) -> dict[str, Tensor]:
    path.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    widths = {"q_target": 4, "k_ctx": 4, "v_ctx": D_SAE, "c_proj": D_SAE}
    weights = {
        "D": torch.randn(D_SAE, D_IN, generator=generator),
        "b": torch.randn(*lead, D_IN, generator=generator),
    }
    for name, rows in widths.items():
        weights[f"attn_layers.0.{name}.weight"] = torch.randn(rows, D_SAE, generator=generator)
        weights[f"attn_layers.0.{name}.bias"] = torch.randn(rows, generator=generator)
    table = {k: v for k, v in {**SAE_TABLE, **keys}.items() if v is not ...}
    conf = {"llm": {"dimin": D_IN}, "sae": table, "data": {"dtype": "float32"}}
    (path / "conf.yaml").write_text(yaml.safe_dump(conf))
    save_file(weights, path / "latest_ckpt.safetensors")
    return weights


@pytest.mark.parametrize("lead", [(), (1,)])
def test_the_bias_is_a_row_or_a_vector(tmp_path: Path, lead: tuple[int, ...]) -> None:
    weights = write(tmp_path, lead=lead)
    sae = load_sae(tmp_path)
    assert isinstance(sae, TemporalSAE)
    assert torch.equal(sae.b_dec, weights["b"].reshape(-1))
    assert sae(X).shape == X.shape


def test_facts_come_from_the_config_and_the_site_from_the_path(tmp_path: Path) -> None:
    folder = tmp_path / "gemma-2-2B" / "layer_12" / "temporal"
    write(folder)
    opened = open_checkpoint(folder)
    cfg = opened.sae.cfg
    assert (cfg.format, cfg.architecture, cfg.d_sae, cfg.k) == ("temporal", "temporal", D_SAE, 3)
    assert cfg.facts["k"].source == "conf.yaml: sae.kval_topk"
    assert cfg.facts["input_scale"].source == "conf.yaml: sae.scaling_factor"
    site = cfg.facts["site"]
    assert (site.value, site.how) == ("blocks.12.hook_resid_post", "assumed")
    assert set(opened.digests) == {"conf.yaml", "latest_ckpt.safetensors"}


def test_a_path_without_a_layer_leaves_the_site_open(tmp_path: Path) -> None:
    write(tmp_path)
    assert load_sae(tmp_path).cfg.site is None


def test_activations_are_scaled_on_the_way_in_and_back(tmp_path: Path) -> None:
    write(tmp_path)
    sae = load_sae(tmp_path)
    unscaled = load_sae(tmp_path, settings={"input_scale": "1"})
    assert torch.allclose(sae(X), unscaled(0.25 * X) / 0.25, atol=1e-5)


def test_a_missing_scale_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, scaling_factor=...)
    with pytest.raises(CheckpointError, match="Pass --set input_scale="):
        load_sae(tmp_path)


def test_an_expansion_that_is_not_that_of_the_decoder_is_refused(tmp_path: Path) -> None:
    write(tmp_path, exp_factor=3)
    with pytest.raises(CheckpointError, match="3 x 4 and 8 rows"):
        load_sae(tmp_path)


def test_an_untied_encoder_has_to_be_there(tmp_path: Path) -> None:
    write(tmp_path, tied_weights=False)
    with pytest.raises(CheckpointError, match=r"tensor 'E' in latest_ckpt\.safetensors"):
        load_sae(tmp_path)


def test_weights_without_attention_are_not_claimed(tmp_path: Path) -> None:
    weights = write(tmp_path)
    save_file({"D": weights["D"], "b": weights["b"]}, tmp_path / "latest_ckpt.safetensors")
    try:
        found = load_sae(tmp_path).cfg.format
    except CheckpointError:
        return
    assert found != "temporal"
