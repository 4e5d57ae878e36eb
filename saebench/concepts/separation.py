"""Cohen's d, Hedges' g and AUROC of each column between two classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from saebench.concepts.columns import Columns

Values = TypeVar("Values", float, np.ndarray)
ROUNDING = 1e-12  # of a column's spread: what is less within the classes is none


@dataclass(frozen=True)
class Separation:
    """How each of m columns tells ``n1`` positive rows from ``n0`` others.

    ``d[m]`` is infinite where both classes are constant and differ; ``auroc[m]`` counts ties as half.
    ``rate1`` and ``rate0`` are the shares of rows of each class on which a column is not zero.
    """

    d: np.ndarray
    auroc: np.ndarray
    rate1: np.ndarray
    rate0: np.ndarray
    firings: np.ndarray
    n1: int
    n0: int

    @property
    def g(self) -> np.ndarray:
        """Hedges' g, ``[m]``."""
        return hedges(self.d, self.n1, self.n0)

    @property
    def n_infinite(self) -> int:
        """How many columns are constant in both classes and differ between them."""
        return int(np.isinf(self.d).sum())

    def take(self, which: np.ndarray) -> Separation:
        """The columns ``which[m]`` (bool) or by number."""
        return Separation(
            self.d[which],
            self.auroc[which],
            self.rate1[which],
            self.rate0[which],
            self.firings[which],
            self.n1,
            self.n0,
        )

    def eligible(self, min_firings: int) -> np.ndarray:
        """``[m]`` bool: which columns fire on enough rows, in both classes together, to win a maximum."""
        return self.firings >= min_firings

    def best(self, min_firings: int) -> int | None:
        """The column with the largest finite |d| among the eligible; the first of several; None: none."""
        found = np.where(self.eligible(min_firings) & np.isfinite(self.d), np.abs(self.d), -1.0)
        return int(found.argmax()) if found.size and found.max() >= 0 else None


def separate(columns: Columns, ranks: Columns, labels: np.ndarray) -> Separation:
    """How far each column tells the rows of ``labels[n]`` (bool) from the others.

    ``ranks`` are :meth:`Columns.ranks` of ``columns``. d is the difference of means over the pooled
    standard deviation (ddof 1); AUROC is the Mann-Whitney statistic with mid-ranks.
    Source: Cohen 1988; Hanley and McNeil 1982.
    """
    n1, n = int(labels.sum()), len(labels)
    n0 = n - n1
    members = labels[:, None]
    sums = _all_sums(columns, members)
    share = explained(sums, columns.spread, np.array([n1]), n)
    d = np.sign(sums) * magnitude(share, np.array([n1]), n)
    auroc = 0.5 + _all_sums(ranks, members) / (n1 * n0)
    fired = np.concatenate(
        [(values != 0) @ labels.astype(np.float64) for _, values in columns.blocks()]
    )
    return Separation(
        d[:, 0], auroc[:, 0], fired / n1, (columns.firings - fired) / n0, columns.firings, n1, n0
    )


def explained(sums: np.ndarray, spread: np.ndarray, n1: np.ndarray, n: int) -> np.ndarray:
    """The share ``[m, b]`` of each column's spread between the classes, 0 where it has no spread.

    ``sums[m, b]`` are centred sums over ``n1[b]`` of ``n`` rows. |d| grows with the share, so that
    maxima over columns can be taken of it.
    """
    share = sums * sums
    share *= np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)[:, None]
    share *= n / (n1 * (n - n1))
    return share


def magnitude(share: np.ndarray, n1: np.ndarray, n: int) -> np.ndarray:
    """|d| from the share that is explained: infinite where next to nothing is left within the classes."""
    left = 1 - share
    with np.errstate(divide="ignore", invalid="ignore"):
        d = np.sqrt(factor(n1, n) * share / left)
    return np.where(left <= ROUNDING, np.inf, d)


def factor(n1: np.ndarray, n: int | np.ndarray) -> np.ndarray:
    """``c[b]`` in ``d² = c · share / (1 − share)``."""
    return (n - 2) * n / (n1 * (n - n1))


def hedges(d: Values, n1: int, n0: int) -> Values:
    """d with its bias in small samples taken out: ``d · (1 − 3/(4ν − 1))``, ν = n1 + n0 − 2.

    The usual approximation of the exact ratio of gamma functions, within .001 of it from ν = 8 on.
    Source: Hedges 1981, Distribution theory for Glass's estimator of effect size.
    """
    return d * (1 - 3 / (4 * (n1 + n0 - 2) - 1))


def standard_error(d: Values, n1: int, n0: int) -> Values:
    """``√((n1 + n0)/(n1 n0) + d²/(2 (n1 + n0)))``, for independent rows.

    Source: Hedges and Olkin 1985, chapter 5.
    """
    return ((n1 + n0) / (n1 * n0) + d * d / (2 * (n1 + n0))) ** 0.5


def _all_sums(columns: Columns, members: np.ndarray) -> np.ndarray:
    return np.concatenate([columns.centred_sums(block, members) for block in columns.blocks()])
