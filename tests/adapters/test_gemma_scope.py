"""Gemma Scope 1: site and model from the path, marked as assumed; the embedding SAEs' units."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor

from saebench.adapters.gemma_scope import scope_1 as gemma_scope
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.loading import load_sae
from saebench.sae import SAE, SAEConfig
from saebench.sites import parse_site

GOLDEN = Path(__file__).parents[1] / "oracles" / "golden" / "gemma_scope"


def placed(root: Path, path: str, case: str = "residual") -> Path:
    """A golden checkpoint at the path of a published one."""
    shutil.copytree(GOLDEN / case, root / path)
    return root / path


def arrays(**changed: Tensor) -> dict[str, numpy.ndarray]:
    with numpy.load(GOLDEN / "residual" / "params.npz") as stored:
        return {key: stored[key] for key in stored.files} | {
            key: value.numpy() for key, value in changed.items()
        }


def written(root: Path, **changed: Tensor) -> Path:
    root.mkdir(exist_ok=True)
    numpy.savez(root / "params.npz", **arrays(**changed))
    return root


def load(path: Path, **settings: str) -> SAE:
    sae = load_sae(path, settings=settings)
    assert isinstance(sae, SAE)
    return sae


def message(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load_sae(path)
    return str(error.value)


def hooks(cfg: SAEConfig) -> tuple[str, str]:
    ends = (cfg.reads[0].site, cfg.writes[0].site)
    return tuple(parse_site(str(name)).hook_name for name in ends)  # type: ignore[return-value]


def test_the_file_settles_sizes_and_gate_and_the_format_the_rest() -> None:
    sae = load(GOLDEN / "residual")
    cfg = sae.cfg
    assert (cfg.d_in, cfg.d_sae, cfg.d_out, cfg.dtype) == (8, 20, 8, "float32")
    assert (cfg.architecture, cfg.format) == ("jumprelu", "Gemma Scope")
    assert cfg.facts["subtract_b_dec"].value is False
    assert cfg.facts["subtract_b_dec"].how == "assumed"
    assert sae.b_in is None


@pytest.mark.parametrize(
    ("path", "read", "written", "model"),
    [
        (
            "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71",
            "blocks.20.hook_resid_post",
            "blocks.20.hook_resid_post",
            "google/gemma-2-2b",
        ),
        (
            "gemma-scope-9b-pt-mlp/layer_7/width_131k/average_l0_12",
            "blocks.7.hook_mlp_out",
            "blocks.7.hook_mlp_out",
            "google/gemma-2-9b",
        ),
        (
            "gemma-scope-27b-pt-att/layer_0/width_16k/canonical",
            "blocks.0.attn.hook_z",
            "blocks.0.attn.hook_z",
            "google/gemma-2-27b",
        ),
        (
            "gemma-scope-9b-it-res/layer_31/width_16k/average_l0_76",
            "blocks.31.hook_resid_post",
            "blocks.31.hook_resid_post",
            "google/gemma-2-9b-it",
        ),
        (
            "gemma-scope-2b-pt-transcoders/layer_5/width_16k/average_l0_87",
            "blocks.5.ln2.hook_normalized",
            "blocks.5.hook_mlp_out",
            "google/gemma-2-2b",
        ),
    ],
)
def test_repository_and_folder_say_site_and_model(
    path: str, read: str, written: str, model: str, tmp_path: Path
) -> None:
    cfg = load(placed(tmp_path, path)).cfg
    assert hooks(cfg) == (read, written)
    assert cfg.model == model
    assert cfg.facts["site"].how == cfg.facts["model"].how == "assumed"
    assert path in cfg.facts["site"].source


def test_the_l0_that_the_folder_is_named_for_is_kept(tmp_path: Path) -> None:
    path = "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"
    assert load(placed(tmp_path, path)).cfg.provenance == {"average_l0": 71}


def test_a_folder_that_says_nothing_leaves_the_site_open(tmp_path: Path) -> None:
    cfg = load(placed(tmp_path, "somewhere")).cfg
    assert cfg.site is None
    assert cfg.model is None
    assert any("which hook point" in note for note in cfg.notes)


def test_an_embedding_sae_sees_the_first_blocks_input_without_the_models_scale(
    tmp_path: Path,
) -> None:
    path = "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_21"
    sae, plain = load(placed(tmp_path, path)), load(GOLDEN / "residual")
    x = torch.randn(4, 8)
    torch.testing.assert_close(sae.encode(x * 8**0.5), plain.encode(x))
    torch.testing.assert_close(sae(x * 8**0.5), plain(x) * 8**0.5)
    torch.testing.assert_close(sae.decoder_norms(), plain.decoder_norms() * 8**0.5)
    assert hooks(sae.cfg)[0] == "blocks.0.hook_resid_pre"
    assert sae.cfg.facts["input_scale"].how == "assumed"
    assert any("√d_in" in note for note in sae.cfg.notes)


def test_the_user_overrules_the_scale_of_an_embedding_sae(tmp_path: Path) -> None:
    sae = load(placed(tmp_path, "embedding/width_4k/average_l0_21"), input_scale="1")
    x = torch.randn(4, 8)
    torch.testing.assert_close(sae(x), load(GOLDEN / "residual")(x))
    assert sae.cfg.facts["input_scale"].how == "user"
    with pytest.raises(CheckpointError, match="input_scale=0"):
        load(tmp_path / "embedding/width_4k/average_l0_21", input_scale="0")


def test_negative_thresholds_are_an_error(tmp_path: Path) -> None:
    text = message(written(tmp_path / "a", threshold=torch.full((20,), -0.5)))
    assert "threshold 'threshold' of params.npz" in text


@pytest.mark.parametrize(
    ("tensor", "shape"), [("W_dec", (8, 20)), ("W_enc", (20, 8)), ("threshold", (19,))]
)
def test_shapes_that_contradict_each_other_are_an_error(
    tensor: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    text = message(written(tmp_path / "a", **{tensor: torch.rand(shape)}))
    assert repr(tensor) in text or "'W_dec'" in text
    assert "params.npz" in text
    assert str(list(shape)) in text or "[20, 8]" in text


def test_a_file_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    assert "NaN" in message(written(tmp_path / "a", b_dec=torch.full((8,), torch.nan)))


def test_an_archive_with_other_arrays_is_not_claimed(tmp_path: Path) -> None:
    numpy.savez(tmp_path / "params.npz", **{k: v for k, v in arrays().items() if k != "threshold"})
    assert gemma_scope.sniff(CheckpointFiles(tmp_path, ("params.npz",))) is None
    numpy.savez(tmp_path / "params.npz", **arrays(), more=numpy.zeros(3))
    assert gemma_scope.sniff(CheckpointFiles(tmp_path, ("params.npz",))) is None
