"""Weights in 4 bits: codes of a book, and a scale for every block of them that lie side by side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from saebench.precision import BLOCK, SCALE_BLOCK
from saebench.quantisation.code_books import dynamic_map

_SMALLEST = 1e-38  # of a scale that is divided by: blocks of zeros have the scale 0


@dataclass(frozen=True)
class Blocks:
    """Codes ``[n]`` uint8 into ``book``, and scales ``[ceil(n / size)]``; the last block may be short.

    Doubly quantised ``scales`` are themselves :class:`Blocks`, which lie ``offset`` below the true ones.
    """

    codes: Tensor
    book: Tensor
    scales: Tensor | Blocks
    size: int
    shape: torch.Size
    offset: Tensor | float = 0.0

    def dequantise(self) -> Tensor:
        """The values that the codes and scales stand for, float32, in the original shape."""
        scales = self.scales
        if isinstance(scales, Blocks):
            scales = scales.dequantise() + self.offset
        return _scaled(self.book[self.codes.long()], scales, self.size).view(self.shape)

    @property
    def n_bits(self) -> int:
        """How many bits all codes and scales would take when packed."""
        own = self.codes.numel() * max(1, (len(self.book) - 1).bit_length())
        if isinstance(self.scales, Blocks):
            return own + self.scales.n_bits + 32
        return own + 32 * self.scales.numel()


def quantise_blocks(
    values: Tensor, book: Tensor, *, size: int = BLOCK, double: bool = False
) -> Blocks:
    """The nearest codes of ascending ``book`` to values over the largest magnitude in their block.

    A value halfway between two takes the lower. ``double`` quantises the scales to 8 bits in blocks of
    256, after their mean is subtracted (Dettmers et al. 2023, QLoRA, arXiv 2305.14314, section 3).
    """
    flat = values.detach().float().reshape(-1)
    book = book.to(flat.device)
    blocks = pad(flat, (0, -len(flat) % size)).view(-1, size)
    scales = blocks.abs().amax(1)
    unit = (blocks * scales.clamp(min=_SMALLEST).reciprocal()[:, None]).clamp(-1, 1)
    codes = torch.bucketize(unit.view(-1)[: len(flat)], (book[:-1] + book[1:]) / 2, out_int32=True)
    codes = codes.to(torch.uint8)
    if not double:
        return Blocks(codes, book, scales, size, values.shape)
    offset = scales.mean()
    inner = quantise_blocks(scales - offset, dynamic_map(), size=SCALE_BLOCK)
    return Blocks(codes, book, inner, size, values.shape, offset)


def _scaled(flat: Tensor, scales: Tensor, size: int) -> Tensor:
    """Values ``[n]`` times the scale of their block."""
    return (pad(flat, (0, -len(flat) % size)).view(-1, size) * scales[:, None]).view(-1)[
        : len(flat)
    ]
