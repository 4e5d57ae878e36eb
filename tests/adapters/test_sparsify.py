"""sparsify: sizes, gates, the rule for b_dec by file version, hook points from the folder; refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saebench.adapters.eleuther import sparsify
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.loading import load_sae
from saebench.sae import SAE
from saebench.sites import parse_site

GOLDEN = Path(__file__).parents[1] / "oracles" / "golden" / "sparsify"


def copied(case: str, root: Path, **changed: Any) -> Path:
    """A golden checkpoint elsewhere, with keys of its config changed (... removes one)."""
    shutil.copytree(GOLDEN / case, root)
    config = json.loads((root / "cfg.json").read_text()) | changed
    (root / "cfg.json").write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
    return root


def with_tensors(root: Path, **tensors: Tensor) -> Path:
    file = root / "sae.safetensors"
    save_file(load_file(file) | tensors, file)
    return root


def load(path: Path, **settings: str) -> SAE:
    sae = load_sae(path, settings=settings)
    assert isinstance(sae, SAE)
    return sae


def message(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load_sae(path)
    return str(error.value)


def test_num_latents_zero_means_the_width_times_the_expansion_factor() -> None:
    cfg = load(GOLDEN / "topk_sae").cfg
    assert (cfg.d_in, cfg.d_sae, cfg.k) == (8, 16, 4)
    assert cfg.facts["d_sae"].source == "cfg.json: d_in · expansion_factor (num_latents is 0)"
    assert load(GOLDEN / "topk_sae_skip").cfg.facts["d_sae"].source == "cfg.json: num_latents"


@pytest.mark.parametrize("case", ["topk_sae", "groupmax_transcoder_skip"])
def test_facts_come_from_the_config_and_what_the_format_defines_is_marked(case: str) -> None:
    cfg = load(GOLDEN / case).cfg
    transcodes = "transcoder" in case
    assert cfg.format == "sparsify"
    assert cfg.architecture == case.split("_")[0]
    assert cfg.facts["k"].how == "file"
    assert cfg.facts["subtract_b_dec"].value is not transcodes
    assert cfg.facts["subtract_b_dec"].how == "file"
    assert cfg.facts["normalization"].how == "assumed"


def test_the_dtype_is_that_of_the_first_tensor_in_the_file(tmp_path: Path) -> None:
    root = copied("topk_sae", tmp_path / "a")
    file = root / "sae.safetensors"
    save_file({k: v.bfloat16() for k, v in load_file(file).items()}, file)
    sae = load(root)
    assert sae.cfg.dtype == "bfloat16"
    assert sae.W_enc.dtype == torch.float32


@pytest.mark.parametrize(
    ("folder", "site"),
    [
        ("layers.10", "blocks.10.hook_resid_post"),
        ("h.5", "blocks.5.hook_resid_post"),
        ("layers.5.mlp", "blocks.5.mlp.hook_out"),
        ("layers.5.self_attn", "blocks.5.attn.hook_out"),
        ("language_model.layers.7", "blocks.7.hook_resid_post"),
        ("embed_tokens", "blocks.0.hook_resid_pre"),
    ],
)
def test_an_sae_reads_the_output_of_the_module_its_folder_is_named_for(
    folder: str, site: str, tmp_path: Path
) -> None:
    cfg = load(copied("topk_sae", tmp_path / folder)).cfg
    assert cfg.site is not None
    assert parse_site(cfg.site).hook_name == site
    assert cfg.facts["site"].how == "assumed"
    assert folder in cfg.facts["site"].source
    assert not cfg.is_transcoder


def test_a_transcoder_reads_the_input_of_that_module_and_writes_its_output(tmp_path: Path) -> None:
    cfg = load(copied("topk_transcoder", tmp_path / "layers.3.mlp")).cfg
    assert (cfg.site, cfg.site_out) == ("layers.3.mlp:in", "layers.3.mlp:out")
    assert parse_site("layers.3.mlp:in").hook_name == "blocks.3.mlp.hook_in"
    assert cfg.is_transcoder


def test_the_folder_of_a_seed_lies_in_that_of_the_module(tmp_path: Path) -> None:
    assert load(copied("topk_sae", tmp_path / "layers.4" / "seed22")).cfg.site == "layers.4"


def test_without_a_telling_folder_the_hook_point_stays_open_and_a_note_says_so(
    tmp_path: Path,
) -> None:
    cfg = load(copied("topk_sae", tmp_path / "final")).cfg
    assert cfg.site is None
    assert any("which hook point" in note for note in cfg.notes)


def test_the_config_of_the_run_beside_it_names_model_and_hook_point(tmp_path: Path) -> None:
    root = copied("topk_sae", tmp_path / "run")
    run = {"model": "org/base", "hookpoints": ["layers.2"], "sae": {}}
    (root / "config.json").write_text(json.dumps(run))
    cfg = load(root).cfg
    assert (cfg.model, cfg.site) == ("org/base", "layers.2")
    assert cfg.facts["site"].how == "file"
    assert cfg.provenance["run"]["hookpoints"] == ["layers.2"]


def test_a_signed_file_of_2024_keeps_the_largest_by_absolute_value_with_their_sign(
    tmp_path: Path,
) -> None:
    root = copied("topk_sae", tmp_path / "a", signed=True, activation=..., transcode=...)
    w, x = load_file(root / "sae.safetensors"), torch.randn(5, 8)
    sae = load(root)
    pre = (x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
    kept = pre.abs() >= pre.abs().sort(-1).values[:, [-4]]
    torch.testing.assert_close(sae.encode(x), pre * kept)
    assert bool((sae.encode(x) < 0).any())
    assert sae.cfg.architecture == "abstopk"


def test_a_file_without_transcode_subtracts_b_dec_and_says_that_it_may_be_a_transcoder(
    tmp_path: Path,
) -> None:
    root = copied("topk_transcoder", tmp_path / "a", transcode=..., skip_connection=...)
    sae = load(root)
    w, x = load_file(root / "sae.safetensors"), torch.randn(5, 8)
    pre = (x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
    torch.testing.assert_close(sae.encode(x), pre.relu() * (sae.encode(x) != 0))
    fact = sae.cfg.facts["subtract_b_dec"]
    assert (fact.value, fact.how) == (True, "assumed")
    assert any("February 2025" in note for note in sae.cfg.notes)
    assert load(root, subtract_b_dec="false").b_in is None


def test_missing_keys_fall_back_to_the_librarys_defaults_marked_as_assumed(tmp_path: Path) -> None:
    root = copied("topk_sae", tmp_path / "a", activation=..., k=..., num_latents=40)
    w = load_file(root / "sae.safetensors")
    wide = {key: w[key].repeat(3, 1)[:40] for key in ("encoder.weight", "W_dec")}
    with_tensors(root, **wide, **{"encoder.bias": torch.zeros(40)})
    cfg = load(root).cfg
    assert (cfg.k, cfg.facts["k"].how) == (32, "assumed")
    assert cfg.facts["architecture"].how == "assumed"
    assert load(root, k="3").cfg.facts["k"].how == "user"


def test_multi_topk_changes_nothing_at_inference_but_is_noted() -> None:
    cfg = load(GOLDEN / "topk_sae_skip").cfg
    assert cfg.k == 4
    assert any("multi_topk" in note for note in cfg.notes)


def test_a_skip_that_the_config_has_and_the_file_lacks_is_an_error(tmp_path: Path) -> None:
    text = message(copied("topk_sae", tmp_path / "a", skip_connection=True))
    assert "'W_skip' in sae.safetensors" in text


def test_a_skip_that_the_file_has_and_the_config_denies_is_an_error(tmp_path: Path) -> None:
    text = message(copied("topk_sae_skip", tmp_path / "a", skip_connection=False))
    assert "skip_connection true" in text
    assert "W_skip" in text


def test_sizes_that_contradict_the_tensors_are_an_error_with_both(tmp_path: Path) -> None:
    text = message(copied("topk_sae", tmp_path / "a", expansion_factor=4))
    assert "[d_sae 32" in text
    assert "[16" in text


def test_k_above_the_number_of_latents_is_an_error(tmp_path: Path) -> None:
    assert "at most d_sae = 16" in message(copied("topk_sae", tmp_path / "a", k=17))


def test_groups_of_unequal_size_are_an_error(tmp_path: Path) -> None:
    text = message(copied("groupmax_sae", tmp_path / "a", k=5))
    assert "divisible by k" in text
    assert "d_sae 16, k 5" in text


def test_an_unknown_activation_is_an_error(tmp_path: Path) -> None:
    text = message(copied("topk_sae", tmp_path / "a", activation="relu"))
    assert "one of topk, groupmax" in text


def test_tensors_that_nobody_knows_are_noted(tmp_path: Path) -> None:
    root = with_tensors(copied("topk_sae", tmp_path / "a"), extra=torch.zeros(2))
    assert "tensors of sae.safetensors not used: extra" in load(root).cfg.notes


@pytest.mark.parametrize("missing", ["W_dec", "encoder.bias"])
def test_files_without_its_tensors_are_not_claimed(missing: str, tmp_path: Path) -> None:
    root = copied("topk_sae", tmp_path / "a")
    tensors = load_file(root / "sae.safetensors")
    del tensors[missing]
    save_file(tensors, root / "sae.safetensors")
    assert sparsify.sniff(CheckpointFiles(root, ("cfg.json", "sae.safetensors"))) is None


def test_files_without_the_config_or_with_anothers_are_not_claimed(tmp_path: Path) -> None:
    root = copied("topk_sae", tmp_path / "a", d_in=...)
    assert sparsify.sniff(CheckpointFiles(root, ("cfg.json", "sae.safetensors"))) is None
    assert sparsify.sniff(CheckpointFiles(root, ("sae.safetensors",))) is None
