"""Small-sample tests of a comparison: paired interval, exact sign test, permuted seeds, multiplicity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from saebench.stats import LEVEL, Interval, t_quantile

SAME = 1e-9  # relative difference below which two values are a tie: what rounding alone can make
SAME_NEAR_ZERO = 1e-12


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (ddof 1) of ``n`` values; what they do not allow for is None."""

    mean: float | None
    sd: float | None
    n: int


@dataclass(frozen=True)
class SignTest:
    """Two-sided p of ``wins`` against ``losses``, and the smallest that so many of them could give."""

    wins: int
    ties: int
    losses: int
    p: float | None
    smallest_p: float | None


def spread(values: Sequence[float]) -> Spread:
    """Mean, sd with ``n − 1`` in the denominator, and how many values there are."""
    if not values:
        return Spread(None, None, 0)
    sd = stdev(values) if len(values) > 1 else None
    return Spread(fmean(values), sd, len(values))


def is_tie(a: float, b: float) -> bool:
    """Whether two values differ by no more than rounding."""
    return math.isclose(a, b, rel_tol=SAME, abs_tol=SAME_NEAR_ZERO)


def sign_test(wins: int, losses: int, ties: int = 0) -> SignTest:
    """The exact two-sided sign test; ties are dropped, and p is None where fewer than two are left.

    Under no difference wins are Binomial(n, ½): ``p = min(1, 2 · P(X ≤ min(wins, losses)))``.
    Source: Conover 1999, Practical nonparametric statistics, section 3.4.
    """
    n = wins + losses
    if n < 2:  # one sign has p = 1 whatever it is, and tests nothing
        return SignTest(wins, ties, losses, None, None)
    tail = sum(math.comb(n, count) for count in range(min(wins, losses) + 1))
    p = min(1.0, 2 * tail / 2**n)
    return SignTest(wins, ties, losses, p, min(1.0, 2 / 2**n))


def paired_interval(differences: Sequence[float], level: float = LEVEL) -> Interval:
    """``mean ± t · s/√n`` of the differences of ``n`` places; ``t`` has ``n − 1`` degrees of freedom.

    The place (language model and block) is the replicate: the interval speaks of other places like
    these. It has no bounds with one place, or where the differences are all the same.
    """
    n = len(differences)
    if n < 2:
        return Interval(None, None, reason="an interval needs at least two places")
    if all(is_tie(value, differences[0]) for value in differences):
        return Interval(None, None, reason="the differences are the same in every place")
    reach = t_quantile(level, n - 1) * stdev(differences) / math.sqrt(n)
    centre = fmean(differences)
    return Interval(centre - reach, centre + reach, f"t over {n} places, {level:.0%}")


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Each p corrected for having looked at all of them; None stays None and is not counted.

    The i-th smallest of ``n`` is multiplied by ``n − i + 1``, and none is less than one before it.
    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    order = sorted((p, place) for place, p in enumerate(values) if p is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[place] = largest
    return corrected
