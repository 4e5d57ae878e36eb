"""What classes of latents have in common: medians with intervals, shares, gaps, and what nulls give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from saebench.causal.correlations import Floats, spearman
from saebench.stats import LEVEL, Interval, interval, wilson

CHUNK = 2**22  # values of one block of resamples
UNIT = "latents"
TWO = "an interval needs two latents"
NONE = Interval(None, None, reason=TWO)


@dataclass(frozen=True)
class Estimate:
    """A statistic over ``n`` latents with its interval; ``value`` is None where ``n`` is too small."""

    value: float | None
    n: int
    bounds: Interval = NONE
    quartiles: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        found: dict[str, Any] = {"value": self.value, "n": self.n}
        found |= {"low": self.bounds.low, "high": self.bounds.high}
        if self.quartiles is not None:
            found["quartiles"] = list(self.quartiles)
        return found


def median(x: Floats, *, n_resamples: int, seed: int) -> Estimate:
    """The median of the finite values of ``x[L]``, with quartiles."""
    values = x[np.isfinite(x)]
    if not len(values):
        return Estimate(None, 0)
    low, middle, high = (float(q) for q in np.quantile(values, [0.25, 0.5, 0.75]))
    if len(values) < 2:
        return Estimate(middle, 1, NONE, (low, high))
    below, above_ = _middles(len(values), n_resamples, seed)
    ordered = np.sort(values)
    medians = ordered[below] / 2 + ordered[above_] / 2
    return Estimate(middle, len(values), interval(medians, LEVEL, unit=UNIT), (low, high))


def share(x: Floats) -> Estimate:
    """The mean of the finite values of ``x[L]``, each 0 or 1, with Wilson's interval over latents."""
    values = x[np.isfinite(x)]
    if not len(values):
        return Estimate(None, 0)
    bounds = wilson(int(values.sum()), len(values))
    bounds = replace(bounds, how=f"Wilson, {LEVEL:.0%}, {len(values)} latents")
    return Estimate(float(values.mean()), len(values), bounds)


def rank_correlation(x: Floats, y: Floats, *, n_resamples: int, seed: int) -> Estimate:
    """Spearman's ρ over the latents for which both of ``x[L]`` and ``y[L]`` are finite; None below three."""
    both = np.isfinite(x) & np.isfinite(y)
    a, b = x[both], y[both]
    if len(a) < 3:
        return Estimate(None, len(a))

    def rho(draws: np.ndarray) -> Floats:
        return spearman(a[draws], b[draws], np.ones(draws.shape, dtype=bool))

    value = float(rho(np.arange(len(a))[None])[0])
    if not np.isfinite(value):
        return Estimate(None, len(a))
    return Estimate(value, len(a), _over_latents(rho, len(a), n_resamples, seed))


def above(x: Floats, limit: float) -> Floats:
    """1 where ``x[L]`` is above the limit, 0 where not, not a number where it is not defined."""
    return np.where(np.isfinite(x), (x > limit).astype(np.float64), np.nan)


def reasons_counted(reasons: Sequence[str]) -> dict[str, int]:
    """How often each reason is given, the most frequent first; latents without one are left out."""
    return dict(Counter(reason for reason in reasons if reason).most_common())


@lru_cache(maxsize=64)
def _middles(n: int, n_resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The two places in the middle of each resample of ``n`` ordered values, ``[R]`` each.

    They do not depend on the values, so that all medians over as many latents share them.
    """
    parts = [
        np.partition(draws, [(n - 1) // 2, n // 2], axis=1)[:, [(n - 1) // 2, n // 2]]
        for draws in _draws(n, n_resamples, seed)
    ]
    both = np.concatenate(parts)
    return both[:, 0], both[:, 1]


def _draws(n: int, n_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks ``[R, n]`` of latents drawn with replacement."""
    generator = np.random.default_rng([seed, 2])
    size = max(1, CHUNK // n)
    for start in range(0, n_resamples, size):
        yield generator.integers(0, n, size=(min(size, n_resamples - start), n))


def _over_latents(
    statistic: Callable[[np.ndarray], Floats], n: int, n_resamples: int, seed: int
) -> Interval:
    """Percentile bootstrap over latents of ``statistic(draws[R, n]) -> [R]``."""
    if n < 2:
        return NONE
    parts = [statistic(draws) for draws in _draws(n, n_resamples, seed)]
    return interval(np.concatenate(parts), LEVEL, unit=UNIT)
