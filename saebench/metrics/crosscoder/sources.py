"""Variance explained of each model that a crosscoder writes, pooled over its tokens and dimensions."""

from __future__ import annotations

import torch
from torch import Tensor

from saebench.metrics.estimates import Values, ratio
from saebench.metrics.moments import Moments
from saebench.metrics.reconstruction import DEGENERATE
from saebench.metrics.sums import N_GROUPS, GroupSums, row_chunks, wide

NAMES = ("base", "chat")


class SourceErrors:
    """``Σ ‖x^m − x̂^m‖²`` of each model, in groups of sequences."""

    def __init__(self, n_groups: int = N_GROUPS) -> None:
        self.sums = GroupSums(n_groups, NAMES)

    @torch.inference_mode()
    def update(self, x: Tensor, x_hat: Tensor, groups: Tensor) -> None:
        """Take in tokens ``x[n, 2 d]`` with what was made of them, base and chat side by side."""
        self.sums.count(groups)
        for rows in row_chunks(x.shape[0], 8 * x.shape[1], x.device):
            squares = (wide(x[rows]) - wide(x_hat[rows])).square_().unflatten(1, (2, -1)).sum(2)
            for name, values in zip(NAMES, squares.T, strict=True):
                self.sums.add(name, values, groups[rows])


def explained(moments: Moments, errors: SourceErrors, weights: Tensor | None = None) -> Values:
    """``1 − Σ‖x − x̂‖² / Σ‖x − x̄‖²`` of each model and the lower of both, ``[1]``, or ``[R]`` under weights.

    In activation units: what a checkpoint scales activations by has been undone.
    """
    n, mean, m2 = moments.pooled(weights)
    spread, squares = (
        part.unflatten(1, (2, -1)).sum(2) for part in (m2, m2 + n[:, None] * mean.square())
    )
    spread = torch.where(spread > DEGENERATE * squares, spread, 0)
    sse = torch.stack([errors.sums.total(name, weights) for name in NAMES], 1)
    fve = 1 - ratio(sse, spread)
    return {"cc_fve_base": fve[:, 0], "cc_fve_chat": fve[:, 1], "cc_fve_lowest": fve.min(1).values}
