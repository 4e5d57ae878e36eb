"""Whether an outcome follows the strength of steering: rank correlation, slope, homogeneity.

Outcomes are ``values[n, A]``: a row for each prompt, a column for each strength ``alphas[A]``, NaN where an
outcome is missing. A prompt is the unit that is resampled, and the block within which is permuted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from saebench.stats import Interval
from saebench.steering.intervals import over_prompts
from saebench.steering.permutation import DRAWS, Permuted, linear_p, permuted

MIN_ALPHAS = 5  # below, a trend and a mere difference cannot be told apart
CONSTANT = "the outcome is the same at every α of every prompt"


@dataclass(frozen=True)
class Estimate:
    """A value with its interval or its permutation test; None with the reason."""

    value: float | None
    reason: str | None = None
    bounds: Interval | None = None
    test: Permuted | None = None

    @property
    def p(self) -> float | None:
        """The p of the test."""
        return None if self.test is None else self.test.p

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        found: dict[str, Any] = {"value": self.value, "reason": self.reason}
        if self.bounds is not None:
            found |= {"low": self.bounds.low, "high": self.bounds.high}
            found["interval"] = self.bounds.how or f"none: {self.bounds.reason}"
        if self.test is not None:
            found |= {"p": self.test.p, "how": self.test.how, "smallest_p": self.test.smallest}
        return found


def spearman(
    alphas: Sequence[float], values: np.ndarray, *, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Spearman's ρ of α and outcome over all pairs that have one, with mid-ranks for ties.

    The two-sided p permutes outcomes within prompts: how often ρ is as far from its mean under
    permutation (0 where no outcome is missing). Source: Spearman 1904; Good 2005 for blocks.
    """
    values = np.atleast_2d(np.asarray(values, dtype=np.float64))
    there = ~np.isnan(values)
    if (reason := _unusable(alphas, values)) is not None:
        return Estimate(None, reason)
    ranks_alpha = np.full(values.shape, np.nan)
    ranks_value = np.full(values.shape, np.nan)
    ranks_alpha[there] = _centred_ranks(np.broadcast_to(alphas, values.shape)[there])
    ranks_value[there] = _centred_ranks(values[there])
    scale = math.sqrt(np.nansum(ranks_alpha**2) * np.nansum(ranks_value**2))
    rho = float(np.nansum(ranks_alpha * ranks_value)) / scale
    # the rank of an α is the same in every row
    weights = np.array(
        [
            column[~np.isnan(column)][0] if there[:, i].any() else 0.0
            for i, column in enumerate(ranks_alpha.T)
        ]
    )
    test = linear_p(weights, ranks_value, draws=draws, seed=seed)
    return Estimate(min(max(rho, -1.0), 1.0), test=test)


def slope(alphas: Sequence[float], values: np.ndarray) -> Estimate:
    """The change of the outcome per unit of α within prompts, by least squares.

    ``Σ_i Σ_a (α_a − ᾱ_i)(y_ia − ȳ_i) / Σ_i Σ_a (α_a − ᾱ_i)²`` over the pairs that have an outcome: each
    prompt has a level of its own. For outcomes of 0 and 1 it is a linear probability model. The interval
    is :func:`saebench.steering.intervals.over_prompts`.
    """
    values = np.atleast_2d(np.asarray(values, dtype=np.float64))
    there = ~np.isnan(values)
    grid = np.where(there, np.asarray(alphas, dtype=np.float64), np.nan)
    count = np.maximum(there.sum(1), 1)
    shifted = grid - (np.nansum(grid, 1) / count)[:, None]
    level = values - (np.nansum(values, 1) / count)[:, None]
    top, bottom = np.nansum(shifted * level, 1), np.nansum(shifted**2, 1)
    used = bottom > 0
    if not used.any():
        return Estimate(None, "no prompt has an outcome at two α")
    top, bottom = top[used], bottom[used]
    return Estimate(float(top.sum() / bottom.sum()), bounds=over_prompts(top, bottom))


def homogeneity(successes: Sequence[float], trials: Sequence[float]) -> Estimate:
    """Pearson's χ² of equal rates, ``successes[A]`` of ``trials[A]``; its p treats trials as independent.

    Columns without a trial are left out. Source: Pearson 1900.
    """
    hits, n = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    hits, n = hits[n > 0], n[n > 0]
    if len(n) < 2:
        return Estimate(None, "fewer than two α have an outcome")
    rate = hits.sum() / n.sum()
    if not 0 < rate < 1:
        return Estimate(None, CONSTANT)
    value = float(((hits - n * rate) ** 2 / (n * rate * (1 - rate))).sum())
    df = len(n) - 1
    p = float(scipy_stats.chi2.sf(value, df))
    return Estimate(value, test=Permuted(p, f"χ² with {df} degrees of freedom"))


def homogeneity_within(values: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """:func:`homogeneity` of outcomes 0 and 1, its p by permutation within prompts.

    The same prompts are at every α, so that trials are not independent and the p of the χ² distribution
    is off.
    """
    there = ~np.isnan(values)
    trials = there.sum(0).astype(np.float64)
    found = homogeneity(np.nansum(values, 0), trials)
    if found.value is None:
        return found
    rate = np.nansum(values) / trials.sum()
    used = trials > 0
    spread = trials[used] * rate * (1 - rate)
    far = 0
    for part in permuted(values, draws, seed):
        hits = np.nansum(part, axis=1)[:, used]
        chi2 = ((hits - trials[used] * rate) ** 2 / spread).sum(1)
        far += int((chi2 >= found.value * (1 - 1e-9)).sum())
    how = f"{draws:,} permutations within prompts"
    return Estimate(found.value, test=Permuted((1 + far) / (1 + draws), how, 1 / (1 + draws)))


def rate_trend(alphas: Sequence[float], rates: Sequence[float | None], **options: Any) -> Estimate:
    """Spearman's ρ of α and one rate for each α, as published: its p over every order of the rates."""
    row = np.array([np.nan if rate is None else rate for rate in rates], dtype=np.float64)
    return spearman(alphas, row[None], **options)


def _unusable(alphas: Sequence[float], values: np.ndarray) -> str | None:
    there = ~np.isnan(values)
    n_alphas = int(there.any(0).sum())
    if n_alphas < MIN_ALPHAS:
        return f"{n_alphas} α have an outcome; a trend needs {MIN_ALPHAS}"
    if len(np.unique(values[there])) < 2:
        return CONSTANT
    if len(set(alphas)) < len(alphas):
        return "an α is named twice"
    return None


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    ranks = scipy_stats.rankdata(values)
    return ranks - ranks.mean()
