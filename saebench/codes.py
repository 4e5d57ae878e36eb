"""Sparse codes: the latents that fire on each token, and nothing else."""

from __future__ import annotations

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
        counts = self.counts()[keep]
        offsets = torch.zeros(counts.shape[0] + 1, dtype=torch.int32, device=counts.device)
        offsets[1:] = counts.cumsum(0)
        return SparseCodes(self.values[entries], self.indices[entries], offsets, self.d_sae)
