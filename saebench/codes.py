"""Sparse codes: the latents that fire on each token, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SparseCodes:
    """The non-zero codes of ``n`` tokens in compressed rows.

    ``values[nnz]`` and ``indices[nnz]`` (int32) list the active latents token after token;
    token ``i`` owns the entries ``offsets[i]:offsets[i + 1]`` (``offsets[n + 1]``, int32).
    """

    values: Tensor
    indices: Tensor
    offsets: Tensor
    d_sae: int

    @property
    def n_tokens(self) -> int:
        """How many tokens the codes are of."""
        return self.offsets.shape[0] - 1

    def counts(self) -> Tensor:
        """The number of active latents per token, ``[n]`` (the token's L0)."""
        return self.offsets.diff()

    def rows(self) -> Tensor:
        """The token of each entry, ``[nnz]`` (int64)."""
        tokens = torch.arange(self.n_tokens, device=self.offsets.device)
        return tokens.repeat_interleave(self.counts())

    def dense(self) -> Tensor:
        """The same codes as ``f[n, d_sae]``."""
        out = self.values.new_zeros(self.n_tokens, self.d_sae)
        out[self.rows(), self.indices.long()] = self.values
        return out

    def padded(self, width: int | None = None) -> tuple[Tensor, Tensor]:
        """``(values[n, width], indices[n, width])``; unused places hold value 0 at index 0.

        ``width`` defaults to the largest number of active latents on any token (at least one).
        """
        counts = self.counts()
        most = int(counts.max()) if self.n_tokens else 0
        width = max(most, 1) if width is None else width
        values = self.values.new_zeros(self.n_tokens, width)
        indices = torch.zeros(self.n_tokens, width, dtype=torch.int64, device=values.device)
        rows = self.rows()
        places = torch.arange(rows.shape[0], device=rows.device) - self.offsets[:-1].long()[rows]
        values[rows, places] = self.values
        indices[rows, places] = self.indices.long()
        return values, indices

    def select_tokens(self, keep: Tensor) -> SparseCodes:
        """The codes of the tokens where ``keep[n]`` (bool) holds, in the same order."""
        entries = keep[self.rows()]
        offsets = _offsets(self.counts()[keep])
        return SparseCodes(self.values[entries], self.indices[entries], offsets, self.d_sae)

    def between(self, start: int, stop: int) -> SparseCodes:
        """The codes of the latents ``start`` to ``stop`` (exclusive), numbered from zero."""
        inside = (self.indices >= start) & (self.indices < stop)
        counts = torch.bincount(self.rows()[inside], minlength=self.n_tokens)
        return SparseCodes(
            self.values[inside], self.indices[inside] - start, _offsets(counts), stop - start
        )


def side_by_side(parts: Sequence[SparseCodes]) -> SparseCodes:
    """The codes of several dictionaries on the same tokens, numbered one dictionary after another."""
    counts = torch.stack([part.counts() for part in parts])
    offsets = _offsets(counts.sum(0))
    values = parts[0].values.new_empty(int(offsets[-1]))
    indices = parts[0].indices.new_empty(int(offsets[-1]))
    before = offsets[:-1].long() + (counts.cumsum(0) - counts)
    start = 0
    for place, part in zip(before, parts, strict=True):
        rows = part.rows()
        within = torch.arange(rows.shape[0], device=rows.device) - part.offsets[:-1].long()[rows]
        at = place[rows] + within
        values[at] = part.values
        indices[at] = part.indices + start
        start += part.d_sae
    return SparseCodes(values, indices, offsets, start)


def _offsets(counts: Tensor) -> Tensor:
    """``[n + 1]`` int32: where the entries of each token begin, and where the last ones end."""
    offsets = torch.zeros(counts.shape[0] + 1, dtype=torch.int32, device=counts.device)
    offsets[1:] = counts.cumsum(0)
    return offsets
