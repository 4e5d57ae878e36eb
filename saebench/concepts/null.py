"""What maxima over columns are worth: the same maxima after the labels were permuted, many times.

The largest of thousands of |d| is large by chance alone. How large depends on the number of texts, on how
sparse columns are and on how they correlate, so the null is made from the rows themselves. One product of
permuted labels with all columns gives every column's sum over the positive class, from which |d| and AUROC
follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from saebench.concepts.columns import Columns
from saebench.concepts.exchange import Exchange
from saebench.concepts.separation import ROUNDING, Separation, explained, factor, magnitude

TOGETHER = 32  # permutations in one product: their labels stay in a core's cache
TIE = 1 - 1e-9  # values this close are one: the same sum in another order
LARGE = 1.0  # |d| from which on a column is counted
QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Null:
    """A statistic as ``observed`` and its ``samples[B]`` under permuted labels."""

    observed: float
    samples: np.ndarray

    @property
    def p(self) -> float:
        """``(1 + #{samples ≥ observed}) / (1 + B)``."""
        return float(self.p_of(np.array([self.observed]))[0])

    def p_of(self, values: np.ndarray) -> np.ndarray:
        """The same of other ``values[j]``: for a column's statistic, p corrected for the maximum."""
        ordered = np.sort(self.samples)
        below = np.searchsorted(ordered, np.asarray(values) * TIE, side="left")
        return (1 + len(ordered) - below) / (1 + len(ordered))

    @property
    def quantiles(self) -> tuple[float, float, float]:
        """The 5 %, 50 % and 95 % points under permuted labels; the observed value where there are none."""
        if not len(self.samples):
            return (self.observed,) * 3
        low, middle, high = np.quantile(self.samples, QUANTILES).tolist()
        return low, middle, high

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        low, middle, high = self.quantiles
        spread = float(self.samples.std(ddof=1)) if len(self.samples) > 1 else None
        return {
            "observed": self.observed,
            "p": self.p,
            "null": {
                "median": middle,
                "low": low,
                "high": high,
                "mean": float(self.samples.mean()) if len(self.samples) else None,
                "sd": spread,
            },
        }


@dataclass(frozen=True)
class Nulls:
    """The nulls of one split: the largest |d|, the largest |AUROC − ½|, the number of columns with |d| > 1.

    ``p[m]`` is the p of each eligible column by itself. ``exact`` says that all arrangements were gone
    through.
    """

    d_max: Null
    auroc_max: Null
    n_over_1: Null
    p: np.ndarray
    exact: bool
    n_permutations: int
    smallest_p: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "exact": self.exact,
            "n_permutations": self.n_permutations,
            "smallest_p": self.smallest_p,
            "d_max": self.d_max.to_json(),
            "auroc_max": self.auroc_max.to_json(),
            "n_over_1": self.n_over_1.to_json(),
        }


def permuted(
    columns: Columns,
    ranks: Columns,
    separation: Separation,
    exchange: Exchange,
    n_permutations: int,
    seed: int,
) -> Nulls:
    """The nulls of eligible ``columns`` with their ``ranks`` and the ``separation`` that was observed.

    Columns whose d is infinite under an arrangement have no part in its maxima; in their own p and in the
    number of columns with |d| > 1 they count. Source: Westfall and Young 1993, Resampling-based multiple
    testing, on maxima; Phipson and Smyth 2010 on p.
    """
    labels = exchange.permutations(n_permutations, seed)
    count = labels.shape[1]
    parts = [slice(start, start + TOGETHER) for start in range(0, count, TOGETHER)]
    share, over, beyond = np.zeros(count), np.zeros(count), np.zeros(columns.m)
    away = np.zeros(count)
    n1 = labels.sum(0)
    seen = np.abs(separation.d)
    for block in columns.blocks():
        for part in parts:
            found = _shares(columns, block, labels[:, part])
            c = factor(n1[part], columns.n)
            over[part] += (found > LARGE**2 / (c + LARGE**2)).sum(0)
            beyond[block[0]] += (found >= _share_of(seen[block[0]], c)).sum(1)
            np.maximum(share[part], _largest_finite(found), out=share[part])
    for block in ranks.blocks():
        for part in parts:
            sums = np.abs(ranks.centred_sums(block, labels[:, part])).max(0, initial=0)
            np.maximum(away[part], sums / (n1[part] * (columns.n - n1[part])), out=away[part])
    finite = np.abs(separation.d[np.isfinite(separation.d)])
    return Nulls(
        Null(float(finite.max(initial=0)), magnitude(share, n1, columns.n)),
        Null(float(np.abs(separation.auroc - 0.5).max(initial=0)), away),
        Null(float((seen > LARGE).sum()), over),
        (1 + beyond) / (1 + count),
        exchange.is_exact,
        count,
        exchange.smallest_p(n_permutations),
    )


def one_sided_p(
    columns: Columns, exchange: Exchange, n_permutations: int, seed: int
) -> tuple[float, float]:
    """p of the d of ``columns``, which are one, against permuted labels with a d as high; and the least p.

    Only a column that is higher in the positive class can have a low p. Source: Phipson and Smyth 2010.
    """
    actual = exchange.labels[exchange.unit][:, None]
    labels = exchange.permutations(n_permutations, seed)
    parts = [labels[:, at : at + TOGETHER] for at in range(0, labels.shape[1], TOGETHER)]
    observed, *samples = (_angles(columns, part) for part in (actual, *parts))
    reached = sum(int((part >= observed - (1 - TIE)).sum()) for part in samples)
    count = labels.shape[1]
    least = 1 / (1 + count)  # of all others where all arrangements were gone through
    return (1 + reached) / (1 + count), least


def _angles(columns: Columns, labels: np.ndarray) -> np.ndarray:
    """arctan d ``[b]`` of one column: it rises with d and is finite where d is not."""
    (block,) = columns.blocks()
    sums = columns.centred_sums(block, labels)
    n1 = labels.sum(0)
    d = np.sign(sums) * magnitude(explained(sums, columns.spread, n1, columns.n), n1, columns.n)
    return np.asarray(np.arctan(d[0]))


def _share_of(d: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The explained share ``[size, b]`` (or ``[size, 1]``) from which on a column has |d| or more."""
    c = c[:1] if (c == c[0]).all() else c  # classes of one size: the same for all arrangements
    own = (TIE * d[:, None]) ** 2
    with np.errstate(invalid="ignore"):
        # an infinite d is one of which next to nothing is left within the classes, see magnitude
        return np.where(np.isinf(own), 1 - ROUNDING, own / (c + own))


def _shares(columns: Columns, block: tuple[slice, Any], labels: np.ndarray) -> np.ndarray:
    """Explained shares ``[size, b]``."""
    sums = columns.centred_sums(block, labels)
    return explained(sums, columns.spread[block[0]], labels.sum(0), columns.n)


def _largest_finite(shares: np.ndarray) -> np.ndarray:
    """The largest of ``shares[size, b]`` that leave something within the classes, ``[b]``; overwrites."""
    if shares.max(initial=0) >= 1 - ROUNDING:
        shares[shares >= 1 - ROUNDING] = 0
    return np.asarray(shares.max(0, initial=0))
