"""Pickles are read as data: the same tensors as torch's own reader, and nothing is ever called."""

from __future__ import annotations

import argparse
import collections
import enum
import gzip
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from saebench.errors import CheckpointError, UnsafeFileError
from saebench.weights import TensorInfo, read_header, read_pickle

OLD = {"_use_new_zipfile_serialization": False}
TENSORS = {
    "W": torch.arange(12.0).reshape(3, 4),
    "turned": torch.arange(12.0).reshape(3, 4).T,
    "part": torch.arange(20.0)[4:8],
    "half": torch.arange(3).to(torch.bfloat16),
    "small": torch.arange(3).to(torch.float8_e4m3fn),
    "flags": torch.tensor([True, False]),
    "count": torch.tensor(7),
    "empty": torch.zeros(0, 3),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


def save(root: Path, content: Any, name: str = "ae.pt", **options: Any) -> Path:
    torch.save(content, root / name, **options)
    return root / name


class TestAgainstTorch:
    @pytest.mark.parametrize("options", [{}, OLD], ids=["archive", "before 1.6"])
    @pytest.mark.parametrize("protocol", [2, 4, 5])
    def test_tensors_are_those_of_torch(
        self, tmp_path: Path, options: dict[str, Any], protocol: int
    ) -> None:
        tensors = {key: value for key, value in TENSORS.items() if key != "small" or not options}
        path = save(tmp_path, tensors, pickle_protocol=protocol, **options)
        expected = torch.load(path, weights_only=False)
        found = read_pickle(path).tensors
        assert list(found) == list(expected)
        for key, tensor in expected.items():
            assert found[key].dtype is tensor.dtype
            assert found[key].stride() == tensor.stride() or tensor.numel() == 0
            assert torch.equal(found[key].float(), tensor.float())
        assert read_header(path)["turned"] == TensorInfo("float32", (4, 3))

    @pytest.mark.parametrize("options", [{}, OLD], ids=["archive", "before 1.6"])
    def test_a_large_tensor_and_one_tied_to_it(
        self, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        W = torch.randn(600, 700)
        found = read_pickle(save(tmp_path, {"W": W, "tied": W.T}, **options)).tensors
        assert torch.equal(found["W"], W)
        assert torch.equal(found["tied"], W.T)

    def test_the_state_dict_of_a_module_is_read(self, tmp_path: Path) -> None:
        module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
        found = read_pickle(save(tmp_path, module.state_dict())).tensors
        assert {key: found[key].tolist() for key in found} == {
            key: tensor.tolist() for key, tensor in module.state_dict().items()
        }

    @pytest.mark.parametrize("protocol", range(6))
    @pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["pkl", "pkl.gz"])
    def test_a_plain_pickle_is_read(self, tmp_path: Path, protocol: int, pack: Any) -> None:
        data = pickle.dumps({"state_dict": {"W": torch.arange(4.0)}, "k": 3}, protocol)
        path = tmp_path / ("ae.pkl" if pack is bytes else "ae.pkl.gz")
        path.write_bytes(pack(data))
        found = read_pickle(path)
        assert found.tensors["W"].tolist() == [0.0, 1.0, 2.0, 3.0]
        assert found.siblings == {"k": 3}

    def test_an_outline_has_vectors_and_no_matrices(self, tmp_path: Path) -> None:
        found = read_pickle(save(tmp_path, TENSORS), outline=True).tensors
        assert {key for key in found if found[key].is_meta} == {"W", "turned", "empty"}


class TestWrapping:
    W = torch.ones(2)

    @pytest.mark.parametrize(
        ("content", "wrapper", "keys", "siblings"),
        [
            ({"W": W, "cfg": {"k": 4}}, None, ["W"], {"cfg": {"k": 4}}),
            ({"params": {"W": W}, "config": {"a": [1]}}, "params", ["W"], {"config": {"a": [1]}}),
            ({"model": {"state_dict": {"W": W}}, "k": 2}, "model.state_dict", ["W"], {"k": 2}),
            ({"trained": {"W": W}, "k": 2}, "trained", ["W"], {"k": 2}),
            ({"trained": {"W": W}, "optimizer": {"m": W}}, "trained", ["W"], {}),
            ({"ae": {"W": W, "k": 5}, "step": 1}, "ae", ["W"], {"k": 5, "step": 1}),
            ({"encoder": {"W": W, "b": W}}, None, ["encoder.W", "encoder.b"], {"encoder": {}}),
            (
                {"encoder": {"W": W}, "decoder": {"W": W}, "act": "relu"},
                None,
                ["encoder.W", "decoder.W"],
                {"encoder": {}, "decoder": {}, "act": "relu"},
            ),
            ({"sae": {"W": W}, "mean": W}, "sae", ["W", "mean"], {}),
            (
                {"W": W, "dtype": torch.float32, "device": torch.device("cuda", 1), "loss": 1e999},
                None,
                ["W"],
                {"dtype": "torch.float32", "device": "cuda:1", "loss": "inf"},
            ),
            (
                {"W": W, "seen": {1, 2}, "size": torch.Size([2])},
                None,
                ["W"],
                {"seen": [1, 2], "size": [2]},
            ),
        ],
        ids=range(11),
    )
    def test_the_state_dict_is_found_and_what_lies_beside_it_kept(
        self, tmp_path: Path, content: Any, wrapper: Any, keys: list[str], siblings: Any
    ) -> None:
        found = read_pickle(save(tmp_path, content))
        assert (found.wrapper, list(found.tensors)) == (wrapper, keys)
        assert found.siblings == siblings

    def test_two_state_dicts_are_named(self, tmp_path: Path) -> None:
        path = save(tmp_path, {"model": {"W": self.W}, "sae": {"W": self.W}})
        with pytest.raises(CheckpointError, match="several, under 'sae', 'model'"):
            read_pickle(path)

    def test_one_name_inside_and_beside_is_refused(self, tmp_path: Path) -> None:
        path = save(tmp_path, {"sae": {"W": self.W}, "W": self.W})
        with pytest.raises(CheckpointError, match="one beside the state dict and one in it"):
            read_pickle(path)

    def test_values_that_multiply_by_sharing_are_refused(self, tmp_path: Path) -> None:
        value: Any = ["lol"] * 10
        for _ in range(8):
            value = [value] * 10
        with pytest.raises(UnsafeFileError, match="more than 500,000 values"):
            read_pickle(save(tmp_path, {"W": self.W, "cfg": value}))

    def test_dicts_that_multiply_by_sharing_are_refused(self, tmp_path: Path) -> None:
        value: Any = {"W": self.W}
        for _ in range(7):
            value = {str(i): value for i in range(10)}
        with pytest.raises(CheckpointError, match="at most 500,000 entries"):
            read_pickle(save(tmp_path, {"a": value, "b": value}))

    def test_a_list_in_itself_is_refused(self, tmp_path: Path) -> None:
        ring: list[Any] = []
        ring.append(ring)
        with pytest.raises(UnsafeFileError, match="nested deeper than 32 levels"):
            read_pickle(save(tmp_path, {"W": self.W, "cfg": ring}))


@pytest.fixture
def config_classes() -> Iterator[types.SimpleNamespace]:
    """Classes of the packages that legacy checkpoints name, there only while a file is written."""
    module = types.ModuleType("sae_training.config")

    class Mode(enum.Enum):
        FAST = "fast"

    class RunnerConfig:
        def __init__(self, **attributes: Any) -> None:
            self.__dict__.update(attributes)

    for cls in (Mode, RunnerConfig):
        cls.__module__, cls.__qualname__ = module.__name__, cls.__name__
        setattr(module, cls.__name__, cls)
    sys.modules["sae_training"] = types.ModuleType("sae_training")
    sys.modules["sae_training.config"] = module
    yield types.SimpleNamespace(RunnerConfig=RunnerConfig, Mode=Mode)
    for name in ("sae_training", "sae_training.config"):
        sys.modules.pop(name, None)


class TestConfigObjects:
    @pytest.mark.parametrize("protocol", range(6))
    @pytest.mark.parametrize("kind", ["archive", "before 1.6", "pkl", "pkl.gz"])
    def test_attributes_are_kept_without_the_class(
        self,
        tmp_path: Path,
        config_classes: types.SimpleNamespace,
        kind: str,
        protocol: int,
    ) -> None:
        cfg = config_classes.RunnerConfig(
            d_in=4,
            hook_point="blocks.1.hook_mlp_out",
            dtype=torch.float32,
            device=torch.device("cpu"),
            mode=config_classes.Mode.FAST,
            inner=config_classes.RunnerConfig(lr=0.5),
            layers=(1, 2),
            options=argparse.Namespace(k=3),
            folder=Path("a/b"),
        )
        content = {"cfg": cfg, "state_dict": collections.OrderedDict(W=torch.arange(2.0))}
        path = tmp_path / ("ae.pt" if kind in ("archive", "before 1.6") else f"ae.{kind}")
        if kind.startswith("pkl"):
            data = pickle.dumps(content, protocol)
            path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
        else:
            options = OLD if kind == "before 1.6" else {}
            torch.save(content, path, pickle_protocol=max(protocol, 2), **options)
        for name in ("sae_training", "sae_training.config"):
            del sys.modules[name]
        found = read_pickle(path)
        assert found.tensors["W"].tolist() == [0.0, 1.0]
        assert found.siblings is not None
        assert found.siblings["cfg"] == {
            "d_in": 4,
            "hook_point": "blocks.1.hook_mlp_out",
            "dtype": "torch.float32",
            "device": "cpu",
            "mode": "fast",
            "inner": {"lr": 0.5},
            "layers": [1, 2],
            "options": {"k": 3},
            "folder": "a/b",
        }

    def test_code_hidden_under_a_known_package_is_not_found(self, tmp_path: Path) -> None:
        data = b"\x80\x04\x8c\x13sae_training.config\x8c\x09os.system\x93\x8c\x04true\x85R."
        (tmp_path / "ae.pkl").write_bytes(data)
        with pytest.raises(UnsafeFileError, match=r"needs sae_training\.config\.os\.system"):
            read_pickle(tmp_path / "ae.pkl")
