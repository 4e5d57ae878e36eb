"""Tensors where they lie in a file: declared first, mapped when asked for, dropped when used up.

A map is private, so that a tensor which already has the right layout can be kept as the map itself
and still be written to, and the pages that a conversion has read can be given back one by one.
"""

from __future__ import annotations

import math
import mmap
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from saebench.errors import CheckpointError
from saebench.weights.kinds import TensorInfo, dtype_name, lying

SMALL_BYTES = 2**20  # below this a copy is cheaper than a map of its own


class Opened(NamedTuple):
    """A tensor as stored, and how to give back the memory of a part of it that was used up.

    ``owned`` says that nobody else sees what is written to the tensor.
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
        """A private map of the tensor's own bytes.

        Raises :class:`UnsafeFileError` if they are gone, :class:`CheckpointError` if they are more
        than the machine can map.
        """
        length = self.dtype.itemsize * span(self.shape, self.strides)
        if length == 0:
            return Opened(torch.empty(self.shape, dtype=self.dtype), keep)
        before = self.offset % mmap.ALLOCATIONGRANULARITY
        with self.path.open("rb") as file:
            try:
                region = mmap.mmap(
                    file.fileno(),
                    before + length,
                    access=mmap.ACCESS_COPY,
                    offset=self.offset - before,
                )
            except OSError as error:
                raise CheckpointError(
                    f"memory for {length:,} bytes of {self.path.name}",
                    str(error),
                    "Load it on a machine with more memory.",
                ) from error
            except ValueError as error:
                found = f"{self.path.stat().st_size:,} bytes"
                end = f"{self.offset + length:,} bytes, as when it was opened"
                raise lying(self.path.name, end, found) from error
        raw = torch.frombuffer(region, dtype=torch.uint8, offset=before, count=length)
        drop = _dropper(region, raw.data_ptr() - before)
        if length < SMALL_BYTES:
            raw, drop = raw.clone(), keep
        return Opened(_strided(raw.view(self.dtype), self.shape, self.strides), drop)


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
        tensor, _, _ = opened = self.open(key)
        return tensor if opened.is_aligned else tensor.clone()

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
