"""Tensors as pickles describe them, and where their numbers are once the container was read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from saebench.errors import UnsafeFileError
from saebench.weights.pickle_program import Damaged
from saebench.weights.stored import HeldTensor, MappedTensor, Stored, checked_shape, span

MAX_DIMENSIONS = 16

# A config may name any dtype; tensors have one of those that become float32.
DTYPES = {
    name: value for name in dir(torch) if isinstance(value := getattr(torch, name), torch.dtype)
}
READ_DTYPES = {
    DTYPES[name]
    for name in (
        *("float64", "float32", "float16", "bfloat16"),
        *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
        *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"),
    )
    if name in DTYPES
}


class Place(NamedTuple):
    """Where the bytes of a storage are: in a file, or in memory that was unpacked from one."""

    source: Path | bytearray
    offset: int
    size: int


@dataclass
class Storage:
    """The numbers behind one or more tensors; ``place`` is known once the container was read."""

    key: str
    dtype: torch.dtype
    size: int
    place: Place | None = None


@dataclass(frozen=True)
class PickledTensor:
    """A tensor as the pickle describes it, not yet checked against its storage."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    refused: str = ""  # what is special about it, said only when it is used


def size_of(value: Any) -> int:
    """The value as a size; :class:`Damaged` when it is none."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62:
        return value
    raise Damaged(f"a size that is a {type(value).__name__}, or out of range")


def sizes_of(values: Any) -> tuple[int, ...]:
    """The values as a shape or strides; :class:`Damaged` when they are none."""
    if isinstance(values, tuple | list) and len(values) <= MAX_DIMENSIONS:
        return tuple(map(size_of, values))
    raise Damaged("sizes that are none")


def stored(tensor: PickledTensor, key: str, file: str) -> Stored:
    """The tensor in its place.

    Raises :class:`UnsafeFileError` when it claims more elements than its storage has.
    """
    if tensor.refused:
        raise UnsafeFileError(
            f"tensor {key!r:.200} of {file} as a dense array of real numbers",
            tensor.refused,
            "Save plain tensors: tensor.resolve_conj().resolve_neg().clone().float().",
        )
    checked_shape(tensor.shape, f"tensor {key!r:.200} as a dense array", file)
    place, itemsize = tensor.storage.place, tensor.dtype.itemsize
    count = math.prod(tensor.shape)
    end = (tensor.offset + span(tensor.shape, tensor.strides)) * itemsize if count else 0
    if place is None or max(end, count * itemsize) > place.size:
        raise UnsafeFileError(
            f"tensor {key!r:.200} of {file} as a dense array",
            f"shape {list(tensor.shape)} over a smaller or special storage",
            "Save dense tensors: tensor.to_dense().contiguous().",
        )
    offset = place.offset + tensor.offset * itemsize if count else 0
    strides = None if _dense(tensor.shape, tensor.strides) else tensor.strides
    if isinstance(place.source, bytearray):
        return HeldTensor(tensor.dtype, tensor.shape, place.source, offset, strides)
    return MappedTensor(tensor.dtype, tensor.shape, place.source, offset, strides)


def dense_tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    _: Any = None,
    __: Any = None,
    metadata: Any = None,
) -> PickledTensor:
    """A tensor of the dtype of its storage."""
    if not isinstance(storage, Storage):
        raise Damaged("a tensor without a storage")
    return typed_tensor(storage, offset, shape, strides, None, None, storage.dtype, metadata)


def typed_tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    _: Any,
    __: Any,
    dtype: Any,
    metadata: Any = None,
) -> PickledTensor:
    """A tensor of any dtype; :class:`Damaged` when the parts do not make one."""
    sizes, steps = sizes_of(shape), sizes_of(strides)
    if not isinstance(storage, Storage) or len(sizes) != len(steps):
        raise Damaged("a tensor without a storage, or with strides of another shape")
    if math.prod(size for size in sizes if size) >= 2**63:
        raise Damaged("a tensor of more elements than can be counted")
    if not isinstance(dtype, torch.dtype):
        raise Damaged("a tensor of a dtype that is none")
    refused = ""
    if dtype not in READ_DTYPES:
        refused = f"numbers of the dtype {dtype}"
    elif metadata is not None:
        refused = _view(metadata)
    return PickledTensor(storage, dtype, size_of(offset), sizes, steps, refused)


def _view(metadata: Any) -> str:
    """What the numbers in a storage are not yet, by the marks that torch sets on views of them."""
    if not isinstance(metadata, dict) or len(metadata) > MAX_DIMENSIONS:
        raise Damaged("marks of a tensor that are none")
    marks = [key for key, value in metadata.items() if value]
    if set(marks) & {"neg", "conj"}:
        return "a negated or conjugated view, whose storage has the opposite signs"
    return "marks of a device or library that are not known here" if marks else ""


def parameter(tensor: Any, *_: Any) -> PickledTensor:
    """The tensor that is a parameter."""
    if not isinstance(tensor, PickledTensor):
        raise Damaged("a parameter that is no tensor")
    return tensor


def _dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True
