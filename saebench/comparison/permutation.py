"""Two groups of checkpoints compared, with their seeds as the replicates.

Latents are not independent of each other, and neither are the numbers of one checkpoint. Two groups differ
when their seeds do, and with few seeds no test can say much: the smallest p-value that these numbers of
seeds allow stands beside the one that was found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from saebench.errors import ConfigError

MAX_SPLITS = 100_000
N_RANDOM_SPLITS = 9_999
# Two splits whose means differ by rounding are the same.
TOLERANCE = 1e-12
BLOCK = 10_000


@dataclass(frozen=True)
class GroupComparison:
    """Two groups: ``difference`` of means ``a − b``, and the two-sided p-value of a permutation test.

    ``smallest_p`` is the least that these numbers of seeds can give, ``n_splits`` how many ways of
    dealing the seeds were compared, ``exact`` whether those are all.
    """

    difference: float
    p_value: float
    smallest_p: float
    n_splits: int
    exact: bool


def compare_groups(a: Sequence[float], b: Sequence[float], *, seed: int = 0) -> GroupComparison:
    """Whether two groups differ in a number of which each seed gives one.

    A permutation test on the difference of means: the seeds are dealt to the groups in every possible
    way, up to 100,000 of them, otherwise in 9,999 random ways and the one found. ``p = 2 · min(P(T ≥ t),
    P(T ≤ t))``, at most 1. Raises :class:`ConfigError` for an empty group or a value that is no number.
    Source: Fisher 1935, The design of experiments; Phipson and Smyth 2010 for random permutations.
    """
    first, second = _checked(a, "first"), _checked(b, "second")
    values = np.concatenate((first, second))
    n_a, n = len(first), len(values)
    n_all = math.comb(n, n_a)
    exact = n_all <= MAX_SPLITS
    blocks = _all_splits(n, n_a) if exact else _random_splits(n, n_a, seed)
    centred = values - values.mean()  # the sum of one group orders splits as the difference does
    observed = centred[:n_a].sum()
    slack = TOLERANCE * np.abs(values).sum()
    above, below = (0, 0) if exact else (1, 1)
    for block in blocks:
        sums = centred[block].sum(1)
        above += int((sums >= observed - slack).sum())
        below += int((sums <= observed + slack).sum())
    n_splits = n_all if exact else N_RANDOM_SPLITS + 1
    return GroupComparison(
        float(first.mean() - second.mean()),
        min(1.0, 2 * min(above, below) / n_splits),
        min(1.0, 2 / n_splits),
        n_splits,
        exact,
    )


def _checked(values: Sequence[float], which: str) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not found.size or not np.isfinite(found).all():
        raise ConfigError(
            f"one number for each seed of the {which} group",
            f"{list(values)!r:.80}",
            "Compare groups of which every checkpoint was measured.",
        )
    return found


def _all_splits(n: int, n_a: int) -> Iterator[np.ndarray]:
    """Every choice of ``n_a`` of ``n`` seeds, ``[splits, n_a]``."""
    yield np.array(list(combinations(range(n), n_a)))


def _random_splits(n: int, n_a: int, seed: int) -> Iterator[np.ndarray]:
    """``N_RANDOM_SPLITS`` random choices of ``n_a`` of ``n`` seeds."""
    generator = np.random.default_rng(seed)
    for start in range(0, N_RANDOM_SPLITS, BLOCK):
        rows = min(BLOCK, N_RANDOM_SPLITS - start)
        yield generator.random((rows, n)).argpartition(n_a - 1, axis=1)[:, :n_a]
