"""``.npz``: arrays as numpy reads them, and none of what numpy would let an archive do."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from saebench.errors import CheckpointError, UnsafeFileError
from saebench.weights import TensorInfo, npz_file, read_header, read_npz, zip_directory

DTYPES = list(npz_file._DTYPES)


def npy(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    numpy.save(file, array, **options)
    return file.getvalue()


def archive(root: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(root / "params.npz", "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return root / "params.npz"


@pytest.mark.parametrize("save", [numpy.savez, numpy.savez_compressed])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_out_as_numpy_reads_it(tmp_path: Path, dtype: str, save: Any) -> None:
    arrays = {
        "rows": numpy.arange(6).reshape(2, 3).astype(dtype),
        "columns": numpy.asfortranarray(numpy.arange(24).reshape(2, 3, 4).astype(dtype)),
        "one": numpy.array(1).astype(dtype),
        "empty": numpy.zeros((0, 3), dtype),
    }
    save(tmp_path / "params.npz", **arrays)
    found = read_npz(tmp_path / "params.npz").tensors
    assert {key: found[key].numpy().tolist() for key in found} == {
        key: array.tolist() for key, array in arrays.items()
    }
    header = read_header(tmp_path / "params.npz")
    assert header["columns"] == TensorInfo(dtype, (2, 3, 4))


@pytest.mark.parametrize("save", [numpy.savez, numpy.savez_compressed])
def test_a_large_array_that_lies_at_an_odd_byte_is_moved(tmp_path: Path, save: Any) -> None:
    values = numpy.random.default_rng(0).normal(size=(700, 600)).astype("float32")
    save(tmp_path / "params.npz", x=values, longer_name=values.T)
    found = read_npz(tmp_path / "params.npz").tensors
    assert torch.equal(found["x"], torch.from_numpy(values))
    assert torch.equal(found["longer_name"], torch.from_numpy(values.T))


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (numpy.array([{}, None]), "Python objects, which need pickle"),
        (numpy.zeros(2, [("a", "f4"), ("o", object)]), "Python objects, which need pickle"),
        (numpy.zeros(2, [("a", "f4")]), "dtype"),
        (numpy.zeros(2, ">f4"), "dtype '>f4'"),
        (numpy.zeros(2, "c8"), "dtype '<c8'"),
        (numpy.zeros(2, "U3"), "dtype '<U3'"),
        (numpy.zeros(2, "V2"), "dtype '|V2'"),
        (numpy.zeros(2, "M8[s]"), "dtype '<M8[s]'"),
    ],
)
def test_arrays_of_no_plain_numbers_are_refused(tmp_path: Path, array: Any, found: str) -> None:
    path = archive(tmp_path, {"W.npy": npy(array, allow_pickle=True)})
    with pytest.raises(UnsafeFileError) as error:
        read_npz(path)
    assert "array 'W.npy' of params.npz with little-endian numbers" in str(error.value)
    assert found in str(error.value)


@pytest.mark.parametrize("name", ["../W.npy", "/W.npy", "a/../../W.npy", "a\\W.npy", "W\x1b.npy"])
def test_names_that_lead_out_of_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsafeFileError, match=r"a member of params\.npz with a name inside"):
        read_npz(archive(tmp_path, {name: npy(numpy.zeros(1))}))


def test_a_member_that_is_no_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeFileError, match=r"'W\.txt' of params\.npz: a member that is no"):
        read_npz(archive(tmp_path, {"W.txt": b"x"}))


HEADER = "{{'descr': '<f4', 'fortran_order': False, 'shape': {}, }}"


def with_header(text: str, data: int, size: int | None = None) -> bytes:
    body = text.encode("latin-1") + b"\n"
    length = len(body) if size is None else size
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + body + bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        with_header(HEADER.format("(3,)"), 8),
        with_header(HEADER.format("(1,)"), 8),
        with_header(HEADER.format(f"({2**62}, 4)"), 8),
        with_header(HEADER.format("(-1, -2)"), 8),
        with_header(HEADER.format("(True, 2)"), 7),
        with_header(HEADER.format("(2,)"), 8, size=60_000),
        with_header("__import__('os').system('true')", 8),
        with_header("(" * 5000, 8),
        with_header("[" * 9000 + "]" * 9000, 8),
        b"\x93NUMPY\x03\x00" + bytes(20),
        b"not an array",
        b"",
    ],
    ids=range(12),
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_headers_that_contradict_the_data_are_refused(
    tmp_path: Path, data: bytes, method: int
) -> None:
    with pytest.raises(UnsafeFileError, match=r"params\.npz: array 'W\.npy'"):
        read_npz(archive(tmp_path, {"W.npy": data}, method))


def test_an_archive_that_grows_too_much_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_directory, "FREE_BYTES", 1000)
    monkeypatch.setattr(zip_directory, "unpack", None)
    path = archive(tmp_path, {"W.npy": npy(numpy.zeros(10**6))}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsafeFileError, match="8,000,128 bytes once unpacked"):
        read_npz(path)


def test_an_archive_that_declares_less_than_it_unpacks_to_is_refused(tmp_path: Path) -> None:
    data = npy(numpy.zeros(50_000))
    path = archive(tmp_path, {"W.npy": data}, zipfile.ZIP_DEFLATED)
    declared = len(npy(numpy.zeros(1000)))
    content = path.read_bytes().replace(
        len(data).to_bytes(4, "little"), declared.to_bytes(4, "little")
    )
    path.write_bytes(content)
    with pytest.raises(UnsafeFileError, match=r"W\.npy"):
        read_npz(path).tensors["W"]


def test_members_that_share_bytes_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path, {"a.npy": npy(numpy.zeros(4)), "b.npy": npy(numpy.ones(4))})
    content = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        second = file.getinfo("b.npy").header_offset
    at = content.rindex(second.to_bytes(4, "little"), 0, content.rindex(b"PK\x05\x06"))
    path.write_bytes(content[:at] + bytes(4) + content[at + 4 :])
    with pytest.raises(UnsafeFileError, match=r"inside the file .* and clear of others"):
        read_npz(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "params.npz", "w") as file:
        for _ in range(2):
            file.writestr("W.npy", npy(numpy.zeros(1)))
    with pytest.raises(UnsafeFileError, match="each member once"):
        read_npz(tmp_path / "params.npz")


def test_a_directory_above_the_limit_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_directory, "MAX_DIRECTORY_BYTES", 66_000)
    path = archive(tmp_path, {f"{i:0200}.npy": b"" for i in range(300)})
    with pytest.raises(CheckpointError, match="a directory of more than 66,000 bytes"):
        read_npz(path)


def test_a_truncated_archive_is_damaged(tmp_path: Path) -> None:
    path = archive(tmp_path, {"W.npy": npy(numpy.zeros(4))})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        read_npz(path)


def test_an_outline_unpacks_no_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numpy.savez_compressed(tmp_path / "params.npz", W=numpy.ones((2, 3)), b=numpy.ones(3))
    found = read_npz(tmp_path / "params.npz", outline=True).tensors
    monkeypatch.setattr(npz_file, "unpack", None)
    assert found["W"].is_meta
    with pytest.raises(TypeError):
        found["b"]
