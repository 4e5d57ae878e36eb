"""Runs of dictionary_learning's forks, whose state dicts hold a normaliser; and tensors of no class."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saebench.activations import JumpReLU
from saebench.errors import CheckpointError
from saebench.loading import load_sae
from saebench.sae.normalization import Affine
from tests.adapters.goldens import GOLDEN, given, golden_parameters
from tests.adapters.test_dictionary_learning import converted, message, replace

FORKS = GOLDEN / "difference_sae"
FAMILIES = ("dictionary_learning", "dictionary_crosscoders", "difference_sae")


def buffers() -> dict[str, Tensor]:
    """A normaliser as the forks store it, for d_in 8."""
    std = torch.linspace(0.5, 2.0, 8)
    return {
        "activation_mean": torch.linspace(-1.0, 1.0, 8),
        "activation_std": std,
        "activation_global_scale": 100.0 / torch.sqrt((std**2).sum() + 1e-8),
        "target_rms": torch.tensor(100.0),
    }


def backup(root: Path, **tensors: Tensor) -> Path:
    """A backup of an unfinished run with a norm_factor and these tensors beside its own."""
    own = torch.load(FORKS / "run_nan" / "ae.pt", weights_only=True)
    shutil.copy(FORKS / "run_nan" / "config.json", root)
    torch.save({"ae": own | tensors, "step": 40, "norm_factor": 2.5}, root / "ae.pt")
    return root


class TestRunsWithBuffers:
    @pytest.mark.parametrize(
        ("case", "variant", "file"),
        [
            ("run_global", "global_scale", "model_final.pt"),
            ("run_per_dimension", "per_dimension", "checkpoint_500.pt"),
        ],
    )
    def test_the_normaliser_is_that_of_the_buffers(
        self, case: str, variant: str, file: str
    ) -> None:
        sae = load_sae(FORKS / case, allow_pickle=True)
        assert isinstance(sae.normalization, Affine)
        fact = sae.cfg.facts["normalization"]
        assert (fact.value, fact.how) == ("affine", "file")
        assert fact.source.startswith(f"{file}: activation_mean")
        assert sae.cfg.facts["normalization_variant"].value == variant
        assert sae.cfg.facts["target_rms"].value == 100.0
        assert not any("not used" in note for note in sae.cfg.notes)

    def test_buffers_of_nan_are_no_normaliser(self) -> None:
        sae = load_sae(FORKS / "run_nan", allow_pickle=True)
        fact = sae.cfg.facts["normalization"]
        assert (fact.value, fact.how) == ("none", "file")
        assert "hold no numbers (NaN)" in fact.source

    def test_no_buffers_mean_that_training_folded_its_factor(self, tmp_path: Path) -> None:
        fact = load_sae(converted("BatchTopKSAE", tmp_path)).cfg.facts["normalization"]
        assert (fact.value, fact.how) == ("none", "assumed")
        assert "folded into the biases" in fact.source

    def test_a_part_of_the_buffers_is_refused(self, tmp_path: Path) -> None:
        part = {key: value for key, value in buffers().items() if key != "activation_std"}
        found = message(replace(converted("BatchTopKSAE", tmp_path), **part))
        assert "in ae.safetensors, all or none" in found
        assert "(missing activation_std)" in found

    def test_means_without_deviations_are_refused(self, tmp_path: Path) -> None:
        half = buffers() | {"activation_std": torch.full((8,), torch.nan)}
        found = message(replace(converted("BatchTopKSAE", tmp_path), **half))
        assert "NaN only in activation_std" in found

    def test_the_user_can_say_that_there_is_no_normaliser(self, tmp_path: Path) -> None:
        root = replace(converted("BatchTopKSAE", tmp_path), **buffers())
        given_none = load_sae(root, settings={"normalization": "none"})
        plain = load_sae(converted("BatchTopKSAE", tmp_path / "plain"))
        x = torch.linspace(-3, 3, 40).reshape(5, 8)
        assert torch.equal(given_none(x), plain(x))
        assert given_none.cfg.facts["normalization"].how == "user"
        assert not torch.equal(load_sae(root)(x), plain(x))

    def test_codes_that_the_forks_scale_otherwise_say_that_the_file_is_of_a_fork(
        self, tmp_path: Path
    ) -> None:
        root = replace(converted("GatedAutoEncoder", tmp_path), **buffers())
        assert "only forks store activation_mean" in str(load_sae(root).cfg.notes)


class TestBackupsWithBuffers:
    def test_a_factor_beside_buffers_of_nan_goes_into_the_biases(self, tmp_path: Path) -> None:
        sae = load_sae(backup(tmp_path), allow_pickle=True)
        own = torch.load(FORKS / "run_nan" / "ae.pt", weights_only=True)
        assert torch.equal(sae.b_dec, own["b_dec"] * 2.5)
        assert sae.cfg.facts["norm_factor"].value == 2.5

    def test_a_factor_and_a_normaliser_are_refused_unless_the_user_drops_one(
        self, tmp_path: Path
    ) -> None:
        root = backup(tmp_path, **buffers())
        with pytest.raises(CheckpointError) as error:
            load_sae(root, allow_pickle=True)
        assert "ae.pt: norm_factor or the buffers activation_mean" in str(error.value)
        assert "a factor of 2.5 and a normaliser" in str(error.value)
        cfg = load_sae(root, allow_pickle=True, settings={"normalization": "none"}).cfg
        assert cfg.facts["norm_factor"].value == 2.5


class TestTensorsOfOtherClasses:
    NOTE = "tensors of {} not used: k, threshold"

    @pytest.mark.parametrize("name", ["AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder"])
    def test_a_threshold_of_a_class_without_one_is_noted_in_a_run(
        self, tmp_path: Path, name: str
    ) -> None:
        extra = {"threshold": torch.full((20,), 0.5), "k": torch.tensor(4)}
        cfg = load_sae(replace(converted(name, tmp_path), **extra)).cfg
        assert self.NOTE.format("ae.safetensors") in cfg.notes

    def test_a_threshold_of_a_class_without_one_is_noted_in_a_hub_folder(
        self, tmp_path: Path
    ) -> None:
        shutil.copytree(FORKS / "gated", tmp_path, dirs_exist_ok=True)
        file = tmp_path / "model.safetensors"
        extra = {"threshold": torch.full((20,), 0.5), "k": torch.tensor(4)}
        save_file(load_file(file) | extra, file)
        assert self.NOTE.format(file.name) in load_sae(tmp_path).cfg.notes

    @pytest.mark.parametrize("name", ["AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"])
    def test_classes_that_own_both_say_nothing_of_them(self, tmp_path: Path, name: str) -> None:
        root = converted(name, tmp_path)
        assert {"k", "threshold"} <= set(load_file(root / "ae.safetensors"))
        assert not any("not used" in note for note in load_sae(root).cfg.notes)

    def test_k_of_a_jumprelu_is_noted(self, tmp_path: Path) -> None:
        root = replace(converted("JumpReluAutoEncoder", tmp_path), k=torch.tensor(4))
        assert "tensors of ae.safetensors not used: k" in load_sae(root).cfg.notes


@pytest.mark.parametrize(
    "path",
    [case for case in golden_parameters() if case.values[0].parent.name in FAMILIES],
)
def test_a_golden_case_with_a_threshold_has_codes_below_it(path: Path) -> None:
    sae = load_sae(path, **given(path))
    if not isinstance(sae.activation, JumpReLU):
        return
    expected = load_file(path.parent / "expected" / f"{path.name}.safetensors")
    sae.activation.threshold.zero_()
    assert int((sae.encode(expected["x"]) != 0).sum()) > int((expected["codes"] != 0).sum())
