"""What was loaded is a copy: nothing that happens to the file afterwards reaches it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError, UnsafeFileError
from saebench.files import CheckpointFiles
from saebench.weights import read_weights

SHAPE = (700, 600)  # above the size below which tensors are copied one by one


def npz(tensors: dict[str, Tensor], path: Path) -> None:
    numpy.savez(path, **{key: tensor.numpy() for key, tensor in tensors.items()})


def old(tensors: dict[str, Tensor], path: Path) -> None:
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


each_kind = pytest.mark.parametrize(
    ("name", "save"),
    [("w.safetensors", save_file), ("w.pt", torch.save), ("w.pt", old), ("w.npz", npz)],
    ids=["safetensors", "pt", "pt before 1.6", "npz"],
)


def matrix() -> Tensor:
    return torch.arange(SHAPE[0] * SHAPE[1], dtype=torch.float32).reshape(SHAPE)


def maps_of(path: Path) -> int:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum(line.endswith(str(path)) for line in lines)


def taken(path: Path) -> Tensor:
    files = CheckpointFiles(path.parent, (path.name,), allow_pickle=True)
    return Tensors(path.name, files.state_dict(path.name)).take("W", d_in=SHAPE[0], d_sae=SHAPE[1])


def indexed(path: Path) -> Tensor:
    return read_weights(path).tensors["W"]


@each_kind
@pytest.mark.parametrize("load", [taken, indexed])
@pytest.mark.parametrize("change", ["overwritten", "cut off", "gone"])
def test_the_file_may_be_changed_after_it_was_loaded(
    tmp_path: Path,
    name: str,
    save: Callable[[dict[str, Tensor], Any], None],
    load: Callable[[Path], Tensor],
    change: str,
) -> None:
    path = tmp_path / name
    save({"W": matrix()}, path)
    W = load(path)
    if change == "overwritten":
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
    elif change == "cut off":
        os.truncate(path, 0)
    else:
        path.unlink()
    assert torch.equal(W, matrix())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux lists maps")
@each_kind
def test_no_map_and_no_open_file_is_left(
    tmp_path: Path, name: str, save: Callable[[dict[str, Tensor], Any], None]
) -> None:
    path = tmp_path / name
    save({"W": matrix()}, path)
    files = len(os.listdir("/proc/self/fd"))
    kept = [load(path) for load in (taken, indexed) for _ in range(3)]
    assert (maps_of(path), len(os.listdir("/proc/self/fd"))) == (0, files)
    assert all(torch.equal(W, matrix()) for W in kept)


def test_too_many_open_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    save_file({"W": matrix()}, tmp_path / "w.safetensors")
    tensors = read_weights(tmp_path / "w.safetensors").tensors
    monkeypatch.setattr("mmap.mmap", refuse)
    with pytest.raises(
        CheckpointError, match=r"w\.safetensors: cannot be read: too many open"
    ) as e:
        tensors["W"]
    assert "ulimit -n" in str(e.value)
    assert not isinstance(e.value, UnsafeFileError)


def test_a_copy_that_the_machine_has_no_memory_for_is_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    save_file({"W": matrix()}, tmp_path / "w.safetensors")
    monkeypatch.setattr("torch.empty", refuse)
    with pytest.raises(CheckpointError, match="memory for 1,680,000 bytes"):
        taken(tmp_path / "w.safetensors")
