"""Crosscoders in our own layout: facts, what the files have to hold, and that nobody else claims them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saebench.adapters import ADAPTERS
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles, list_files
from saebench.loading import inspect, load_sae, open_checkpoint
from saebench.sae import Crosscoder, Dictionary
from saebench.sae.normalization import Affine, ConstantNorm

GOLDEN = Path(__file__).parents[1] / "oracles" / "golden" / "native_crosscoder"
WEIGHTS = "sae_weights.safetensors"


def copied(case: str, root: Path, **changes: Any) -> Path:
    """A golden checkpoint with changed config keys (``...`` removes one)."""
    shutil.copytree(GOLDEN / case, root, dirs_exist_ok=True)
    config = json.loads((root / "cfg.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not ...}
    (root / "cfg.json").write_text(json.dumps(kept))
    return root


def tensors(root: Path, **changes: Tensor | None) -> Path:
    """The checkpoint with changed tensors (None removes one)."""
    found: dict[str, Tensor | None] = {**load_file(root / WEIGHTS), **changes}
    save_file({k: v for k, v in found.items() if v is not None}, root / WEIGHTS)
    return root


def message(root: Path, **settings: str) -> str:
    with pytest.raises(CheckpointError) as error:
        load_sae(root, settings=settings)
    return str(error.value)


def outputs(sae: Dictionary) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, sae.cfg.width_in, generator=generator) * 2
    return sae.reconstruct(x)[1]


def test_facts_name_their_keys(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(copied("two_models", tmp_path))
    assert checkpoint.claim.files == ("cfg.json", WEIGHTS)
    assert checkpoint.claim.evidence == (
        f"{WEIGHTS}: W_enc [2, 8, 20], W_dec, b_enc, b_dec",
        f"{WEIGHTS}: format_version",
        "cfg.json: format 'saebench crosscoder'",
    )
    cfg = checkpoint.sae.cfg
    assert isinstance(checkpoint.sae, Crosscoder)
    found = {name: (fact.value, fact.source, fact.how) for name, fact in cfg.facts.items()}
    assert found["models"] == (("org/base", "org/tuned"), "cfg.json: models", "file")
    assert found["site"] == ("blocks.0.hook_resid_post", "cfg.json: site", "file")
    assert found["normalization"] == ("affine", "cfg.json: normalization", "file")
    assert found["n_sources"] == (2, "cfg.json: n_sources", "file")
    assert [(source.site, source.model) for source in cfg.reads] == [
        ("blocks.0.hook_resid_post", 0),
        ("blocks.0.hook_resid_post", 1),
    ]
    assert cfg.provenance == {"saebench": {"version": "0", "seeds": {"weights": 0}}}


def test_layers_of_one_model_are_its_sites(tmp_path: Path) -> None:
    cfg = load_sae(copied("three_layers", tmp_path)).cfg
    assert cfg.sites == tuple(f"blocks.{layer}.hook_resid_post" for layer in range(3))
    assert (cfg.n_models, cfg.model, cfg.dtype) == (1, "org/base", "bfloat16")


def test_decoder_norms_are_in_units_of_activations(tmp_path: Path) -> None:
    root = copied("two_models", tmp_path)
    w = load_file(root / WEIGHTS)
    expected = (w["W_dec"] / w["input_scale"]).norm(dim=-1)
    assert torch.allclose(load_sae(root).decoder_norms(), expected, rtol=1e-6)


def test_one_number_for_each_source_is_the_same_as_one_for_each_dimension(tmp_path: Path) -> None:
    one = copied("three_layers", tmp_path / "a")
    w = load_file(one / WEIGHTS)
    many = copied("three_layers", tmp_path / "b")
    tensors(many, input_scale=w["input_scale"][:, None].expand(3, 8).contiguous())
    assert torch.equal(outputs(load_sae(one)), outputs(load_sae(many)))
    means = tensors(copied("three_layers", tmp_path / "c"), input_mean=torch.zeros(3))
    assert torch.equal(outputs(load_sae(one)), outputs(load_sae(means)))


def test_one_threshold_may_be_that_of_all_latents(tmp_path: Path) -> None:
    root = copied("two_models", tmp_path)
    value = torch.tensor(0.7)
    alone = outputs(load_sae(tensors(root, threshold=value)))
    assert torch.equal(alone, outputs(load_sae(tensors(root, threshold=value.expand(20).clone()))))


@pytest.mark.parametrize(
    "missing", [("input_scale",), ("input_mean",), ("input_scale", "input_mean")]
)
def test_a_normalisation_that_is_absent_from_the_file_is_asked_for(
    tmp_path: Path, missing: tuple[str, ...]
) -> None:
    root = tensors(copied("two_models", tmp_path), **dict.fromkeys(missing))
    text = message(root)
    assert "the normalisation of the inputs" in text
    assert f"no {', '.join(missing)}" in text
    assert "Fetch the whole weight file" in text


def test_half_of_the_numbers_of_the_way_out_are_asked_for(tmp_path: Path) -> None:
    root = tensors(copied("two_models", tmp_path), output_scale=torch.ones(2, 8))
    assert "no output_mean" in message(root)
    both = tensors(root, output_mean=torch.ones(2, 8))
    norm = load_sae(both).normalization
    assert isinstance(norm, Affine)
    assert torch.equal(norm.scale_out, torch.ones(16))
    assert torch.equal(norm.shift_out, torch.ones(16))


def test_numbers_of_a_normalisation_that_the_config_denies_are_refused(tmp_path: Path) -> None:
    text = message(copied("two_models", tmp_path, normalization="none"))
    assert "input_scale, input_mean of a normalisation" in text


def test_tokens_of_one_norm_need_no_numbers(tmp_path: Path) -> None:
    root = copied("two_models_unscaled", tmp_path, normalization="constant_norm_rescale")
    norm = load_sae(root).normalization
    assert isinstance(norm, ConstantNorm)
    assert norm.n_sources == 2


@pytest.mark.parametrize("value", [0.0, 1e-38, 1e38])
def test_a_scale_that_cannot_be_undone_is_refused(tmp_path: Path, value: float) -> None:
    root = copied("two_models", tmp_path)
    scale = load_file(root / WEIGHTS)["input_scale"]
    scale[1, 3] = value
    assert "scaled by, and back" in message(tensors(root, input_scale=scale))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"version": 2}, "A newer saebench wrote it"),
        ({"version": ...}, "version in cfg.json"),
        ({"n_sources": 3}, "n_sources as in the shape of W_enc"),
        ({"d_in": 9}, "d_in as in the shape of W_enc"),
        ({"d_sae": 21}, "d_sae as in the shape of W_enc"),
        ({"n_sources": ...}, "n_sources in cfg.json"),
        ({"activation": ...}, "activation in cfg.json (one of relu, topk, jumprelu)"),
        ({"activation": "gelu"}, "one of relu, topk, jumprelu"),
        ({"activation": "topk", "k": ...}, "k in cfg.json"),
        ({"activation": "topk", "k": 21}, "at most d_sae = 20"),
        ({"normalization": ...}, "normalization in cfg.json"),
        ({"normalization": "layer_norm"}, "one of none, affine"),
        ({"models": ["org/base"]}, "2 names, one for each source"),
        ({"models": "org/base"}, "2 names, one for each source"),
        ({"sites": ["a", "b"]}, "site or sites in cfg.json"),
        ({"sites": ["a"], "site": ...}, "2 names, one for each source"),
        ({"subtract_b_dec": "yes"}, "true or false"),
    ],
)
def test_a_config_that_is_wrong_is_refused_by_its_key(
    tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    assert text in message(copied("two_models", tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"threshold": None}, "tensor 'threshold'"),
        ({"threshold": torch.full((20,), -1.0)}, "never estimated"),
        ({"threshold": torch.zeros(3)}, "shape [d_sae 20]"),
        ({"b_dec": torch.zeros(16)}, "shape [sources 2, d_in 8]"),
        ({"W_dec": torch.zeros(2, 20, 8)}, "shape [d_sae 20, sources 2, d_in 8]"),
        ({"input_mean": torch.zeros(8, 2)}, "shape [sources 2, d_in 8]"),
    ],
)
def test_a_tensor_that_is_wrong_is_refused_by_its_name(
    tmp_path: Path, changes: dict[str, Tensor | None], text: str
) -> None:
    assert text in message(tensors(copied("two_models", tmp_path), **changes))


@pytest.mark.parametrize("case", ["two_models", "two_models_unscaled", "three_layers", "relu"])
@pytest.mark.parametrize("lost", ["config", "marker", "neither"])
def test_nobody_else_claims_it(tmp_path: Path, case: str, lost: str) -> None:
    root = copied(case, tmp_path)
    if lost == "config":
        (root / "cfg.json").unlink()
    if lost == "marker":
        tensors(root, format_version=None)
    files = CheckpointFiles(root, list_files(root))
    claims = [adapter.FORMAT for adapter in ADAPTERS if adapter.sniff(files) is not None]
    assert claims == ["saebench crosscoder"]


def test_weights_without_their_config_are_not_guessed_at(tmp_path: Path) -> None:
    (copied("two_models", tmp_path) / "cfg.json").unlink()
    assert "cfg.json beside sae_weights.safetensors" in message(tmp_path)


def test_the_user_may_name_models_and_a_threshold(tmp_path: Path) -> None:
    root = copied("two_models", tmp_path)
    sae = load_sae(root, settings={"models": "a/b,c/d", "threshold": "0.5"})
    assert sae.cfg.models == ("a/b", "c/d")
    assert sae.cfg.facts["threshold"].value == 0.5


def test_the_marker_is_no_tensor_that_nobody_uses(tmp_path: Path) -> None:
    assert not [n for n in inspect(copied("two_models", tmp_path)).notes if "not used" in n]
    more = tensors(tmp_path, extra=torch.ones(2))
    assert any("not used: extra" in note for note in inspect(more).notes)
