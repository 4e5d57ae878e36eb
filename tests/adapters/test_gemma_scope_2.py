"""Gemma Scope 2: hook points from config or path, one file or one per layer, skips; refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from saebench.adapters.gemma_scope import scope_2 as gemma_scope_2
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles, list_files
from saebench.loading import load_sae
from saebench.sae import CrossLayerTranscoder, Dictionary, SAEConfig
from saebench.sites import parse_site

GOLDEN = Path(__file__).parents[1] / "oracles" / "golden" / "gemma_scope_2"


def placed(root: Path, path: str, case: str, **changed: Any) -> Path:
    """A golden checkpoint at the path of a published one, keys of its config changed."""
    folder = root / path
    shutil.copytree(GOLDEN / case, folder)
    config = json.loads((folder / "config.json").read_text()) | changed
    (folder / "config.json").write_text(
        json.dumps({k: v for k, v in config.items() if v is not ...})
    )
    return folder


def edited(folder: Path, file: str, **tensors: torch.Tensor) -> Path:
    save_file(load_file(folder / file) | tensors, folder / file)
    return folder


def message(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load_sae(path)
    return str(error.value)


def hooks(cfg: SAEConfig) -> tuple[list[str], list[str]]:
    both = ([source.site for source in ends] for ends in (cfg.reads, cfg.writes))
    read, written = ([parse_site(str(name)).hook_name for name in names] for names in both)
    return read, written


def test_a_residual_sae_is_read_from_its_config() -> None:
    cfg = load_sae(GOLDEN / "resid_post").cfg
    assert (cfg.format, cfg.architecture) == ("Gemma Scope 2", "jumprelu")
    assert hooks(cfg) == (["blocks.7.hook_resid_post"], ["blocks.7.hook_resid_post"])
    assert not cfg.is_transcoder
    assert cfg.model == "google/gemma-3-4b-it"
    assert cfg.facts["site"].how == cfg.facts["model"].how == "file"
    assert cfg.facts["subtract_b_dec"].value is False
    assert cfg.provenance["l0"] == 20


def test_examples_beside_the_weights_are_no_part_of_the_checkpoint() -> None:
    files = CheckpointFiles(GOLDEN / "resid_post", list_files(GOLDEN / "resid_post"))
    assert "examples.safetensors" in files.names
    claim = gemma_scope_2.sniff(files)
    assert claim is not None
    assert claim.weights == ("params.safetensors",)


@pytest.mark.parametrize(
    ("hook", "site"),
    [
        ("model.layers.3.output", "blocks.3.hook_resid_post"),
        ("model.layers.3.self_attn.o_proj.input", "blocks.3.attn.hook_z"),
        ("model.layers.3.post_feedforward_layernorm.output", "blocks.3.hook_mlp_out"),
        ("model.layers.3.pre_feedforward_layernorm.output", "blocks.3.mlp.hook_in"),
        ("model.language_model.layers.3.output", "blocks.3.hook_resid_post"),
    ],
)
def test_hook_points_of_the_config_are_sites(hook: str, site: str, tmp_path: Path) -> None:
    changed = {"hf_hook_point_in": hook, "hf_hook_point_out": hook}
    assert hooks(load_sae(placed(tmp_path, "a", "resid_post", **changed)).cfg)[0] == [site]


def test_a_transcoder_reads_and_writes_other_sites_and_its_skip_is_transposed() -> None:
    sae = load_sae(GOLDEN / "transcoder_affine")
    assert hooks(sae.cfg) == (["blocks.7.mlp.hook_in"], ["blocks.7.hook_mlp_out"])
    stored = load_file(GOLDEN / "transcoder_affine" / "params.safetensors")
    assert torch.equal(sae.W_skip, stored["affine_skip_connection"].T)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "read", "written"),
    [
        (
            "gemma-scope-2-1b-pt/resid_post_all/layer_10_width_262k_l0_small",
            "blocks.10.hook_resid_post",
            "blocks.10.hook_resid_post",
        ),
        (
            "gemma-scope-2-12b-it/attn_out/layer_11_width_16k_l0_small_seed_1",
            "blocks.11.attn.hook_z",
            "blocks.11.attn.hook_z",
        ),
        (
            "gemma-scope-2-4b-it/mlp_out/layer_9_width_16k_l0_medium",
            "blocks.9.hook_mlp_out",
            "blocks.9.hook_mlp_out",
        ),
        (
            "gemma-scope-2-4b-it/transcoder_all/layer_5_width_16k_l0_big_affine",
            "blocks.5.mlp.hook_in",
            "blocks.5.hook_mlp_out",
        ),
    ],
)
def test_without_a_config_the_path_says_site_and_model(
    path: str, read: str, written: str, tmp_path: Path
) -> None:
    folder = placed(tmp_path, path, "resid_post")
    (folder / "config.json").unlink()
    cfg = load_sae(folder).cfg
    assert hooks(cfg) == ([read], [written])
    assert cfg.model == path.split("/")[0].replace("gemma-scope-2", "google/gemma-3")
    assert cfg.facts["site"].how == cfg.facts["model"].how == "assumed"
    assert any("no config.json" in note for note in cfg.notes)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("gemma-v3-270m-pt", "google/gemma-3-270m"),
        ("gemma-v3-1b-pt", "google/gemma-3-1b-pt"),
        ("google/gemma-3-270m-it", "google/gemma-3-270m-it"),
    ],
)
def test_the_model_gets_the_name_it_has_on_the_hub(written: str, name: str, tmp_path: Path) -> None:
    cfg = load_sae(placed(tmp_path, "a", "resid_post", model_name=written)).cfg
    assert cfg.model == name
    assert cfg.facts["model"].how == ("file" if written == name else "assumed")
    assert "model_name" in cfg.facts["model"].source


def test_a_crosscoder_reads_and_writes_the_layers_its_folder_names(tmp_path: Path) -> None:
    path = "gemma-scope-2-1b-pt/crosscoder/layer_7_13_17_22_width_262k_l0_medium"
    sae = load_sae(placed(tmp_path, path, "crosscoder"))
    names = [f"blocks.{layer}.hook_resid_post" for layer in (7, 13, 17, 22)]
    assert isinstance(sae, CrossLayerTranscoder)
    assert hooks(sae.cfg) == (names, names)
    assert (sae.cfg.n_sources, sae.cfg.n_targets, sae.cfg.d_sae) == (4, 4, 20)
    assert not sae.cfg.is_transcoder
    assert sae.cfg.n_models == 1


def test_a_cross_layer_transcoder_reads_and_writes_every_layer(tmp_path: Path) -> None:
    path = "gemma-scope-2-270m-pt/clt/width_262k_l0_medium_affine"
    cfg = load_sae(placed(tmp_path, path, "clt_affine")).cfg
    assert hooks(cfg) == (
        [f"blocks.{layer}.mlp.hook_in" for layer in range(3)],
        [f"blocks.{layer}.hook_mlp_out" for layer in range(3)],
    )
    assert cfg.facts["sites"].how == "assumed"


def test_hook_points_listed_in_the_config_come_from_the_file(tmp_path: Path) -> None:
    listed = [f"model.layers.{layer}.output" for layer in (1, 2, 3, 5)]
    changed = {"hf_hook_point_in": listed, "hf_hook_point_out": listed}
    cfg = load_sae(placed(tmp_path, "a", "crosscoder", **changed)).cfg
    assert hooks(cfg)[0] == [f"blocks.{layer}.hook_resid_post" for layer in (1, 2, 3, 5)]
    assert cfg.facts["sites"].how == "file"
    folder = placed(tmp_path, "b", "crosscoder", hf_hook_point_in=listed[:3])
    assert "4 hook points, one for each layer" in message(folder)


def test_layers_that_nothing_names_stay_open(tmp_path: Path) -> None:
    cfg = load_sae(placed(tmp_path, "a", "crosscoder")).cfg
    assert cfg.sites == ()
    assert any("which hook points" in note for note in cfg.notes)


def test_what_a_latent_writes_to_is_in_the_values_and_all_targets_are_kept(tmp_path: Path) -> None:
    folder = placed(tmp_path, "a", "crosscoder")
    w_dec = load_file(folder / "params_layer_2.safetensors")["w_dec"]
    w_dec[:, :2] = 0  # a causal layer writes to none before it
    sae = load_sae(edited(folder, "params_layer_2.safetensors", w_dec=w_dec))
    norms = sae.decoder_norms()
    assert norms.shape == (20, 4)
    assert bool((norms[10:15, :2] == 0).all())
    assert bool((norms[10:15, 2:] > 0).all())


def test_a_skip_connects_a_layer_with_itself_only(tmp_path: Path) -> None:
    sae: Dictionary = load_sae(GOLDEN / "clt_affine")
    x = torch.randn(1, 3, 8)
    skipped = sae(x) - sae.decode(sae.encode(x))
    moved = x.clone()
    moved[:, 1] += 1
    difference = (sae(moved) - sae.decode(sae.encode(moved)) - skipped).abs().amax((0, 2))
    assert (difference > 1e-4).tolist() == [False, True, False]


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_a_missing_layer_is_an_error_that_names_its_file(layer: int, tmp_path: Path) -> None:
    folder = placed(tmp_path, "a", "crosscoder")
    (folder / f"params_layer_{layer}.safetensors").unlink()
    text = message(folder)
    assert "4 files params_layer_<i>.safetensors" in text
    assert f"params_layer_{layer}.safetensors missing" in text


def test_a_layer_too_many_is_an_error(tmp_path: Path) -> None:
    folder = placed(tmp_path, "a", "clt_affine")
    shutil.copy(folder / "params_layer_2.safetensors", folder / "params_layer_3.safetensors")
    assert "also params_layer_3.safetensors" in message(folder)


@pytest.mark.parametrize("said", [True, False])
def test_a_config_that_denies_the_skip_in_the_file_is_an_error(said: bool, tmp_path: Path) -> None:
    case = "resid_post" if said else "transcoder_affine"
    text = message(placed(tmp_path, "a", case, affine_connection=said))
    assert "affine_connection" in text or "affine_skip_connection" in text
    assert ("no such tensor" in text) is said


@pytest.mark.parametrize(
    ("tensor", "shape"),
    [("w_dec", (8, 20)), ("w_enc", (20, 8)), ("threshold", (1,)), ("b_enc", (20, 1))],
)
def test_shapes_that_contradict_each_other_are_an_error(
    tensor: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    folder = placed(tmp_path, "a", "resid_post")
    text = message(edited(folder, "params.safetensors", **{tensor: torch.rand(shape)}))
    assert "params.safetensors" in text


def test_layers_of_another_width_are_an_error(tmp_path: Path) -> None:
    folder = placed(tmp_path, "a", "crosscoder")
    edited(folder, "params_layer_1.safetensors", b_dec=torch.zeros(9), w_dec=torch.rand(5, 4, 9))
    assert "b_dec of one width in the files of all layers" in message(folder)


def test_negative_thresholds_are_an_error(tmp_path: Path) -> None:
    folder = placed(tmp_path, "a", "crosscoder")
    edited(folder, "params_layer_1.safetensors", threshold=torch.full((5,), -1.0))
    assert "threshold 'threshold' of params_layer_1.safetensors" in message(folder)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    text = message(placed(tmp_path, "a", "resid_post", architecture="topk"))
    assert "config.json: architecture (one of jump_relu)" in text


def test_tensors_that_nobody_knows_are_noted(tmp_path: Path) -> None:
    folder = placed(tmp_path, "a", "resid_post")
    cfg = load_sae(edited(folder, "params.safetensors", extra=torch.zeros(2))).cfg
    assert "tensors of params.safetensors not used: extra" in cfg.notes


def test_upper_case_tensors_are_not_claimed(tmp_path: Path) -> None:
    stored = load_file(GOLDEN / "resid_post" / "params.safetensors")
    save_file(
        {k.replace("w_", "W_"): v for k, v in stored.items()}, tmp_path / "params.safetensors"
    )
    assert gemma_scope_2.sniff(CheckpointFiles(tmp_path, ("params.safetensors",))) is None
