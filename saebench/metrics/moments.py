"""Per-group mean and centred sum of squares of every dimension, merged without cancellation.

``M2 = Σ (x − x̄)²`` of a union is ``M2ₐ + M2_b + (x̄_b − x̄ₐ)² nₐ n_b / (nₐ + n_b)``. Source: Chan,
Golub and LeVeque 1983, Algorithms for computing the sample variance. Unlike ``E[x²] − E[x]²`` it
keeps its digits where a dimension's mean is thousands of times its spread, as in residual streams.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saebench.metrics.sums import check_alike, row_chunks, weighted, wide


class Moments:
    """``n[G]`` (int64), ``mean[G, dim]``, ``m2[G, dim]`` (float64) of the tokens of each group."""

    def __init__(self, n_groups: int, dim: int) -> None:
        self.dim = dim
        self.n_groups = n_groups
        self.n = torch.zeros(n_groups, dtype=torch.int64)
        self.mean = torch.zeros(n_groups, dim, dtype=torch.float64)
        self.m2 = torch.zeros(n_groups, dim, dtype=torch.float64)

    @torch.inference_mode()
    def update(self, x: Tensor, groups: Tensor) -> None:
        """Take in tokens ``x[n, dim]`` with their ``groups[n]``."""
        for rows in row_chunks(x.shape[0], 8 * self.dim, x.device):
            chunk = wide(x[rows])
            self._take_in(chunk, groups[rows].to(chunk.device))

    @torch.inference_mode()
    def merge(self, other: Moments) -> None:
        """Take in what another shard saw; raises :class:`ConfigError` where the shapes differ."""
        check_alike("groups and width", (self.n_groups, self.dim), (other.n_groups, other.dim))
        present = other.present
        self._combine(present, other.n[present], other.mean[present], other.m2[present])

    @property
    def present(self) -> Tensor:
        """The groups that hold tokens, ascending (the columns of resampling weights)."""
        return self.n.nonzero().squeeze(1)

    def pooled(self, weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """``(n[R], mean[R, dim], m2[R, dim])`` of all groups (R = 1), or of each resample.

        ``weights[R, present]`` counts how often a resample draws each group. Group means are
        centred by the overall mean first: the between-group part is then a difference of small
        numbers, and two matrix products make all resamples.
        """
        present = self.present
        n = self.n[present].double()
        tokens = weighted(n, weights)
        centre = (n / n.sum()) @ self.mean[present]
        shift = self.mean[present] - centre
        between = weighted(n[:, None] * shift, weights) / tokens[:, None]
        spread = weighted(self.m2[present] + n[:, None] * shift.square(), weights)
        m2 = (spread - tokens[:, None] * between.square()).clamp_min_(0)
        return tokens, centre + between, m2

    def _take_in(self, x: Tensor, groups: Tensor) -> None:
        """Two passes over a chunk: group means, then squares about them."""
        present, member = torch.unique(groups, return_inverse=True)
        n = torch.bincount(member, minlength=present.shape[0])
        mean = x.new_zeros(present.shape[0], self.dim).index_add_(0, member, x) / n[:, None]
        centred = mean.index_select(0, member)
        torch.sub(x, centred, out=centred).square_()
        m2 = x.new_zeros(present.shape[0], self.dim).index_add_(0, member, centred)
        self._combine(present.cpu(), n.cpu(), mean.cpu(), m2.cpu())

    def _combine(self, present: Tensor, n: Tensor, mean: Tensor, m2: Tensor) -> None:
        """Chan's formula for the groups ``present[u]``, each with at least one new token."""
        ours, theirs = self.n[present].double()[:, None], n.double()[:, None]
        total = ours + theirs
        shift = mean - self.mean[present]
        self.m2[present] += m2 + shift.square() * (ours * theirs / total)
        self.mean[present] += shift * (theirs / total)
        self.n[present] += n
