"""safetensors: what is declared is checked to the byte, and nothing is read before it is asked for."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from saebench.errors import CheckpointError, UnsafeFileError
from saebench.weights import read_header, read_safetensors, safetensors_file
from saebench.weights.kinds import dtype_name

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(root: Path, header: dict[str, Any] | bytes, data: int) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = root / "w.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    return path


@pytest.mark.parametrize("dtype", safetensors_file._DTYPES.values(), ids=dtype_name)
def test_every_dtype_comes_out_as_it_was_saved(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.arange(6).reshape(2, 3).to(torch.float32).to(dtype)
    save_file({"W": values}, tmp_path / "w.safetensors")
    found = read_safetensors(tmp_path / "w.safetensors").tensors["W"]
    assert found.dtype is dtype
    assert torch.equal(found.view(torch.uint8), values.view(torch.uint8))


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, 12),
        ({"a": F32, "b": {**F32, "data_offsets": [0, 8]}}, 8),
        ({"a": F32, "b": {**F32, "data_offsets": [12, 20]}}, 20),
        ({"a": F32}, 9),
        ({"a": F32}, 7),
        ({"a": {**F32, "data_offsets": [8, 0]}}, 8),
        ({"a": {**F32, "data_offsets": [-8, 0]}}, 8),
        ({"a": {**F32, "shape": [2**31, 2**31, 2**31]}}, 8),
        ({"a": {**F32, "shape": [2**62, 4]}}, 8),
        ({"a": {**F32, "shape": [-1, -2]}}, 8),
        ({"a": {**F32, "shape": [3]}}, 8),
        ({"a": {**F32, "dtype": "F33"}}, 8),
        ({"a": {**F32, "dtype": "C64", "shape": [1]}}, 8),
        ({"a": {**F32, "dtype": ["F32"]}}, 8),
        ({"a": {"dtype": "F32", "shape": [2]}}, 8),
        ({"a": [1]}, 8),
        (b'{"a": ' + json.dumps(F32).encode() + b', "a": ' + json.dumps(F32).encode() + b"}", 8),
        (b"[" * 100_000, 0),
        (b"[]", 0),
        (b"\xff\xfe", 0),
        (b"", 0),
    ],
    ids=range(21),
)
def test_a_header_that_contradicts_the_file_is_refused(
    tmp_path: Path, header: dict[str, Any] | bytes, data: int
) -> None:
    path = write(tmp_path, header, data)
    for read in (read_header, read_safetensors):
        with pytest.raises(UnsafeFileError, match=r"w\.safetensors"):
            read(path)


@pytest.mark.parametrize(
    ("header", "data"),
    [({"a": {**F32, "shape": [3]}}, 8), ({"a": F32, "b": {**F32, "data_offsets": [12, 20]}}, 20)],
)
def test_our_own_checks_stand_without_those_of_the_library(
    tmp_path: Path, header: dict[str, Any], data: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors_file, "_check_with_library", lambda path: None)
    with pytest.raises(UnsafeFileError, match="lies about its sizes"):
        read_header(write(tmp_path, header, data))


def test_a_header_above_the_limit_is_not_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors_file, "MAX_HEADER_BYTES", 100)
    with pytest.raises(UnsafeFileError, match="a header of at most 100 bytes"):
        read_header(write(tmp_path, b"{" + b" " * 200 + b"}", 0))


def test_opening_a_file_of_many_gigabytes_reads_its_header_alone(tmp_path: Path) -> None:
    size = 64 * 2**30
    header = {"W": {"dtype": "F32", "shape": [2**17, 2**17], "data_offsets": [0, size]}}
    path = write(tmp_path, header, 0)
    os.truncate(path, path.stat().st_size + size)  # a hole: it takes no room on the disk
    assert read_header(path)["W"].shape == (2**17, 2**17)
    assert read_safetensors(path, outline=True).tensors["W"].is_meta


def test_a_tensor_that_the_machine_cannot_map_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    save_file({"W": torch.ones(4)}, tmp_path / "w.safetensors")
    monkeypatch.setattr("mmap.mmap", refuse)
    with pytest.raises(CheckpointError, match=r"memory for 16 bytes .* more memory") as error:
        read_safetensors(tmp_path / "w.safetensors").tensors["W"]
    assert not isinstance(error.value, UnsafeFileError)


def test_an_outline_has_vectors_and_no_matrices(tmp_path: Path) -> None:
    tensors = {"W": torch.ones(2, 3), "b": torch.ones(3), "n": torch.ones(2, 2, dtype=torch.int64)}
    save_file(tensors, tmp_path / "w.safetensors")
    found = read_safetensors(tmp_path / "w.safetensors", outline=True).tensors
    assert {key: found[key].is_meta for key in found} == {"W": True, "b": False, "n": False}
    assert found["W"].shape == (2, 3)


def test_what_is_written_to_a_tensor_reaches_neither_the_file_nor_another_reader(
    tmp_path: Path,
) -> None:
    save_file({"W": torch.ones(1024, 1024)}, tmp_path / "w.safetensors")
    before = (tmp_path / "w.safetensors").read_bytes()
    tensors = read_safetensors(tmp_path / "w.safetensors").tensors
    tensors["W"].zero_()
    assert bool(tensors["W"].all())
    assert (tmp_path / "w.safetensors").read_bytes() == before


def test_a_file_cut_off_after_it_was_opened_is_refused(tmp_path: Path) -> None:
    save_file({"W": torch.ones(1024, 1024)}, tmp_path / "w.safetensors")
    tensors = read_safetensors(tmp_path / "w.safetensors").tensors
    os.truncate(tmp_path / "w.safetensors", 1000)
    with pytest.raises(UnsafeFileError, match="as when it was opened: 1,000 bytes"):
        tensors["W"]


def test_a_tensor_without_elements_is_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(0, 4), "b": torch.ones(2)}, tmp_path / "w.safetensors")
    found = read_safetensors(tmp_path / "w.safetensors").tensors
    assert (found["a"].shape, found["b"].tolist()) == ((0, 4), [1.0, 1.0])
