"""Stored tensors as float32 rows, piece by piece, so that no second copy of a matrix ever exists."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from saebench.weights.stored import Opened, no_memory

PIECE = 2**18  # elements looked at or converted at a time: 1 MiB of float32
ROWS = 16  # of them in a piece at least: a cache line of the transpose


def float32_rows(opened: Opened, *, transpose: bool = False) -> Tensor:
    """The tensor as contiguous float32 that is the caller's own.

    ``transpose`` swaps its first two dimensions. Raises :class:`CheckpointError` when they are more
    than the machine can hold.
    """
    source = opened.tensor.transpose(0, 1) if transpose else opened.tensor
    if source.is_meta:
        return torch.empty(source.shape, device="meta")
    ready = source.dtype is torch.float32 and source.is_contiguous()
    if ready and opened.owned and opened.is_aligned:
        return source
    try:
        values = torch.empty(source.shape)
    except RuntimeError as error:  # torch has no class of its own for the memory of a computer
        raise no_memory(f"{4 * source.numel():,} bytes", error) from error
    flat = (-1,) if source.is_contiguous() else source.shape
    for part, place in pieces(source.view(flat), values.view(flat)):
        place.copy_(part)
        opened.drop(part)
    return values


def count_not_finite(values: Tensor) -> tuple[int, int]:
    """How many values are NaN, and how many infinite."""
    nan = infinite = 0
    for part, _ in pieces(values, values):
        if not bool(torch.isfinite(part).all()):
            nan += int(part.isnan().sum())
            infinite += int(part.isinf().sum())
    return nan, infinite


def pieces(source: Tensor, target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The same parts of two tensors of one shape, each close together in the source's memory."""
    dims = [dim for dim in range(source.ndim) if source.shape[dim] > 1]
    return _pieces(source, target, sorted(dims, key=source.stride))


def _pieces(source: Tensor, target: Tensor, dims: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts along the last of the dimensions, which are those yet to be cut, close ones first."""
    if not dims or source.numel() <= PIECE:
        yield source, target
        return
    *closer, dim = dims
    whole = source.shape[dim]
    length = min(whole, max(ROWS, PIECE // (source.numel() // whole)))
    for start in range(0, whole, length):
        size = min(length, whole - start)
        part, place = source.narrow(dim, start, size), target.narrow(dim, start, size)
        yield from _pieces(part, place, closer)
