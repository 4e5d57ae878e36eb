"""Tensors where they lie in a file: declared first, mapped when asked for, dropped when used up.

A map lasts while its values are copied, and the pages that were copied are given back one by one.
Nobody keeps one: what is written to the file later would change the values, a file that is cut off
would end the process, and every map holds a file open.
"""

from __future__ import annotations

import errno
import math
import mmap
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saebench.errors import CheckpointError, UnsafeFileError
from saebench.weights.kinds import TensorInfo, dtype_name, lying, unreadable

MAX_DIMENSIONS = 16
MAX_NAME = 1000  # characters of a tensor's name
SMALL_BYTES = 2**20  # below this a copy is cheaper than a map of its own


class Opened(NamedTuple):
    """A tensor as stored, and how to give back the memory of a part of it that was used up.

    ``owned`` says that the memory is the caller's: no map of a file, and nobody else's.
    """

    tensor: Tensor
    drop: Callable[[Tensor], None]
    owned: bool = True

    @property
    def is_aligned(self) -> bool:
        """Whether it begins at a multiple of its element size: copying needs none, products may."""
        tensor = self.tensor
        return tensor.is_meta or tensor.data_ptr() % tensor.element_size() == 0


def keep(_: Tensor) -> None:
    """Drop nothing: the memory is not that of a file."""


@dataclass(frozen=True)
class Stored(ABC):
    """A tensor of a weight file that nobody has read yet."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def info(self) -> TensorInfo:
        """What the file declares."""
        return TensorInfo(dtype_name(self.dtype), self.shape)

    @property
    def is_matrix(self) -> bool:
        """Whether an outline leaves it out."""
        return len(self.shape) >= 2 and self.dtype.is_floating_point

    @abstractmethod
    def open(self) -> Opened:
        """The tensor; each call gives one of its own."""


@dataclass(frozen=True)
class MappedTensor(Stored):
    """A tensor at a byte ``offset`` of a file; ``strides`` in elements, dense rows by default."""

    path: Path
    offset: int
    strides: tuple[int, ...] | None = None

    def open(self) -> Opened:
        """A map of the tensor's own bytes, to be copied; a copy if they are few.

        Raises :class:`UnsafeFileError` if they are gone, :class:`CheckpointError` if they are more
        than the machine can map, or if the file cannot be opened.
        """
        length = self.dtype.itemsize * span(self.shape, self.strides)
        if length == 0:
            return Opened(torch.empty(self.shape, dtype=self.dtype), keep)
        before = self.offset % mmap.ALLOCATIONGRANULARITY
        try:
            with self.path.open("rb") as file:
                region = mmap.mmap(
                    file.fileno(),
                    before + length,
                    access=mmap.ACCESS_COPY,
                    offset=self.offset - before,
                )
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise unreadable(self.path.name, error) from error
            raise no_memory(f"{length:,} bytes of {self.path.name}", error) from error
        except ValueError as error:
            found = f"{self.path.stat().st_size:,} bytes"
            end = f"{self.offset + length:,} bytes, as when it was opened"
            raise lying(self.path.name, end, found) from error
        raw = torch.frombuffer(region, dtype=torch.uint8, offset=before, count=length)
        drop = _dropper(region, raw.data_ptr() - before)
        small = length < SMALL_BYTES
        if small:
            raw, drop = raw.clone(), keep
        return Opened(_strided(raw.view(self.dtype), self.shape, self.strides), drop, owned=small)


@dataclass(frozen=True)
class HeldTensor(Stored):
    """A tensor at a byte ``offset`` of memory that was unpacked from a file."""

    data: bytearray
    offset: int
    strides: tuple[int, ...] | None = None

    def open(self) -> Opened:
        """A copy of the tensor's bytes."""
        length = self.dtype.itemsize * span(self.shape, self.strides)
        if length == 0:
            return Opened(torch.empty(self.shape, dtype=self.dtype), keep)
        raw = torch.frombuffer(self.data, dtype=torch.uint8, offset=self.offset, count=length)
        return Opened(_strided(raw.clone().view(self.dtype), self.shape, self.strides), keep)


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of a file by name, opened when asked for.

    In an ``outline`` the matrices are on torch's ``meta`` device: shapes and no values.
    """

    def __init__(self, stored: Mapping[str, Stored], outline: bool = False) -> None:
        self._stored = stored
        self._outline = outline

    def __getitem__(self, key: str) -> Tensor:
        tensor, _, owned = opened = self.open(key)
        return tensor if owned and opened.is_aligned else tensor.clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def __contains__(self, key: object) -> bool:
        return key in self._stored

    def info(self, key: str) -> TensorInfo:
        """What the file declares about a tensor, which is not read."""
        return self._stored[key].info

    def open(self, key: str, *, values: bool = False) -> Opened:
        """The tensor, or its outline; ``values`` asks for the tensor even in an outline."""
        stored = self._stored[key]
        if self._outline and stored.is_matrix and not values:
            meta = torch.empty(stored.shape, dtype=stored.dtype, device="meta")
            return Opened(meta, keep)
        return stored.open()


def checked_shape(shape: object, expected: str, file: str) -> tuple[int, ...]:
    """The shape that a file declares, as lengths that torch can count with, their product too.

    Lengths of zero hide the others from the size in bytes, and ``True`` passes for 1. ``expected``
    says what was asked of ``file``; raises :class:`UnsafeFileError`.
    """
    if isinstance(shape, list | tuple) and len(shape) <= MAX_DIMENSIONS:
        elements = math.prod(size or 1 for size in shape if is_length(size))
        if all(map(is_length, shape)) and elements < 2**63:
            return tuple(shape)
    shown = list(shape) if isinstance(shape, tuple) else shape
    raise lying(file, expected, f"shape {shown!s:.200}")


def is_length(value: Any) -> bool:
    """Whether a value out of a header is a number of elements or bytes."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def checked_name(name: str, file: str) -> str:
    """The name of a tensor of ``file``; :class:`UnsafeFileError` when no module has one so long."""
    if len(name) <= MAX_NAME:
        return name
    raise UnsafeFileError(
        f"tensors of {file} with names of at most {MAX_NAME:,} characters",
        f"one of {len(name):,} that begins {name[:80]!r}",
        "Save the weights under plain names.",
    )


def no_memory(what: str, error: Exception) -> CheckpointError:
    """The error for values that are more than the machine can hold."""
    next_step = "Load it on a machine with more memory."
    return CheckpointError(f"memory for {what}", f"{error!s:.200}", next_step)


def span(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> int:
    """How many elements lie between the first one and the end of the last one."""
    if strides is None or 0 in shape:
        return math.prod(shape)
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def _strided(flat: Tensor, shape: tuple[int, ...], strides: tuple[int, ...] | None) -> Tensor:
    return flat.reshape(shape) if strides is None else flat.as_strided(shape, strides)


def _dropper(region: mmap.mmap, address: int) -> Callable[[Tensor], None]:
    """Gives back whole pages between the first and the last element of a part of the region.

    They are read again from the file if anybody looks: what was written to them is lost.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):  # Windows: the system drops pages when it needs them
        return keep

    def drop(part: Tensor) -> None:
        first = part.data_ptr() - address
        end = first + span(tuple(part.shape), part.stride()) * part.element_size()
        start = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
        length = end // mmap.PAGESIZE * mmap.PAGESIZE - start
        if length > 0:
            region.madvise(mmap.MADV_DONTNEED, start, length)

    return drop
