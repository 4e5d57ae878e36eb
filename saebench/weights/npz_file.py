"""``.npz`` files: arrays in their archive, headers parsed as literals, and no pickle."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.lib import format as npy
from torch import Tensor

from saebench.errors import UnsafeFileError
from saebench.weights.kinds import dtypes_by, lying
from saebench.weights.stored import MappedTensor, Opened, Stored, checked_name, checked_shape, keep
from saebench.weights.zip_directory import Member, read_directory, unpack

MAX_HEADER = 10_000  # bytes; numpy's own limit for untrusted files
MAX_ARRAYS = 10_000

_DTYPES = dtypes_by(
    (name, name)
    for name in (
        *("float64", "float32", "float16", "int64", "int32", "int16", "int8"),
        *("uint64", "uint32", "uint16", "uint8", "bool"),
    )
)


@dataclass(frozen=True)
class PackedArray(Stored):
    """An array in a compressed member, unpacked when opened."""

    path: Path
    member: Member
    header: int
    by_columns: bool

    def open(self) -> Opened:
        """The array; :class:`UnsafeFileError` if the member is not what it declares."""
        raw = unpack(self.path, self.member)
        if len(raw) == self.header:
            return Opened(torch.empty(self.shape, dtype=self.dtype), keep)
        flat = torch.frombuffer(raw, dtype=torch.uint8, offset=self.header)
        if self.header % self.dtype.itemsize:
            flat = flat.clone()
        return Opened(_shaped(flat.view(self.dtype), self.shape, self.by_columns), keep)


def read_npz(path: Path) -> dict[str, Stored]:
    """The arrays of the file by name.

    Raises :class:`UnsafeFileError` for arrays of objects, of dtypes that are no plain numbers, and
    where declared sizes are not those of the file.
    """
    members = read_directory(path).values()
    if len(members) > MAX_ARRAYS:
        raise UnsafeFileError(
            f"weights {path.name} of at most {MAX_ARRAYS:,} arrays",
            f"{len(members):,}",
            "Save the arrays of one checkpoint alone.",
        )
    return {member.name.removesuffix(".npy"): _array(path, member) for member in members}


def _array(path: Path, member: Member) -> Stored:
    asked = f"array {checked_name(member.name, path.name)!r:.200} of {path.name}"
    if not member.name.endswith(".npy"):
        raise UnsafeFileError(asked, "a member that is no array (.npy)", "Save with numpy.savez.")
    start = _first_bytes(path, member)
    file = io.BytesIO(start)
    try:
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, by_columns, dtype = read[npy.read_magic(file)](file, max_header_size=MAX_HEADER)
    except Exception as error:  # the header is a literal: whatever parsing one raises
        raise lying(
            path.name, f"array {member.name!r:.200} with a header", f"{error!s:.200}"
        ) from error
    _check_dtype(asked, dtype)
    expected = f"array {member.name!r:.200} of {dtype} and {member.size - file.tell():,} bytes"
    shape = checked_shape(shape, expected, path.name)
    if file.tell() + math.prod(shape) * dtype.itemsize != member.size:
        raise lying(path.name, expected, f"shape {list(shape)!s:.200}")
    ours = _DTYPES[dtype.name]
    if member.packed:
        return PackedArray(ours, shape, path, member, file.tell(), by_columns)
    strides = _column_strides(shape) if by_columns else None
    return MappedTensor(ours, shape, path, member.start + file.tell(), strides)


def _first_bytes(path: Path, member: Member) -> bytes:
    """Enough of the member to hold its header."""
    length = min(member.size, MAX_HEADER + 64)
    if member.packed:
        return bytes(unpack(path, member, length))
    with path.open("rb") as file:
        file.seek(member.start)
        return file.read(length)


def _check_dtype(asked: str, dtype: numpy.dtype[Any]) -> None:
    if dtype.name in _DTYPES and dtype.isnative and dtype.fields is None and dtype.shape == ():
        return
    what = "Python objects, which need pickle" if dtype.hasobject else f"dtype {dtype.str!r}"
    raise UnsafeFileError(
        f"{asked} with little-endian numbers ({', '.join(_DTYPES)})",
        f"{what:.200}",
        "Save the array as float32.",
    )


def _column_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[:dim]) for dim in range(len(shape)))


def _shaped(flat: Tensor, shape: tuple[int, ...], by_columns: bool) -> Tensor:
    return flat.as_strided(shape, _column_strides(shape)) if by_columns else flat.reshape(shape)
