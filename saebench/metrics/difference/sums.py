"""What variance each subset of tokens has: exact, and in every resample of the sequences.

With ``y = δ − μ``, μ the mean of all tokens, a group g of sequences gives the subset S the sums ``n``,
``s = Σ y`` and ``Q = Σ ‖y‖²``. A resample adds groups up; there, with m the mean of ``y`` over all tokens,

    about its own mean       TSS_S = Q_S − ‖s_S‖² / n_S
    about the global mean    TSS_S = Q_S − 2 s_S·m + n_S ‖m‖²

The global form adds up over subsets that share no token: ``Σ_S TSS_S = TSS_all``. μ is taken out first, so
that neither form is a small difference of large numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saebench.metrics.difference.subsets import Subset
from saebench.metrics.estimates import RESAMPLE_ROWS
from saebench.stats import Floats, bootstrap_weights

ROUNDING = 1e-12  # of Σ ‖δ − μ‖² of a subset: what is less about its own mean is rounding
NOTHING = 1e-18  # of the mean ‖δ‖² of all tokens, per token: there the difference does not vary


@dataclass(frozen=True)
class Groups:
    """The group of each token among those that hold any, ``of_token[n]``, and ``ids`` of the groups.

    ``unit`` says what groups are made of: sequences or whole documents.
    """

    of_token: np.ndarray
    ids: np.ndarray
    unit: str = "sequences"

    @classmethod
    def of(cls, group_ids: np.ndarray, unit: str = "sequences") -> Groups:
        """From ``group_ids[n]`` as they are numbered in a stream."""
        ids, of_token = np.unique(group_ids, return_inverse=True)
        return cls(of_token.astype(np.int64), ids, unit)

    @property
    def n(self) -> int:
        """How many groups hold tokens."""
        return int(self.ids.shape[0])

    def add(self, values: np.ndarray, keep: np.ndarray) -> Floats:
        """``Σ values`` of the tokens ``keep[n]`` in each group, ``[groups]``."""
        weights = values[keep].astype(np.float64)
        return np.bincount(self.of_token[keep], weights=weights, minlength=self.n).astype(
            np.float64
        )


@dataclass(frozen=True)
class Spread:
    """The size and variance of a subset: ``[1 + resamples]``, the first entry of the tokens as they are.

    ``own`` and ``overall`` are sums of squares about its own mean and about that of all tokens; not a
    number where there is nothing but rounding.
    """

    n: Floats
    own: Floats
    overall: Floats


class DifferenceSums:
    """Sums of ``y[n, d]`` by subset and group, float64, fed chunk by chunk.

    ``mean_square`` is the mean of ``‖δ‖²`` over all tokens, beside which rounding is told from variance.
    """

    def __init__(
        self, groups: Groups, chosen: Sequence[Subset], d: int, mean_square: float = 0.0
    ) -> None:
        self.groups = groups
        self.chosen = list(chosen)
        self.sums = torch.zeros(len(chosen), groups.n, d, dtype=torch.float64)
        self.n = np.stack([groups.add(np.ones(one.keep.shape[0]), one.keep) for one in chosen])
        self.squares = np.zeros((len(chosen), groups.n))
        self.mean_square = mean_square

    @torch.inference_mode()
    def update(self, first: int, y: Tensor) -> None:
        """Take in the tokens ``first … first + n`` as float64 ``y[n, d]``."""
        rows = slice(first, first + y.shape[0])
        here, of_token = torch.from_numpy(self.groups.of_token[rows]).unique(return_inverse=True)
        of_token = of_token.to(y.device)
        squares = y.square().sum(1).cpu().numpy()
        for number, one in enumerate(self.chosen):
            keep = one.keep[rows]
            if not keep.any():
                continue
            inside = torch.from_numpy(keep).to(y.device)
            added = y.new_zeros(here.shape[0], y.shape[1])
            added.index_add_(0, of_token[inside], y[inside])
            self.sums[number, here] += added.cpu()
            self.squares[number] += np.bincount(
                self.groups.of_token[rows][keep], weights=squares[keep], minlength=self.groups.n
            )

    def spreads(self, weights: Floats) -> dict[str, Spread]:
        """The spread of each subset, the first one being all tokens, under ``weights[R, groups]``."""
        rows = np.concatenate([np.ones((1, self.groups.n)), weights])
        n = rows @ self.n.T  # [1 + R, subsets]
        squares = rows @ self.squares.T
        own, overall = np.empty_like(squares), np.empty_like(squares)
        for start in range(0, rows.shape[0], RESAMPLE_ROWS):
            part = slice(start, start + RESAMPLE_ROWS)
            drawn = torch.from_numpy(rows[part])
            mean = (drawn @ self.sums[0]).numpy() / n[part, :1]
            for number in range(len(self.chosen)):
                total = (drawn @ self.sums[number]).numpy()
                size = n[part, number]
                with np.errstate(invalid="ignore", divide="ignore"):
                    own[part, number] = squares[part, number] - (total**2).sum(1) / size
                overall[part, number] = (
                    squares[part, number] - 2 * (total * mean).sum(1) + size * (mean**2).sum(1)
                )
        nothing = NOTHING * self.mean_square * n
        own[~(own > np.maximum(ROUNDING * squares, nothing))] = np.nan
        overall[~(overall > nothing)] = np.nan
        return {
            one.name: Spread(n[:, i], own[:, i], overall[:, i]) for i, one in enumerate(self.chosen)
        }


def weights_of(groups: Groups, n_resamples: int, seed: int) -> Floats:
    """How often each resample draws each group, ``[R, groups]``; no row where there is one group."""
    if groups.n < 2:
        return np.zeros((0, groups.n))
    return bootstrap_weights(groups.n, n_resamples, seed)
