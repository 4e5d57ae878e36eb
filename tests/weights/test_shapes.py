"""Shapes and names that headers declare: what torch could not count with is refused by every reader."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from saebench.errors import UnsafeFileError
from saebench.weights import read_header, read_npz, read_weights, zip_directory
from saebench.weights.npz_file import MAX_ARRAYS
from saebench.weights.pickled_tensor import PickledTensor, Place, Storage, stored


def safetensors(root: Path, shape: str, key: str = "W") -> Path:
    header = f'{{{json.dumps(key)}: {{"dtype": "F32", "shape": {shape}, "data_offsets": [0, 0]}}}}'
    (root / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())
    return root / "w.safetensors"


def npz(root: Path, shape: str, key: str = "W", data: int = 0, method: int = 0) -> Path:
    inside = shape.strip("[]")
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({inside},), }}\n".encode()
    with zipfile.ZipFile(root / "w.npz", "w", method) as file:
        start = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little")
        file.writestr(f"{key}.npy", start + text + bytes(data))
    return root / "w.npz"


def packed(root: Path, shape: str, key: str = "W") -> Path:
    return npz(root, shape, key, method=zipfile.ZIP_DEFLATED)


every_format = pytest.mark.parametrize("write", [safetensors, npz, packed])


@every_format
@pytest.mark.parametrize(
    "shape",
    [
        f"[{2**63}, 0]",
        f"[0, {2**64}]",
        f"[{2**62}, {2**62}, 0]",
        f"[0, {2**32}, {2**31}]",
        f"[{', '.join(['1'] * 16)}, 0]",
        f"[{', '.join(['1'] * 65)}, 0]",
        "[-1, 0]",
    ],
)
def test_lengths_that_a_zero_would_hide_are_refused(
    tmp_path: Path, write: Callable[[Path, str], Path], shape: str
) -> None:
    path = write(tmp_path, shape)
    with pytest.raises(UnsafeFileError):
        read_header(path)


@pytest.mark.parametrize("shape", ["True, 2", "2, False", "1.0, 2"])
def test_lengths_of_arrays_that_are_no_integers_are_refused(tmp_path: Path, shape: str) -> None:
    with pytest.raises(UnsafeFileError, match=r"w\.npz: array 'W\.npy'"):
        read_header(npz(tmp_path, shape, data=0 if "False" in shape else 8))


def test_lengths_of_a_pickled_tensor_that_a_zero_would_hide_are_refused(tmp_path: Path) -> None:
    shape, storage = (2**61, 2**61, 0), Storage("0", torch.float32, 0, Place(tmp_path, 0, 0))
    tensor = PickledTensor(storage, torch.float32, 0, shape, (0, 0, 1))
    with pytest.raises(UnsafeFileError, match=r"ae\.pt: tensor 'W' as a dense array: shape \[2305"):
        stored(tensor, "W", "ae.pt")


@every_format
@pytest.mark.parametrize("shape", ["[0, 3]", f"[{2**62}, 0]", f"[{', '.join(['1'] * 15)}, 0]"])
@pytest.mark.parametrize("outline", [False, True])
def test_every_shape_that_passes_makes_a_tensor(
    tmp_path: Path, write: Callable[[Path, str], Path], shape: str, outline: bool
) -> None:
    found = read_weights(write(tmp_path, shape), outline=outline).tensors["W"]
    assert list(found.shape) == json.loads(shape)
    assert found.is_meta is outline


@every_format
def test_a_name_of_very_many_prefixes_is_refused(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    with pytest.raises(UnsafeFileError, match="at most 1,000 characters"):
        read_header(write(tmp_path, "[0]", "module." * 9000 + "W"))


def test_the_directory_of_an_archive_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays: dict[str, Any] = {f"a{i}": numpy.full(3, i, numpy.float32) for i in range(20)}
    numpy.savez_compressed(tmp_path / "w.npz", **arrays)
    opened = []

    class Counted(zipfile.ZipFile):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            opened.append(1)
            super().__init__(*arguments, **options)

    monkeypatch.setattr(zipfile, "ZipFile", Counted)
    found = read_npz(tmp_path / "w.npz").tensors
    assert [found[f"a{i}"].tolist() for i in range(20)] == [[i] * 3 for i in range(20)]
    assert len(opened) == 1


def test_an_archive_of_more_arrays_than_a_checkpoint_has_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as file:
        for i in range(MAX_ARRAYS + 1):
            file.writestr(f"{i}.npy", b"")
    with pytest.raises(UnsafeFileError, match="at most 10,000 arrays: 10,001"):
        read_header(tmp_path / "w.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packings_that_numpy_does_not_write_are_refused(tmp_path: Path, method: int) -> None:
    with pytest.raises(UnsafeFileError, match="stored or deflated"):
        read_header(npz(tmp_path, "2", data=8, method=method))


def test_a_packed_array_of_another_checksum_is_refused(tmp_path: Path) -> None:
    numpy.savez_compressed(tmp_path / "w.npz", W=numpy.arange(50_000.0))
    with zipfile.ZipFile(tmp_path / "w.npz") as file:
        checksum = file.getinfo("W.npy").CRC.to_bytes(4, "little")
    content = (tmp_path / "w.npz").read_bytes().replace(checksum, b"\0\0\0\0")
    (tmp_path / "w.npz").write_bytes(content)
    with pytest.raises(UnsafeFileError, match=r"'W\.npy' of 400,\d+ bytes: others"):
        read_npz(tmp_path / "w.npz").tensors["W"]


@pytest.mark.parametrize("count", [0, 1, 1000, 2**18 - 32, 2**18, 700_001])
def test_packed_arrays_of_every_size_are_unpacked_whole(tmp_path: Path, count: int) -> None:
    values = numpy.random.default_rng(0).integers(0, 3, count).astype(numpy.float32)
    numpy.savez_compressed(tmp_path / "w.npz", W=values)
    assert torch.equal(read_npz(tmp_path / "w.npz").tensors["W"], torch.from_numpy(values))


def test_a_header_alone_unpacks_no_more_than_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numpy.savez_compressed(tmp_path / "w.npz", W=numpy.zeros(10**6))
    lengths = []
    real = zip_directory._unpacked

    def counted(path: Path, member: Any, most: int) -> Any:
        for part in real(path, member, most):
            lengths.append(len(part))
            yield part

    monkeypatch.setattr(zip_directory, "_unpacked", counted)
    assert read_header(tmp_path / "w.npz")["W"].shape == (10**6,)
    assert sum(lengths) < 20_000
