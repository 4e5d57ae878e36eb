"""Permutation of outcomes within each prompt: exactly where the sums are few, else by drawing.

The prompt is the block: under the hypothesis that the strength of steering does not matter, the outcomes
of one prompt belong to its strengths in any order. Which outcomes are missing is held fixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np

MOST_SUMS = 300_000  # different sums that an exact distribution is made of
LONGEST_ROW = 8  # strengths whose orders are listed: 8! = 40,320
DRAWS = 10_000
CHUNK = 2**22  # values permuted at once
TIE = 1e-9  # relative: sums that differ by rounding alone are equal


@dataclass(frozen=True)
class Permuted:
    """A two-sided ``p``, ``how`` it was made, and the smallest p that could have come out (None: any)."""

    p: float
    how: str
    smallest: float | None = None


def linear_p(
    weights: np.ndarray, values: np.ndarray, *, draws: int = DRAWS, seed: int = 0
) -> Permuted:
    """How often ``Σ weights[a] · values[i, a]`` is as far from its mean under permutation within rows.

    ``weights[A]``; ``values[n, A]`` is NaN where an outcome is missing. With drawing
    ``p = (1 + #{as far}) / (1 + draws)``; exactly it is a share of all arrangements.
    """
    weights, values = np.asarray(weights, dtype=np.float64), np.asarray(values, dtype=np.float64)
    there = ~np.isnan(values)
    observed = float((np.where(there, values, 0) * weights).sum())
    exact = _exact_sums(weights, values)
    if exact is not None:
        sums, shares = exact
        centre = float(sums @ shares)
        far = np.abs(sums - centre) >= _reach(abs(observed - centre), sums)
        # the arrangement that was observed is one of all
        return Permuted(
            float(shares[far].sum()),
            "all permutations within prompts",
            float(shares[np.abs(sums - centre) >= _reach(np.abs(sums - centre).max(), sums)].sum()),
        )
    sums = drawn(weights, values, draws, seed)
    n = there.sum(1)
    mean_weight = (there * weights).sum(1) / np.maximum(n, 1)
    centre = float((mean_weight * np.where(there, values, 0).sum(1)).sum())
    far_drawn = int((np.abs(sums - centre) >= _reach(abs(observed - centre), sums)).sum())
    how = f"{draws:,} permutations within prompts"
    return Permuted((1 + far_drawn) / (1 + draws), how, 1 / (1 + draws))


def drawn(weights: np.ndarray, values: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """``Σ weights · values`` for each of ``draws`` random permutations within rows, ``[draws]``."""
    return np.concatenate(
        [(np.nan_to_num(part) @ weights).sum(1) for part in permuted(values, draws, seed)]
    )


def permuted(values: np.ndarray, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Chunks ``[b, n, A]`` of ``values[n, A]`` permuted within rows, ``draws`` in all; NaN stay in place."""
    generator = np.random.default_rng([seed, 2])
    missing = np.isnan(values)
    # the columns of each row that have an outcome, in order, before those that have none
    columns = np.argsort(missing, axis=1, kind="stable")
    size = max(1, CHUNK // max(1, values.size))
    for start in range(0, draws, size):
        keys = generator.random((min(size, draws - start), *values.shape))
        keys[:, missing] = 2.0
        order = np.argsort(keys, axis=2)
        block = np.empty_like(keys)
        source = np.take_along_axis(np.broadcast_to(values, keys.shape), order, axis=2)
        np.put_along_axis(block, np.broadcast_to(columns, keys.shape), source, axis=2)
        yield block


def _exact_sums(weights: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Every value of the sum and the share of arrangements that has it; None where there are too many."""
    sums, shares = np.zeros(1), np.ones(1)
    kept: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
    for row in values:
        there = ~np.isnan(row)
        if there.sum() > LONGEST_ROW:
            return None
        ordered = np.where(there, row, 0)
        ordered[there] = np.sort(row[there])
        key = ordered.tobytes() + there.tobytes()
        if key not in kept:
            kept[key] = _row_sums(weights[there], ordered[there])
        own, own_shares = kept[key]
        if len(sums) * len(own) > MOST_SUMS:
            return None
        sums, shares = _merged(
            (sums[:, None] + own).ravel(), (shares[:, None] * own_shares).ravel()
        )
    return sums, shares


def _row_sums(weights: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sums = values[_orders(len(values))] @ weights if len(values) else np.zeros(1)
    return _merged(sums, np.full(len(sums), 1 / len(sums)))


@cache
def _orders(n: int) -> np.ndarray:
    """``[n!, n]``: every order of n things."""
    return np.array(list(permutations(range(n))), dtype=np.int64)


def _merged(sums: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equal sums as one; those that differ by rounding are equal."""
    order = np.argsort(sums)
    sums, shares = sums[order], shares[order]
    gap = TIE * max(1.0, float(np.abs(sums).max()))
    starts = np.flatnonzero(np.concatenate([[True], np.diff(sums) > gap]))
    return sums[starts], np.add.reduceat(shares, starts)


def _reach(distance: float, sums: np.ndarray) -> float:
    """A distance less what rounding may have added."""
    return distance - TIE * max(1.0, float(np.abs(sums).max()))
