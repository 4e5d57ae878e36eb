"""SAELens before version 2, and transcoders made with its code: one pickle with a config object."""

from __future__ import annotations

import gzip
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from saebench.errors import CheckpointError, SaebenchError, UnknownFormatError, UnsafeFileError
from saebench.loading import load_sae, open_checkpoint

D_IN, D_SAE, D_OUT = 4, 10, 6
KNOWN = {
    "model_name": "gpt2-small",
    "hook_point": "blocks.8.hook_resid_pre",
    "hook_point_layer": 8,
    "hook_point_head_index": None,
    "d_in": D_IN,
    "d_sae": D_SAE,
    "context_size": 128,
    "expansion_factor": 64,
    "l1_coefficient": 8e-5,
    "device": torch.device("cpu"),
    "dtype": torch.float32,
}
X = torch.randn(5, D_IN, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> type:
    """The package the files were written with, there while they are written."""
    module = ModuleType("sae_training.config")
    runner = type("LanguageModelSAERunnerConfig", (), {"__module__": "sae_training.config"})
    module.LanguageModelSAERunnerConfig = runner  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sae_training", ModuleType("sae_training"))
    monkeypatch.setitem(sys.modules, "sae_training.config", module)
    return runner


def tensors(d_out: int = D_IN) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "W_enc": (D_IN, D_SAE),
        "b_enc": (D_SAE,),
        "W_dec": (D_SAE, d_out),
        "b_dec": (D_IN,),
    }
    return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def content(package: type, weights: dict[str, Tensor], **keys: object) -> dict[str, Any]:
    config = package()
    vars(config).update({k: v for k, v in {**KNOWN, **keys}.items() if v is not ...})
    return {"cfg": config, "state_dict": weights}


def test_it_is_relu_with_b_dec_subtracted(tmp_path: Path, package: type) -> None:
    weights = tensors()
    torch.save(content(package, weights), tmp_path / "final_gpt2-small.pt")
    sae = load_sae(tmp_path, allow_pickle=True)
    codes = torch.relu((X - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"])
    assert torch.allclose(sae.encode(X), codes, atol=1e-6)
    assert torch.allclose(sae(X), codes @ weights["W_dec"] + weights["b_dec"], atol=1e-5)


def test_facts_are_the_attributes_of_its_config(tmp_path: Path, package: type) -> None:
    torch.save(content(package, tensors()), tmp_path / "sae.pt")
    opened = open_checkpoint(tmp_path, allow_pickle=True)
    cfg = opened.sae.cfg
    assert (cfg.format, cfg.architecture, cfg.d_sae) == ("saelens_legacy", "standard", D_SAE)
    assert (cfg.site, cfg.model) == ("blocks.8.hook_resid_pre", "gpt2-small")
    assert cfg.facts["site"].source == "cfg in sae.pt: hook_point"
    assert cfg.facts["context_size"].value == 128
    assert cfg.provenance["expansion_factor"] == 64
    assert opened.claim.evidence[0] == "sae.pt: cfg with d_in, hook_point, hook_point_layer"


def test_the_model_is_taken_to_have_been_centred(tmp_path: Path, package: type) -> None:
    torch.save(content(package, tensors()), tmp_path / "sae.pt")
    cfg = load_sae(tmp_path, allow_pickle=True).cfg
    assert (cfg.centred, cfg.facts["centred"].how) == (True, "assumed")
    assert any("default processing" in note for note in cfg.notes)
    said = load_sae(tmp_path, allow_pickle=True, settings={"centred": "false"}).cfg
    assert (said.centred, said.facts["centred"].how) == (False, "user")
    assert not any("default processing" in note for note in said.notes)


def test_the_outputs_of_heads_lack_a_constant_rather_than_being_centred(
    tmp_path: Path, package: type
) -> None:
    heads = content(package, tensors(), hook_point="blocks.8.attn.hook_z")
    torch.save(heads, tmp_path / "sae.pt")
    cfg = load_sae(tmp_path, allow_pickle=True).cfg
    assert "centred" not in cfg.facts
    assert any("smaller by a constant" in note for note in cfg.notes)


@pytest.mark.parametrize("suffix", [".pkl", ".pkl.gz"])
def test_plain_and_packed_pickles_hold_the_same(tmp_path: Path, package: type, suffix: str) -> None:
    data = pickle.dumps(content(package, tensors()))
    (tmp_path / f"sae{suffix}").write_bytes(gzip.compress(data) if suffix[-1] == "z" else data)
    torch.save(content(package, tensors()), tmp_path / "x.pt")
    packed = load_sae(tmp_path / f"sae{suffix}", allow_pickle=True)
    assert torch.equal(packed(X), load_sae(tmp_path / "x.pt", allow_pickle=True)(X))


def test_a_transcoder_subtracts_one_bias_and_adds_another(tmp_path: Path, package: type) -> None:
    weights = tensors(D_OUT) | {"b_dec_out": torch.linspace(-1, 1, D_OUT)}
    sites = {
        "hook_point": "blocks.8.ln2.hook_normalized",
        "out_hook_point": "blocks.8.hook_mlp_out",
    }
    torch.save(content(package, weights, d_out=D_OUT, **sites), tmp_path / "transcoder.pt")
    sae = load_sae(tmp_path, allow_pickle=True)
    codes = torch.relu((X - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"])
    assert torch.allclose(sae.encode(X), codes, atol=1e-6)
    assert torch.allclose(sae(X), codes @ weights["W_dec"] + weights["b_dec_out"], atol=1e-5)
    assert sae.cfg.is_transcoder
    assert (sae.cfg.site_out, sae.cfg.d_out) == ("blocks.8.hook_mlp_out", D_OUT)
    assert sae.cfg.facts["architecture"].source == "transcoder.pt: b_dec_out"
    assert sae.cfg.centred
    assert any("default processing" in note for note in sae.cfg.notes)


def test_the_number_of_latents_may_be_that_of_the_tensors(tmp_path: Path, package: type) -> None:
    torch.save(content(package, tensors(), d_sae=...), tmp_path / "sae.pt")
    assert load_sae(tmp_path, allow_pickle=True).cfg.d_sae == D_SAE


def test_another_width_than_the_tensors_names_what_was_expected(
    tmp_path: Path, package: type
) -> None:
    torch.save(content(package, tensors(), d_in=5), tmp_path / "sae.pt")
    with pytest.raises(
        CheckpointError, match=r"'W_enc' of sae\.pt with shape \[d_in 5, d_sae 10\]"
    ):
        load_sae(tmp_path, allow_pickle=True)


def test_it_is_read_only_on_request(tmp_path: Path, package: type) -> None:
    torch.save(content(package, tensors()), tmp_path / "sae.pt")
    with pytest.raises(UnsafeFileError, match="allow-pickle"):
        load_sae(tmp_path)


def test_the_class_of_the_config_is_never_made(
    tmp_path: Path, package: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(content(package, tensors()), tmp_path / "sae.pt")
    monkeypatch.delitem(sys.modules, "sae_training.config")
    monkeypatch.delitem(sys.modules, "sae_training")
    assert load_sae(tmp_path, allow_pickle=True).cfg.d_in == D_IN


def test_several_in_one_folder_have_to_be_told_apart(tmp_path: Path, package: type) -> None:
    for name in ("a.pt", "b.pt"):
        torch.save(content(package, tensors()), tmp_path / name)
    with pytest.raises(SaebenchError, match=r"Reference one.*a\.pt.*b\.pt"):
        load_sae(tmp_path, allow_pickle=True)
    assert load_sae(tmp_path / "a.pt", allow_pickle=True).cfg.d_in == D_IN


@pytest.mark.parametrize("missing", ["hook_point", "hook_point_layer", "d_in"])
def test_another_config_is_not_claimed(tmp_path: Path, package: type, missing: str) -> None:
    torch.save(content(package, tensors(), **{missing: ...}), tmp_path / "sae.pt")
    try:
        found = load_sae(tmp_path, allow_pickle=True).cfg.format
    except (UnknownFormatError, CheckpointError):
        return
    assert found != "saelens_legacy"
