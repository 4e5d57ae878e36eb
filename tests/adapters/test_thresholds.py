"""Thresholds that a file lacks, or holds in another way: estimated, read, or said by the user."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saebench.activations import BatchTopK
from saebench.errors import CheckpointError
from saebench.loading import load_sae
from saebench.settings import SETTINGS
from tests.adapters.generic_files import F, Write, load

GOLDEN = Path(__file__).parents[1] / "oracles" / "golden"
RUNS = "dictionary_learning"
BATCH = [
    f"{RUNS}/BatchTopKSAE",
    f"{RUNS}/MatryoshkaBatchTopKSAE",
    "difference_sae/global",
    "difference_sae/none",
    "dictionary_crosscoders/crosscoder",
    "dictionary_crosscoders/sae",
]


def copied(root: Path, case: str, config: dict[str, Any] | None = None, **edits: Any) -> Path:
    """A golden case with its weights in safetensors and some of them (None: taken out) replaced."""
    shutil.copytree(GOLDEN / case, root, dirs_exist_ok=True)
    found: dict[str, Tensor]
    if (root / "ae.pt").exists():
        found = torch.load(root / "ae.pt", weights_only=True)
        (root / "ae.pt").unlink()
    else:
        found = load_file(root / "model.safetensors")
    tensors = {k: v.contiguous() for k, v in (found | edits).items() if v is not None}
    save_file(tensors, root / "model.safetensors")
    if config is not None:
        data = json.loads((root / "config.json").read_text()) | config
        (root / "config.json").write_text(json.dumps(data))
    return root


def inputs(case: str) -> Tensor:
    """The activations of a golden case."""
    family, name = case.split("/")
    return load_file(GOLDEN / family / "expected" / f"{name}.safetensors")["x"]


@pytest.mark.parametrize("case", BATCH)
class TestBatchTopK:
    def test_without_a_threshold_it_is_estimated_on_data(self, tmp_path: Path, case: str) -> None:
        sae: Any = load_sae(copied(tmp_path, case, threshold=None))
        assert sae.pending == ("threshold",)
        assert isinstance(sae.activation, BatchTopK)
        fact = sae.cfg.facts["threshold"]
        assert (fact.value, fact.how) == ("estimate", "assumed")
        assert any("largest codes of a whole batch" in note for note in sae.cfg.notes)
        x = inputs(case)
        sae.calibrate(x.flatten(1))
        active = int((sae.encode(x) > 0).sum())
        assert 0 < active <= sae.cfg.k * len(x)

    def test_it_is_the_estimate_that_can_be_asked_for(self, tmp_path: Path, case: str) -> None:
        automatic: Any = load_sae(copied(tmp_path / "a", case, threshold=None))
        asked: Any = load_sae(copied(tmp_path / "b", case), settings={"threshold": "estimate"})
        x = inputs(case)
        for sae in (automatic, asked):
            sae.calibrate(x.flatten(1))
        assert torch.equal(automatic.encode(x), asked.encode(x))

    def test_the_one_stored_is_a_fact_of_the_file(self, tmp_path: Path, case: str) -> None:
        sae = load_sae(copied(tmp_path, case, threshold=torch.tensor(0.25)))
        fact = sae.cfg.facts["threshold"]
        assert (fact.value, fact.source, fact.how) == (0.25, "model.safetensors: threshold", "file")
        assert not any("threshold" in note for note in sae.cfg.notes)

    def test_one_never_estimated_is_refused_with_both_ways_out(
        self, tmp_path: Path, case: str
    ) -> None:
        root = copied(tmp_path, case, threshold=torch.tensor(-1.0))
        with pytest.raises(CheckpointError) as error:
            load_sae(root)
        assert "--set threshold=NUMBER" in str(error.value)
        assert "--set threshold=estimate" in str(error.value)


def test_a_hub_folder_with_k_alone_asks_which_of_two_classes_it_is(tmp_path: Path) -> None:
    root = copied(tmp_path, "difference_sae/none", threshold=None)
    held = load_file(root / "model.safetensors")
    names = ("encoder.weight", "encoder.bias", "decoder.weight", "b_dec", "k")
    save_file({name: held[name] for name in names}, root / "model.safetensors")
    sizes = {"activation_dim": held["b_dec"].numel(), "dict_size": held["encoder.bias"].numel()}
    (root / "config.json").write_text(json.dumps({**sizes, "k": int(held["k"])}))
    with pytest.raises(CheckpointError, match="--set activation=batchtopk"):
        load_sae(root)
    assert load_sae(root, settings={"activation": "batchtopk"}).pending == ("threshold",)
    assert load_sae(root, settings={"activation": "topk"}).pending == ()


def test_the_user_overrules_the_k_of_a_sparsify_config() -> None:
    assert load_sae(GOLDEN / "sparsify" / "topk_sae", settings={"k": 2}).cfg.k == 2
    with pytest.raises(CheckpointError, match="give --set k="):
        load_sae(GOLDEN / "sparsify" / "topk_sae", settings={"k": 10_000})


class TestCrosscodersWithoutBuffers:
    def test_a_named_class_without_k_and_threshold_asks_for_k(self, tmp_path: Path) -> None:
        named = {"dict_class": "BatchTopKCrossCoder"}
        case = "dictionary_crosscoders/crosscoder"
        root = copied(tmp_path, case, named, threshold=None, k=None)
        config = json.loads((root / "config.json").read_text())
        (root / "config.json").write_text(json.dumps({**config, "k": None}))
        with pytest.raises(CheckpointError, match="--set k="):
            load_sae(root)
        assert load_sae(root, settings={"k": 3}).pending == ("threshold",)


LOGS = torch.linspace(-3, 0.5, F)


class TestLogarithms:
    JUMP = f"{RUNS}/JumpReluAutoEncoder"

    @pytest.mark.parametrize("case", [JUMP, "difference_sae/jumprelu"])
    @pytest.mark.parametrize("said", [{"threshold": "log"}, {"log_threshold": True}])
    def test_both_spellings_are_taken_by_dictionary_learning(
        self, tmp_path: Path, case: str, said: dict[str, Any]
    ) -> None:
        d_sae = load_sae(GOLDEN / case, allow_pickle=True).cfg.d_sae
        logs = torch.linspace(-3, 0.5, d_sae)
        root = copied(tmp_path / "a", case, threshold=logs)
        with pytest.raises(CheckpointError, match="Pass --set threshold=log if these are logarit"):
            load_sae(root)
        plain: Any = load_sae(copied(tmp_path / "b", case, threshold=logs.exp()))
        found: Any = load_sae(root, settings=said)
        assert torch.equal(found.activation.threshold, plain.activation.threshold)
        assert found.cfg.facts["threshold"].how == "user"
        assert not any("overrules" in note for note in found.cfg.notes)

    def test_a_jumprelu_takes_a_number_and_no_estimate(self, tmp_path: Path) -> None:
        root = copied(tmp_path, self.JUMP)
        found: Any = load_sae(root, settings={"threshold": 0.5})
        assert float(found.activation.threshold) == 0.5
        with pytest.raises(CheckpointError, match="for a batch top-k"):
            load_sae(root, settings={"threshold": "estimate"})

    @pytest.mark.parametrize("said", [{"threshold": "log"}, {"log_threshold": "true"}])
    def test_both_spellings_are_taken_by_the_generic_adapter(
        self, write: Write, said: dict[str, str]
    ) -> None:
        root = write({"activation": "jumprelu"}, threshold=LOGS)
        assert torch.equal(load(root, None, **said).activation.threshold, LOGS.exp())

    def test_generic_ones_may_be_taken_as_stored(self, write: Write) -> None:
        root = write({"activation": "jumprelu"}, threshold=LOGS)
        with pytest.raises(CheckpointError, match="--set threshold=stored"):
            load(root)
        assert torch.equal(load(root, threshold="stored").activation.threshold, LOGS)

    def test_words_about_a_tensor_need_the_tensor(self, write: Write) -> None:
        with pytest.raises(CheckpointError, match="a tensor of thresholds"):
            load(write({"activation": "jumprelu"}), threshold="log")

    @pytest.mark.parametrize("said", [{"threshold": "log"}, {"log_threshold": "true"}])
    def test_both_spellings_are_taken_by_saelens(
        self, tmp_path: Path, said: dict[str, str]
    ) -> None:
        config = {"architecture": "jumprelu", "d_in": 4, "d_sae": 6, "dtype": "float32"}
        (tmp_path / "cfg.json").write_text(json.dumps(config))
        logs = torch.linspace(-3, 0.5, 6)
        W = torch.randn(4, 6)
        weights = {"W_enc": W, "W_dec": W.T.contiguous(), "b_enc": torch.zeros(6)}
        weights |= {"b_dec": torch.zeros(4), "threshold": logs}
        save_file(weights, tmp_path / "sae_weights.safetensors")
        found: Any = load_sae(tmp_path, settings=said)
        assert torch.equal(found.activation.threshold, logs.exp())
        del weights["threshold"]
        save_file(weights | {"log_threshold": logs}, tmp_path / "sae_weights.safetensors")
        again: Any = load_sae(tmp_path, settings=said)
        assert torch.equal(again.activation.threshold, logs.exp())
        as_named = load_sae(tmp_path, settings={"log_threshold": "false"})
        assert torch.equal(getattr(as_named, "activation").threshold, logs)  # noqa: B009

    def test_gemma_scope_takes_them_too(self, tmp_path: Path) -> None:
        (file,) = (GOLDEN / "gemma_scope" / "residual").rglob("*.npz")
        arrays = dict(np.load(file))
        plain: Any = load_sae(file.parent)
        arrays["threshold"] = np.log(arrays["threshold"])
        np.savez(tmp_path / "params.npz", **arrays)
        found: Any = load_sae(tmp_path, settings={"threshold": "log"})
        assert torch.allclose(found.activation.threshold, plain.activation.threshold)

    def test_the_help_lists_every_word(self) -> None:
        assert all(word in SETTINGS["threshold"] for word in ("log", "stored", "estimate"))


@pytest.mark.parametrize(
    ("case", "file", "key"),
    [
        ("batchtopk/topk", "config.json", "top_k"),
        ("saelens/topk-none-b_dec-subtracted", "cfg.json", "k"),
    ],
)
def test_a_missing_k_is_asked_for_by_its_setting(
    tmp_path: Path, case: str, file: str, key: str
) -> None:
    root = shutil.copytree(GOLDEN / case, tmp_path / "x")
    config = json.loads((root / file).read_text())
    config.pop(key)
    (root / file).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"give --set k=…"):
        load_sae(root, allow_pickle=True)
    assert load_sae(root, allow_pickle=True, settings={"k": 3}).cfg.k == 3


@pytest.mark.parametrize("shape", [(), (1,)])
def test_the_logarithm_of_a_factor_scales_the_decoder(write: Write, shape: tuple[int, ...]) -> None:
    logarithm = {"dictionary.multiplier": torch.full(shape, 0.5)}
    root = write({"activation": "relu"}, **logarithm)
    scaled, plain = load(root), load(root, ignore="dictionary.multiplier")
    assert torch.allclose(scaled.W_dec, plain.W_dec * torch.tensor(0.5).exp())
    assert torch.equal(scaled.W_enc, plain.W_enc)
    assert any("exp('dictionary.multiplier') = 1.64872" in note for note in scaled.cfg.notes)


def test_the_logarithm_of_no_float_is_refused(write: Write) -> None:
    root = write({"activation": "relu"}, **{"dictionary.multiplier": torch.tensor(99.0)})
    with pytest.raises(CheckpointError, match="the logarithm of a factor"):
        load(root)
