"""crosscode: what its dimensions are, which activation, whether scales are folded; and refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from saebench.errors import CheckpointError
from saebench.loading import load_sae, open_checkpoint
from saebench.sae import SAE, Crosscoder, Dictionary

GOLDEN = Path(__file__).parents[1] / "oracles" / "golden" / "crosscode"


def copied(case: str, root: Path, **tensors: Tensor | None) -> Path:
    """A golden checkpoint with changed tensors (None removes one)."""
    shutil.copytree(GOLDEN / case, root, dirs_exist_ok=True)
    if tensors:
        found = torch.load(root / "model.pt", weights_only=True) | tensors
        torch.save({k: v for k, v in found.items() if v is not None}, root / "model.pt")
    return root


def write(root: Path, *changes: tuple[str, str]) -> Path:
    file = root / "model_cfg.yaml"
    text = file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    return root


def load(root: Path, **settings: str) -> Dictionary:
    return load_sae(root, allow_pickle=True, settings=settings)


def message(root: Path, **settings: str) -> str:
    with pytest.raises(CheckpointError) as error:
        load(root, **settings)
    return str(error.value)


def test_it_is_told_by_the_names_of_its_matrices(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(copied("two_models", tmp_path), allow_pickle=True)
    assert checkpoint.claim.evidence == (
        "model.pt: _W_enc_XiDiL [2, 1, 8, 20], _W_dec_LXoDo [20, 2, 1, 8]",
    )
    assert checkpoint.claim.files == ("model_cfg.yaml", "model.pt")


def test_an_sae_and_a_skip_transcoder_are_saes(tmp_path: Path) -> None:
    sae = load(copied("sae_topk", tmp_path / "a"))
    assert type(sae) is SAE
    assert (sae.cfg.architecture, sae.cfg.k) == ("topk", 4)
    assert sae.cfg.facts["k"].source == "model_cfg.yaml: activation_fn.cfg.k"
    assert any("an SAE or a transcoder" in note for note in sae.cfg.notes)
    transcoder = load(copied("transcoder_skip", tmp_path / "b"))
    assert transcoder.W_skip is not None


def test_top_k_keeps_negative_values(tmp_path: Path) -> None:
    sae = load(copied("sae_topk", tmp_path, b_enc_L=torch.full((20,), -50.0)))
    x = load_file(GOLDEN / "expected" / "sae_topk.safetensors")["x"]
    assert ((sae.encode(x) < 0).sum(-1) == 4).all()


def test_two_dimensions_are_models_and_hook_points(tmp_path: Path) -> None:
    models = load(copied("two_models", tmp_path / "a")).cfg
    assert (models.n_sources, models.site, models.sites) == (2, "blocks.3.hook_resid_post", ())
    assert [source.model for source in models.reads] == [0, 1]
    layers = load(copied("two_layers", tmp_path / "b")).cfg
    assert layers.sites == ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
    assert layers.facts["sites"].source == "model_cfg.yaml: hookpoints"
    assert [source.model for source in layers.reads] == [0, 0]


def test_models_and_hook_points_at_once_are_refused(tmp_path: Path) -> None:
    root = copied(
        "two_models",
        tmp_path,
        _W_enc_XiDiL=torch.ones(2, 3, 8, 20),
        _W_dec_LXoDo=torch.ones(20, 2, 3, 8),
        _b_dec_XoDo=torch.ones(2, 3, 8),
    )
    assert "both at once: _W_enc_XiDiL over 2 × 3" in message(root)


def test_a_transcoder_to_several_layers_writes_several_targets(tmp_path: Path) -> None:
    sae = load(copied("to_three_layers", tmp_path))
    assert isinstance(sae, Crosscoder)
    assert (sae.cfg.n_sources, sae.cfg.n_targets) == (1, 3)
    assert sae(torch.ones(4, 8)).shape == (4, 3, 8)
    assert any("does not name the hook points written" in note for note in sae.cfg.notes)


def test_python_objects_in_the_config_are_not_built_and_settings_take_over(tmp_path: Path) -> None:
    root = copied("tuples", tmp_path)
    assert "what the 2 sources of model.pt are" in message(root)
    assert "--set activation=relu" in message(root, sources="models")
    assert "--set k=NUMBER" in message(root, sources="models", activation="topk")
    cfg = load(root, sources="layers", activation="topk", k="3").cfg
    assert any(note.startswith("model_cfg.yaml was not read") for note in cfg.notes)
    assert (cfg.k, cfg.facts["k"].how, cfg.n_sources) == (3, "user", 2)
    assert any("2 hook points of one model" in note for note in cfg.notes)


def test_a_stored_threshold_tells_jumprelu_without_a_config(tmp_path: Path) -> None:
    root = copied("two_models", tmp_path)
    (root / "model_cfg.yaml").unlink()
    cfg = load(root).cfg
    assert cfg.facts["architecture"].source == "model.pt: _activation_fn.log_threshold_L"
    assert "no model_cfg.yaml beside model.pt" in cfg.notes


def test_older_files_name_the_activation_without_an_underscore(tmp_path: Path) -> None:
    root = copied("two_models", tmp_path)
    found = torch.load(root / "model.pt", weights_only=True)
    found["activation_fn.log_threshold_L"] = found.pop("_activation_fn.log_threshold_L")
    torch.save(found, root / "model.pt")
    expected = load_file(GOLDEN / "expected" / "two_models.safetensors")
    assert torch.allclose(load(root)(expected["x"]), expected["output"], atol=1e-5)


def test_batch_top_k_has_its_threshold_estimated(tmp_path: Path) -> None:
    sae = load(copied("two_layers", tmp_path))
    assert sae.pending == ("threshold",)
    fact = sae.cfg.facts["threshold"]
    assert (fact.value, fact.how) == ("estimate", "assumed")


def test_scales_that_were_not_folded_in_are_estimated_or_given(tmp_path: Path) -> None:
    root = copied("sae_relu_unfolded", tmp_path)
    sae = load(root)
    assert sae.pending == ("input_scale",)
    assert sae.cfg.facts["normalization"].how == "assumed"
    assert load(root, input_scale="0.3").pending == ()
    assert load(copied("two_models", tmp_path / "b")).cfg.normalization == "none"
    assert "2 positive numbers" in message(tmp_path / "b", input_scale="0.3")


def test_whether_scales_are_folded_in_is_asked_for_where_no_tensor_says_it(tmp_path: Path) -> None:
    root = copied("sae_topk", tmp_path, is_folded=None)
    assert "is_folded in model.pt: no such tensor" in message(root)
    assert load(root, normalization="none").pending == ()
    assert load(root, normalization="average_norm").pending == ("input_scale",)


@pytest.mark.parametrize("case", ["to_three_layers", "transcoder_skip"])
def test_outputs_of_a_transcoder_cannot_be_scaled_by_its_inputs(tmp_path: Path, case: str) -> None:
    root = copied(case, tmp_path, is_folded=torch.tensor(False))
    found = message(root)
    assert "is_folded is false" in found
    assert "with_folded_scaling_factors" in found


def test_a_skip_that_the_library_cannot_compute_is_refused(tmp_path: Path) -> None:
    root = copied("to_three_layers", tmp_path, W_skip_DPD=torch.ones(8, 8))
    assert "W_skip_DPD of model.pt" in message(root)
    other = copied("two_models", tmp_path / "b", W_skip_DD=torch.ones(8, 8))
    assert "2 sources and 2 targets" in message(other)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("d_model: 8", "d_model: 9", ("model_cfg.yaml: d_model", "(8)", "9")),
        ("n_latents: 20", "n_latents: 64", ("model_cfg.yaml: n_latents", "(20)", "64")),
        ("k: 4", "k: 21", ("activation_fn.cfg.k", "d_sae = 20", "21")),
        ("k: 4", "j: 4", ("activation_fn.cfg.k in model_cfg.yaml", "no such key")),
        ("TopkActivation", "Sparsemax", ("activation_fn.classname", "Sparsemax")),
        ("TopkActivation", "JumpReLUActivation", ("log_threshold_L in model.pt", "no such tensor")),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_refused(
    tmp_path: Path, old: str, new: str, words: tuple[str, ...]
) -> None:
    found = message(write(copied("sae_topk", tmp_path), (old, new)))
    for word in words:
        assert word in found


def test_groups_have_to_divide_the_latents(tmp_path: Path) -> None:
    root = write(copied("to_three_layers", tmp_path), ("k_groups: 4", "k_groups: 3"))
    assert "k_groups that divides d_sae = 20: 3" in message(root)


def test_matrices_of_another_width_are_refused(tmp_path: Path) -> None:
    root = copied("sae_topk", tmp_path, _W_dec_LXoDo=torch.ones(64, 8))
    assert "shapes [8, 20] and [64, 8]" in message(root)


def test_unknown_tensors_are_reported(tmp_path: Path) -> None:
    sae = load(copied("sae_topk", tmp_path, extra=torch.ones(3)))
    assert "tensors of model.pt not used: extra" in sae.cfg.notes
