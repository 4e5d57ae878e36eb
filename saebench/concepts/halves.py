"""Whether other texts would have named the same columns: random halves of the texts, set side by side.

Resampling with replacement repeats texts, so that |d| of a resample holds the noise of the texts twice, and
the largest of many |d| lies above what new texts give. Halves hold each text once and share none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from saebench.concepts.columns import Columns, Matrix
from saebench.concepts.exchange import Exchange
from saebench.concepts.separation import ROUNDING, factor

SHUFFLED = 50
SMALLEST = 2  # texts of each class that a half needs
AT_ONCE = 2**22  # values of d in memory


@dataclass(frozen=True)
class Stability:
    """What S splits into halves gave: ``d_max[2S]``, and for each split how far its halves agree.

    ``overlap[S]`` is the share of the ``k`` first columns of one half among those of the other.
    ``winner[2S]`` is the best column of a half, ``transferred[2S]`` its d on the other half, in its
    direction. ``shuffled_overlap`` and ``shuffled_d_max`` are the same for permuted labels. ``m`` columns
    take part.
    """

    k: int
    m: int
    overlap: np.ndarray
    d_max: np.ndarray
    winner: np.ndarray
    transferred: np.ndarray
    shuffled_overlap: np.ndarray
    shuffled_d_max: np.ndarray

    @property
    def chance(self) -> float:
        """The expected overlap of two sets of k drawn at random from the m columns: ``k/m``."""
        return self.k / self.m

    @property
    def agreement(self) -> float:
        """The share of splits whose halves have the same best column."""
        first, second = self.winner.reshape(2, -1)
        return float((first == second).mean())

    def wins(self, column: int) -> float:
        """The share of halves in which a column is the best."""
        return float((self.winner == column).mean())

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        names, counts = np.unique(self.winner, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:5]
        return {
            "n_splits": len(self.overlap),
            "k": self.k,
            "n_columns": self.m,
            "overlap": _spread(self.overlap),
            "overlap_by_chance": self.chance,
            "overlap_of_shuffled": _spread(self.shuffled_overlap),
            "d_max": _spread(self.d_max),
            "d_max_of_shuffled": _spread(self.shuffled_d_max),
            "d_on_other_half": _spread(self.transferred),
            "same_winner": self.agreement,
            "winners": [
                {"column": int(names[i]), "share": float(counts[i] / len(self.winner))}
                for i in order
            ],
        }


def stability(
    columns: Columns, exchange: Exchange, labels: np.ndarray, *, k: int, n_splits: int, seed: int
) -> Stability | None:
    """Halve the texts ``n_splits`` times and rank the eligible ``columns`` by |d| in each half.

    Documents stay whole and classes are halved. At most ``SHUFFLED`` splits are repeated with permuted
    labels. None where a half would have fewer than two texts of a class.
    """
    k = min(k, columns.m)
    drawn = exchange.permutations(min(n_splits, SHUFFLED), seed + 1)
    if drawn.shape[1] > SHUFFLED:  # all arrangements there are
        drawn = drawn[:, np.random.default_rng(seed).permutation(drawn.shape[1])[:SHUFFLED]]
    real = np.repeat(labels[:, None], n_splits, axis=1)
    found = []
    for number, each in enumerate((real, drawn)):
        first = exchange.halves(each, seed + 2 + number)
        sizes = np.stack(
            [(half & side).sum(0) for half in (first, ~first) for side in (each, ~each)]
        )
        if sizes.min(initial=SMALLEST) < SMALLEST:
            return None
        found.append(_compared(columns, first, each, k))
    (overlap, d_max, winner, transferred), (shuffled_overlap, shuffled_d_max, *_) = found
    return Stability(
        k, columns.m, overlap, d_max, winner, transferred, shuffled_overlap, shuffled_d_max
    )


def _compared(
    columns: Columns, first: np.ndarray, labels: np.ndarray, k: int
) -> tuple[np.ndarray, ...]:
    """Overlap ``[S]``, then largest |d|, winner and its d on the other half, each ``[2S]``.

    A bounded number of splits is in memory at a time.
    """
    size = max(1, AT_ONCE // (2 * max(columns.m, 1)))
    parts = []
    for start in range(0, first.shape[1], size):
        some = slice(start, start + size)
        d = _in_halves(columns, first[:, some], labels[:, some])
        overlap, sizes = _overlap(d, k), np.abs(d)
        best, half = sizes.argmax(0), np.arange(d.shape[1])
        other = np.roll(d, len(overlap), axis=1)[best, half]
        transferred = other * np.where(d[best, half] < 0, -1, 1)
        sides = (sizes.max(0), best, transferred)
        parts.append((overlap, *(side.reshape(2, -1) for side in sides)))
    overlap, *both = (np.concatenate(item, axis=-1) for item in zip(*parts, strict=True))
    return overlap, *(side.reshape(-1) for side in both)


def _in_halves(columns: Columns, first: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """d ``[m, 2S]`` float32 in the ``first[n, S]`` halves, then in the others; 0 where it is undefined.

    The sums of the other half are what is missing to those of all texts.
    """
    n, n1 = _both(first.sum(0), len(first)), _both((first & labels).sum(0), labels.sum(0))
    parts = []
    for _, values in columns.blocks():
        whole = np.ones((len(first), 1))
        sums = _both(_sum(values, first), _sum(values, whole))
        squares = _both(_sum(values * values, first), _sum(values * values, whole))
        every = labels[:, :1] if (labels == labels[:, :1]).all() else labels
        positive = _both(_sum(values, first & labels), _sum(values, every))
        spread = squares - sums**2 / n
        gap = positive - n1 * sums / n
        with np.errstate(divide="ignore", invalid="ignore"):
            share = gap**2 * n / (n1 * (n - n1)) / spread
            defined = (spread > ROUNDING * squares) & (share < 1 - ROUNDING)
            d = np.sign(gap) * np.sqrt(factor(n1, n) * share / (1 - share))
        parts.append(np.where(defined, d, 0).astype(np.float32))
    return np.concatenate(parts)


def _sum(values: Matrix, members: np.ndarray) -> np.ndarray:
    return np.asarray(values @ members.astype(np.float64))


def _both(first: np.ndarray, whole: np.ndarray | int) -> np.ndarray:
    """What the first halves have, and what is left of the whole, side by side."""
    return np.concatenate([first, whole - first], axis=-1)


def _top(d: np.ndarray, k: int) -> np.ndarray:
    """The ``k`` columns with the largest |d| in each half, ``[k, s]``."""
    return np.argpartition(-np.abs(d), k - 1, axis=0)[:k]


def _overlap(d: np.ndarray, k: int) -> np.ndarray:
    """The share ``[S]`` of the first half's columns that the second half has too."""
    first, second = np.split(_top(d, k), 2, axis=1)
    return np.asarray((first[:, None] == second[None]).any(1).mean(0))


def _spread(samples: np.ndarray) -> dict[str, float] | None:
    if not len(samples):
        return None
    low, middle, high = np.quantile(samples, (0.05, 0.5, 0.95)).tolist()
    return {"mean": float(samples.mean()), "median": middle, "low": low, "high": high}
