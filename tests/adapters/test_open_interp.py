"""OpenInterpretability crosscoders: scales, thresholds, models and the published layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saebench.errors import CheckpointError, UnsafeFileError
from saebench.loading import load_sae, open_checkpoint
from saebench.sae import Crosscoder, Dictionary

GOLDEN = Path(__file__).parents[1] / "oracles" / "golden" / "open_interp"
WEIGHTS = "crosscoder_final.safetensors"


def copied(case: str, root: Path, **changes: Any) -> Path:
    """A golden checkpoint with changed config keys (``...`` removes one)."""
    shutil.copytree(GOLDEN / case, root, dirs_exist_ok=True)
    if changes:
        config = json.loads((root / "cfg.json").read_text()) | changes
        kept = {key: value for key, value in config.items() if value is not ...}
        (root / "cfg.json").write_text(json.dumps(kept))
    return root


def replace(root: Path, **tensors: Tensor) -> Path:
    save_file(load_file(root / WEIGHTS) | tensors, root / WEIGHTS)
    return root


def load(root: Path, **settings: str) -> Dictionary:
    return load_sae(root, allow_pickle=True, settings=settings)


def message(root: Path, **settings: str) -> str:
    with pytest.raises(CheckpointError) as error:
        load(root, **settings)
    return str(error.value)


def test_the_published_layout_loads_without_pickle_and_with_its_side_files(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(copied("final", tmp_path))
    assert checkpoint.claim.files == ("cfg.json", WEIGHTS)
    assert checkpoint.claim.evidence == (
        f"{WEIGHTS}: W_enc [2, 8, 20], W_dec, threshold [20]",
        "cfg.json: architecture 'cross_model_crosscoder'",
    )
    assert isinstance(checkpoint.sae, Crosscoder)


def test_facts_name_their_keys(tmp_path: Path) -> None:
    cfg = load(copied("final", tmp_path)).cfg
    found = {name: (fact.value, fact.source, fact.how) for name, fact in cfg.facts.items()}
    models = ("google/gemma-2-2b", "google/gemma-2-2b-it")
    assert found["models"] == (models, "cfg.json: base_model, chat_model", "file")
    assert found["k"] == (5, "cfg.json: k_batchtopk", "file")
    assert found["d_sae"] == (20, "cfg.json: n_features", "file")
    scales = "cfg.json: norm_scale_A, norm_scale_B"
    assert found["input_scale"] == ((0.21, 0.34), scales, "file")
    assert found["normalization"] == ("affine", scales, "file")
    assert found["site"][0] == "blocks.13.hook_resid_post"
    assert [(source.site, source.model) for source in cfg.reads] == [
        ("blocks.13.hook_resid_post", 0),
        ("blocks.13.hook_resid_post", 1),
    ]


def test_what_the_author_measured_is_kept_as_provenance(tmp_path: Path) -> None:
    provenance = load(copied("final", tmp_path)).cfg.provenance
    assert provenance["val_metrics"]["ve_A"] == 0.8773
    assert provenance["taxonomy_counts"]["dead"] == 2
    assert provenance["run"]["k_warmup_init"] == 1000


def test_latents_without_a_threshold_stay_active_where_positive_and_are_counted(
    tmp_path: Path,
) -> None:
    sae = load(copied("final", tmp_path))
    x = load_file(GOLDEN / "expected" / "final.safetensors")["x"]
    assert bool((sae.encode(x)[:, :5] > 0).any())
    assert any(note.startswith("5 of 20 thresholds are 0") for note in sae.cfg.notes)


def test_decoder_norms_are_in_units_of_activations(tmp_path: Path) -> None:
    root = copied("final", tmp_path)
    norms = load_file(root / WEIGHTS)["W_dec"].norm(dim=-1) / torch.tensor([0.21, 0.34])
    assert torch.allclose(load(root).decoder_norms(), norms)


def test_nothing_of_the_matrices_is_copied_twice(tmp_path: Path) -> None:
    sae = load(copied("final", tmp_path))
    size = (tmp_path / WEIGHTS).stat().st_size
    for matrix in (sae.W_enc, sae.W_dec):  # type: ignore[attr-defined]
        assert matrix.is_contiguous()
        assert matrix.untyped_storage().nbytes() <= size


def test_a_run_that_had_not_ended_has_its_threshold_estimated(tmp_path: Path) -> None:
    root = copied("resume", tmp_path)
    sae = load(root)
    assert sae.pending == ("threshold",)
    assert sae.cfg.facts["threshold"].how == "assumed"
    assert any("had not ended (tensors under 'cc', at step 500)" in n for n in sae.cfg.notes)
    w = torch.load(root / "crosscoder_resume.pt", weights_only=True)["cc"]
    x = load_file(GOLDEN / "expected" / "resume.safetensors")["x"]
    sae.calibrate(x.flatten(1))
    h = x * torch.tensor([0.21, 0.34])[:, None] - w["b_dec"]
    acts = torch.relu(torch.einsum("bmd,mdf->bf", h, w["W_enc"]) + w["b_enc"])
    ranked = acts * w["W_dec"].norm(dim=-1).sum(-1)  # as training ranks them
    smallest = ranked.flatten().topk(5 * len(x)).values.min()
    assert torch.equal(sae.encode(x) != 0, ranked >= smallest)


def test_a_checkpoint_of_a_run_brings_its_own_config(tmp_path: Path) -> None:
    root = copied("resume", tmp_path)
    (root / "cfg.json").unlink()
    cfg = load(root).cfg
    assert cfg.facts["input_scale"].value == (0.21, 0.34)
    assert cfg.facts["k"].source == "crosscoder_resume.pt, cfg: k_batchtopk"
    assert cfg.provenance["run"]["tokens_seen"] == 4096
    assert not {"opt", "log", "cfg"} & set(cfg.provenance["run"])


def test_the_final_file_is_read_where_the_resume_lies_beside_it(tmp_path: Path) -> None:
    copied("resume", tmp_path)
    checkpoint = open_checkpoint(copied("final", tmp_path), allow_pickle=True)
    assert checkpoint.claim.weights == (WEIGHTS,)


def test_a_resume_alone_is_refused_without_the_flag() -> None:
    with pytest.raises(UnsafeFileError, match="--allow-pickle"):
        load_sae(GOLDEN / "resume")


def test_a_final_file_without_thresholds_is_refused_unless_one_is_asked_for(tmp_path: Path) -> None:
    root = replace(copied("final", tmp_path), threshold=torch.zeros(20))
    assert "0 for all latents, the initial value" in message(root)
    assert load(root, threshold="estimate").pending == ("threshold",)
    assert load(root, threshold="0.3").pending == ()


def test_negative_thresholds_are_refused(tmp_path: Path) -> None:
    root = replace(copied("final", tmp_path), threshold=torch.full((20,), -0.5))
    assert f"threshold 'threshold' of {WEIGHTS} with values >= 0" in message(root)


def test_without_scales_they_are_estimated_or_given(tmp_path: Path) -> None:
    root = copied("final", tmp_path, norm_scale_A=..., norm_scale_B=...)
    sae = load(root)
    assert sae.pending == ("input_scale",)
    assert sae.cfg.facts["normalization"].how == "assumed"
    x = load_file(GOLDEN / "expected" / "final.safetensors")
    found = load(root, input_scale="0.21,0.34")(x["x"])
    assert torch.allclose(found, x["output"], atol=1e-4)
    (root / "cfg.json").unlink()
    assert load(root).cfg.facts["d_sae"].source == f"{WEIGHTS}: shape of W_enc"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"d_model": 16}, ("cfg.json: d_model", "shape of W_enc (8)", "16")),
        ({"n_features": 64}, ("cfg.json: n_features", "shape of W_enc (20)", "64")),
        ({"norm_scale_B": ...}, ("norm_scale_B in cfg.json", "no such key", "input_scale")),
        ({"norm_scale_A": 1e200}, ("norm_scale_A in cfg.json", "positive", "1e+200")),
        ({"norm_scale_A": 0}, ("norm_scale_A in cfg.json", "positive", "0")),
        ({"norm_scale_A": "0.2"}, ("norm_scale_A in cfg.json", "'0.2'")),
        ({"base_model": 3}, ("cfg.json: base_model", "a string")),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    found = message(copied("final", tmp_path, **changes))
    for word in words:
        assert word in found


@pytest.mark.parametrize("scale", ["0.2", "0.2,0.3,0.4", "0.2,-0.3", "0,1"])
def test_scales_that_do_not_fit_two_models_are_refused(tmp_path: Path, scale: str) -> None:
    assert "2 positive numbers, one per source" in message(
        copied("final", tmp_path), input_scale=scale
    )


def test_biases_of_another_shape_are_refused(tmp_path: Path) -> None:
    root = replace(copied("final", tmp_path), b_dec=torch.zeros(16))
    assert f"'b_dec' of {WEIGHTS} with shape [models 2, d_in 8]: shape [16]" in message(root)
