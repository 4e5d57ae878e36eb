"""What layouts refuse, and what becomes of folders: nothing is written that is not whole."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from saebench.activations import JumpReLU, ReLU, TopK
from saebench.errors import OutputError
from saebench.loading import load_sae
from saebench.sae import SAE
from saebench.sae.normalization import Affine, AverageNorm, LayerNorm, Whitening
from saebench.train import save_checkpoint
from saebench.train.layouts import LAYOUTS
from saebench.train.save import check_folder, check_layout
from tests.train.dictionaries import D, F, activations, dictionary

SOURCES = {"saebench": 1, "dictionary_learning": 1, "open_interp": 2}
any_layout = pytest.mark.parametrize("layout", list(SOURCES))


def of(layout: str, seed: int = 0) -> SAE:
    return dictionary(SOURCES[layout], seed=seed)


def message(sae: SAE, folder: Path, layout: str) -> str:
    """Why an SAE is refused; nothing may have been written."""
    with pytest.raises(OutputError) as error:
        save_checkpoint(sae, folder / "a", layout=layout)
    assert not any(folder.iterdir())
    return str(error.value)


def same(sae: SAE, folder: Path) -> bool:
    x = activations(sae.cfg.n_sources)
    found, expected = load_sae(folder).reconstruct(x)[1], sae.reconstruct(x)[1]
    return bool(torch.allclose(found, expected, rtol=1e-4, atol=1e-4))


class TestFolders:
    @any_layout
    def test_a_checkpoint_is_replaced_only_when_told_so(self, tmp_path: Path, layout: str) -> None:
        first, second = of(layout), of(layout, seed=1)
        folder = save_checkpoint(first, tmp_path / "a", layout=layout, history=[{"step": 1}])
        (folder / "README.md").write_text("mine")
        with pytest.raises(OutputError, match="it exists"):
            save_checkpoint(second, folder, layout=layout)
        assert same(first, folder)
        save_checkpoint(second, folder, layout=layout, overwrite=True)
        assert same(second, folder)
        assert not same(first, folder)
        expected = {*LAYOUTS[layout].files, "README.md"} - {"training.jsonl"}
        assert {path.name for path in folder.iterdir()} == expected

    @any_layout
    @pytest.mark.parametrize("there", list(SOURCES))
    def test_the_checkpoint_of_another_layout_is_never_replaced(
        self, tmp_path: Path, layout: str, there: str
    ) -> None:
        if there == layout:
            return
        sae = of(there)
        folder = save_checkpoint(sae, tmp_path / "a", layout=there)
        with pytest.raises(OutputError, match=f"a checkpoint in layout {there}"):
            save_checkpoint(of(layout), folder, layout=layout, overwrite=True)
        assert same(sae, folder)
        with pytest.raises(OutputError, match=f"a checkpoint in layout {there}"):
            check_folder(folder, overwrite=True, layout=layout)

    def test_an_sae_and_a_crosscoder_of_our_own_replace_each_other(self, tmp_path: Path) -> None:
        folder = save_checkpoint(dictionary(1), tmp_path / "a")
        save_checkpoint(dictionary(3), folder, overwrite=True)
        assert load_sae(folder).cfg.n_sources == 3
        save_checkpoint(dictionary(1), folder, overwrite=True)
        assert load_sae(folder).cfg.n_sources == 1

    def test_a_language_model_is_no_checkpoint_of_the_layout_with_its_file_names(
        self, tmp_path: Path
    ) -> None:
        config = {"architectures": ["LlamaForCausalLM"], "hidden_size": 8}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "model.safetensors").write_bytes(b"weights")
        with pytest.raises(OutputError, match="without activation_dim and dict_size"):
            save_checkpoint(dictionary(), tmp_path, layout="dictionary_learning", overwrite=True)
        assert (tmp_path / "model.safetensors").read_bytes() == b"weights"

    @pytest.mark.parametrize("text", ["[1]", "not json", "\x00"])
    def test_a_config_that_is_none_is_not_overwritten(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "cfg.json").write_text(text)
        with pytest.raises(OutputError, match="no checkpoint of this layout"):
            check_folder(tmp_path, overwrite=True)

    @any_layout
    @pytest.mark.parametrize(
        "failing", ["saebench.train.save.save_file", "pathlib.Path.write_text"]
    )
    def test_a_failure_leaves_the_old_checkpoint_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, failing: str
    ) -> None:
        sae = of(layout)
        folder = save_checkpoint(sae, tmp_path / "a", layout=layout)

        def fail(*args: Any, **kwargs: Any) -> None:
            raise OSError("disk full")

        with monkeypatch.context() as patch:
            patch.setattr(failing, fail)
            with pytest.raises(OutputError, match="disk full"):
                save_checkpoint(of(layout, seed=1), folder, layout=layout, overwrite=True)
        assert same(sae, folder)
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    def test_a_layout_that_is_none_is_refused_with_those_there_are(self, tmp_path: Path) -> None:
        assert "saebench, dictionary_learning, open_interp" in message(dictionary(), tmp_path, "x")
        with pytest.raises(OutputError, match="'saelens'"):
            check_layout(dictionary(), "saelens")


def _centred(sae: SAE) -> None:
    sae.cfg = replace(sae.cfg, centred=True)


def _relu(sae: SAE) -> None:
    sae.activation = ReLU()


def _top_k(sae: SAE) -> None:
    sae.activation = TopK(3)


def _layer_norm(sae: SAE) -> None:
    sae.normalization = LayerNorm()


def _whitened(sae: SAE) -> None:
    eye = torch.eye(sae.cfg.width_in)
    sae.normalization = Whitening(torch.zeros(sae.cfg.width_in), eye, eye)


def _pending(sae: SAE) -> None:
    sae.normalization = AverageNorm(sae.cfg.n_sources)


def _skip(sae: SAE) -> None:
    sae.W_skip = torch.zeros(sae.cfg.width_out, sae.cfg.width_in)


def _latent_scale(sae: SAE) -> None:
    sae.latent_scale = torch.full((F,), 2.0)


def _transcoder(sae: SAE) -> None:
    sae.cfg = replace(sae.cfg, site_out="blocks.2.hook_mlp_out")


def _other_way_out(sae: SAE) -> None:
    scale = sae.normalization.scale
    assert isinstance(scale, torch.Tensor)
    sae.normalization = Affine(scale, scale_out=2 / scale)


def _without_k(sae: SAE) -> None:
    sae.cfg = replace(sae.cfg, k=None)


def _nameless_site(sae: SAE) -> None:
    sae.cfg = replace(sae.cfg, site="encoder.layer.3")


def _negative_scale(sae: SAE) -> None:
    sae.normalization = Affine(torch.full((sae.cfg.width_in,), -1.0))


def _per_dimension(sae: SAE) -> None:
    sae.normalization = Affine(torch.linspace(1, 2, sae.cfg.width_in))


def _one_threshold(sae: SAE) -> None:
    sae.activation = JumpReLU(torch.tensor(0.3))


def _thresholds(sae: SAE) -> None:
    sae.activation = JumpReLU(torch.linspace(0.1, 1, F))


def _one_silent(sae: SAE) -> None:
    values = sae.activation.threshold
    assert isinstance(values, torch.Tensor)
    sae.activation = JumpReLU(values.clone())
    sae.activation.threshold[0] = math.inf


def _all_silent(sae: SAE) -> None:
    sae.activation = JumpReLU(torch.tensor(math.inf))


def _without_direction(sae: SAE) -> None:
    sae.W_dec[0] = 0


def _shifted(sae: SAE) -> None:
    width = sae.cfg.width_in
    sae.normalization = Affine(torch.ones(width), torch.ones(width))


def _zero_thresholds(sae: SAE) -> None:
    sae.activation = JumpReLU(torch.zeros(F))


ANY, LEARNING, INTERP = "saebench", "dictionary_learning", "open_interp"
REFUSED = [
    *[(ANY, n, change, text) for n in (1, 2) for change, text in (
        (_whitened, "covariance_whitening inputs"),
        (_pending, "average_norm inputs"),
        (_skip, "W_skip"),
        (_latent_scale, "latent_scale"),
        (_transcoder, "a transcoder"),
    )],
    (ANY, 2, _layer_norm, "layer_norm inputs"),
    *[(LEARNING, n, change, text) for n in (1, 2) for change, text in (
        (_relu, "the activation ReLU"),
        (_top_k, "the activation TopK"),
        (_layer_norm, "layer_norm inputs"),
        (_without_k, "no k"),
        (_centred, "activations of a centred model"),
        (_nameless_site, "the hook point 'encoder.layer.3'"),
        (_other_way_out, "outputs normalised by other numbers than inputs"),
        (_negative_scale, "an input scale that is not positive"),
        (_thresholds, "thresholds that are one"),
        (_one_silent, "latents that never fire"),
        (_all_silent, "latents that never fire"),
        (_latent_scale, "latent_scale"),
    )],
    (LEARNING, 2, _per_dimension, "inputs scaled dimension by dimension"),
    (LEARNING, 2, _one_threshold, "one number over the summed decoder norms"),
    (LEARNING, 2, _without_direction, "one number over the summed decoder norms"),
    (INTERP, 1, _centred, "1 source"),
    (INTERP, 3, _centred, "3 sources"),
    *[(INTERP, 2, change, text) for change, text in (
        (_per_dimension, "inputs scaled dimension by dimension"),
        (_shifted, "inputs with a mean taken out"),
        (_relu, "the activation ReLU"),
        (_nameless_site, "the hook point 'encoder.layer.3'"),
        (_zero_thresholds, "0 for all latents"),
        (_negative_scale, "an input scale that is not positive"),
        (_other_way_out, "outputs normalised by other numbers than inputs"),
        (_centred, "activations of a centred model"),
    )],
]  # fmt: skip


@pytest.mark.parametrize(("layout", "n_sources", "change", "found"), REFUSED)
def test_what_a_layout_cannot_express_is_named_and_nothing_is_written(
    tmp_path: Path, layout: str, n_sources: int, change: Any, found: str
) -> None:
    sae = dictionary(n_sources)
    change(sae)
    text = message(sae, tmp_path, layout)
    assert found in text
    assert layout in text


def test_layers_of_one_model_are_no_two_models(tmp_path: Path) -> None:
    text = message(dictionary(2, sites=True), tmp_path, INTERP)
    assert "layers of one model (blocks.0.hook_resid_post, blocks.1.hook_resid_post)" in text


def test_three_models_need_names_in_the_forks_folder(tmp_path: Path) -> None:
    sae = dictionary(3)
    sae.cfg = replace(sae.cfg, models=())
    assert "3 models without their names" in message(sae, tmp_path, LEARNING)
    two = dictionary(2)
    two.cfg = replace(two.cfg, models=())
    loaded = load_sae(save_checkpoint(two, tmp_path / "b", layout=LEARNING))
    assert loaded.cfg.reads == two.cfg.reads


@pytest.mark.parametrize(
    ("layout", "n_sources", "kind"),
    [(ANY, 2, "none"), (LEARNING, 3, "standardize"), (INTERP, 1, "scale")],
)
def test_a_layout_can_be_checked_before_there_are_thresholds(
    layout: str, n_sources: int, kind: str
) -> None:
    sae = of(layout)
    sae.activation = JumpReLU(torch.zeros(F))
    check_layout(sae, layout)
    other = dictionary(n_sources, kind)
    if layout == ANY:
        _layer_norm(other)
    with pytest.raises(OutputError, match=layout):
        check_layout(other, layout)


def test_float32_holds_thresholds_that_nothing_passes(tmp_path: Path) -> None:
    for n_sources, layout in ((1, ANY), (2, ANY), (2, INTERP)):
        sae = dictionary(n_sources)
        _one_silent(sae)
        loaded = load_sae(save_checkpoint(sae, tmp_path / f"{layout}-{n_sources}", layout=layout))
        x = activations(n_sources, size=10)
        shaped = x.reshape(-1, n_sources, D) if n_sources > 1 else x
        assert torch.equal(loaded.encode(shaped) != 0, sae.encode(shaped) != 0)
        assert not bool(loaded.encode(shaped)[:, 0].any())
