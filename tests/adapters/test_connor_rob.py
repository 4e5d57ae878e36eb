"""SAEs of attention outputs with a config named after the weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from saebench.errors import CheckpointError, SaebenchError
from saebench.loading import load_sae, open_checkpoint

D_IN, D_SAE = 4, 10
CONFIG = {
    "act_size": D_IN,
    "dict_size": D_SAE,
    "act_name": "blocks.5.attn.hook_z",
    "model_name": "gpt2-small",
    "l1_coeff": 1.8,
}
X = torch.randn(5, D_IN, generator=torch.Generator().manual_seed(1))


def write(path: Path, name: str = "gpt2-small_Hcat_z", **keys: object) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "W_enc": (D_IN, D_SAE),
        "W_dec": (D_SAE, D_IN),
        "b_enc": (D_SAE,),
        "b_dec": (D_IN,),
    }
    weights = {key: torch.randn(*shape, generator=generator) for key, shape in shapes.items()}
    torch.save(weights, path / f"{name}.pt")
    config = {key: value for key, value in {**CONFIG, **keys}.items() if value is not ...}
    (path / f"{name}_cfg.json").write_text(json.dumps(config))
    return weights


def test_it_is_relu_with_b_dec_subtracted(tmp_path: Path) -> None:
    weights = write(tmp_path)
    sae = load_sae(tmp_path, allow_pickle=True)
    codes = torch.relu((X - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"])
    assert torch.allclose(sae.encode(X), codes, atol=1e-6)
    assert torch.allclose(sae(X), codes @ weights["W_dec"] + weights["b_dec"], atol=1e-5)


def test_facts_come_from_the_config_beside_it(tmp_path: Path) -> None:
    write(tmp_path)
    opened = open_checkpoint(tmp_path, allow_pickle=True)
    cfg = opened.sae.cfg
    assert (cfg.format, cfg.site, cfg.model) == ("connor_rob", CONFIG["act_name"], "gpt2-small")
    assert cfg.facts["d_sae"].source == "gpt2-small_Hcat_z_cfg.json: dict_size"
    assert cfg.facts["reshape"].value == "hook_z"
    assert cfg.facts["subtract_b_dec"].how == "assumed"
    assert any("biases of attention values out of hook_z" in note for note in cfg.notes)
    assert set(opened.digests) == {"gpt2-small_Hcat_z.pt", "gpt2-small_Hcat_z_cfg.json"}


def test_one_of_several_is_read_by_its_name(tmp_path: Path) -> None:
    write(tmp_path, "a")
    write(tmp_path, "b", act_name="blocks.9.attn.hook_z")
    assert load_sae(tmp_path / "b.pt", allow_pickle=True).cfg.site == "blocks.9.attn.hook_z"
    with pytest.raises(SaebenchError, match=r"Reference one.*a\.pt.*b\.pt"):
        load_sae(tmp_path, allow_pickle=True)


@pytest.mark.parametrize("missing", ["act_size", "dict_size", "act_name"])
def test_another_config_is_not_claimed(tmp_path: Path, missing: str) -> None:
    write(tmp_path, **{missing: ...})
    try:
        found = load_sae(tmp_path, allow_pickle=True).cfg.format
    except CheckpointError:
        return
    assert found != "connor_rob"


def test_another_width_than_the_tensors_is_refused(tmp_path: Path) -> None:
    write(tmp_path, act_size=5)
    with pytest.raises(
        CheckpointError, match=r"'W_enc' of gpt2-small_Hcat_z\.pt with shape \[d_in 5"
    ):
        load_sae(tmp_path, allow_pickle=True)
