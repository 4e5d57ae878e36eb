"""clt-training: targets, post-encoder bias and scale, units; what one folder alone cannot settle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from saebench.errors import CheckpointError
from saebench.loading import load_sae
from saebench.sae import SAE

GOLDEN = Path(__file__).parents[1] / "oracles" / "golden" / "clt_training"


def copied(case: str, root: Path, without: str = "-", **changed: Any) -> Path:
    """A golden checkpoint elsewhere, config changed and tensors of a prefix left out."""
    shutil.copytree(GOLDEN / case, root)
    config = json.loads((root / "cfg.json").read_text()) | changed
    (root / "cfg.json").write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
    tensors = load_file(root / "sae.safetensors")
    kept = {k: v for k, v in tensors.items() if not k.startswith(without)}
    save_file(kept, root / "sae.safetensors")
    return root


def load(path: Path, **settings: str) -> SAE:
    sae = load_sae(path, settings=settings)
    assert isinstance(sae, SAE)
    return sae


def message(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load_sae(path)
    return str(error.value)


def test_one_source_writes_its_own_layer_and_those_after_it(tmp_path: Path) -> None:
    cfg = load(copied("three_targets", tmp_path / "layers.4.mlp")).cfg
    assert cfg.format == "clt-training"
    assert (cfg.n_sources, cfg.n_targets) == (1, 3)
    assert cfg.site == "layers.4.mlp:in"
    assert cfg.sites_out == ("layers.4.mlp:out", "layers.5.mlp:out", "layers.6.mlp:out")
    assert cfg.facts["sites_out"].how == "assumed"
    assert [source.site for source in cfg.writes] == list(cfg.sites_out)
    assert any("sum over" in note for note in cfg.notes)
    assert not any("not used" in note for note in cfg.notes)


def test_decoder_norms_are_given_for_each_target() -> None:
    sae = load(GOLDEN / "three_targets")
    stored = load_file(GOLDEN / "three_targets" / "sae.safetensors")
    expected = [
        stored[f"W_decs.{t}"].norm(dim=1) * stored[f"post_enc_scales.{t}"] for t in range(3)
    ]
    torch.testing.assert_close(sae.decoder_norms(), torch.stack(expected, 1))


def test_files_older_than_the_post_encoder_bias_have_none(tmp_path: Path) -> None:
    root = copied("one_target", tmp_path / "a", without="post_enc")
    sae, stored = load(root), load_file(root / "sae.safetensors")
    f = torch.rand(3, 20)
    expected = f @ stored["W_decs.0"] + stored["b_decs.0"]
    torch.testing.assert_close(sae.decode(f), expected)


def test_a_latent_that_is_not_active_gets_no_bias() -> None:
    sae = load(GOLDEN / "one_target")
    stored = load_file(GOLDEN / "one_target" / "sae.safetensors")
    torch.testing.assert_close(sae.decode(torch.zeros(1, 20))[0], stored["b_decs.0"])


def test_scales_that_the_file_lacks_are_those_training_starts_from(tmp_path: Path) -> None:
    root = copied("three_targets", tmp_path / "a", without="post_enc_scales")
    norms = load(root).decoder_norms()
    assert bool((norms[:, 0] > 0).all())
    assert bool((norms[:, 1:] == 0).all())


def test_a_missing_out_width_is_that_of_the_input(tmp_path: Path) -> None:
    assert load(copied("one_target", tmp_path / "a", d_out=...)).cfg.d_out == 8
    assert load(copied("one_target", tmp_path / "b", d_out=0)).cfg.d_out == 8
    assert load(GOLDEN / "groupmax").cfg.d_out == 11


def test_batchtopk_is_estimated_on_data_unless_the_user_gives_a_threshold() -> None:
    sae = load(GOLDEN / "batchtopk")
    assert sae.pending == ("threshold",)
    assert sae.cfg.facts["threshold"].how == "assumed"
    given = load(GOLDEN / "batchtopk", threshold="0.4")
    assert given.pending == ()
    assert given.cfg.facts["threshold"].how == "user"


def test_units_of_input_and_output_are_those_stored() -> None:
    sae = load(GOLDEN / "transcoder_skip_normalized")
    assert sae.cfg.normalization == "affine"
    assert sae.cfg.facts["normalization"].how == "file"
    assert float(sae.normalization.scale) == pytest.approx(8**0.5 / 7.5)
    assert float(sae.normalization.scale_out) == pytest.approx(3.25 / 8**0.5)


def test_a_config_of_the_fork_is_enough_to_tell_it_from_sparsify(tmp_path: Path) -> None:
    root = copied("groupmax", tmp_path / "a", without="post_enc")
    assert load(root).cfg.format == "clt-training"


@pytest.mark.parametrize("mode", ["concat", "per-layer", "group"])
def test_latents_selected_over_several_layers_are_refused(mode: str, tmp_path: Path) -> None:
    text = message(copied("three_targets", tmp_path / "a", coalesce_topk=mode))
    assert "cfg.json: coalesce_topk 'none'" in text
    assert repr(mode) in text


@pytest.mark.parametrize("key", ["per_source_tied", "secondary_target_tied"])
def test_tied_decoders_are_refused(key: str, tmp_path: Path) -> None:
    assert f"cfg.json: {key} false" in message(
        copied("three_targets", tmp_path / "a", **{key: True})
    )


def test_units_of_later_layers_are_in_their_folders_so_that_it_is_refused(tmp_path: Path) -> None:
    text = message(copied("three_targets", tmp_path / "a", normalize_io=True))
    assert "n_targets 1 with normalize_io" in text
    assert "out_norm" in text


@pytest.mark.parametrize("n_targets", [2, 4])
def test_targets_that_contradict_the_tensors_are_an_error(n_targets: int, tmp_path: Path) -> None:
    text = message(copied("three_targets", tmp_path / "a", n_targets=n_targets))
    assert "W_decs." in text


def test_a_missing_or_zero_norm_is_an_error(tmp_path: Path) -> None:
    root = copied("sae_normalized", tmp_path / "a", without="in_norm")
    assert "'in_norm' in sae.safetensors" in message(root)
    tensors = load_file(root / "sae.safetensors") | {"in_norm": torch.zeros(1)}
    save_file(tensors, root / "sae.safetensors")
    assert "in_norm of sae.safetensors above 0" in message(root)
