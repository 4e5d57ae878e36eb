"""Resampling and small-sample statistics: intervals whose unit is the sequence, never the token.

Tokens of one sequence resemble each other, so a standard error that treats them as independent is
too small. Everything here works on per-group sums of whole sequences, is deterministic for a seed,
and does not depend on the order or the batches in which the sequences were read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

N_RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """Bounds and ``how`` they were made; both bounds are None where ``reason`` says why."""

    low: float | None
    high: float | None
    how: str = ""
    reason: str | None = None


def bootstrap_weights(n_groups: int, n_resamples: int = N_RESAMPLES, seed: int = 0) -> Floats:
    """How often each resample draws each group: ``[n_resamples, n_groups]``.

    ``n_groups`` counts the groups that hold data; every row sums to it, and any sum over a resample
    is ``weights @ sums``. The same seed and number of groups give the same resamples, so that two
    checkpoints measured on the same sequences are compared pair by pair.
    Source: Efron and Tibshirani 1993, chapter 6.
    """
    draws = np.random.default_rng(seed).integers(0, max(n_groups, 1), size=(n_resamples, n_groups))
    draws += n_groups * np.arange(n_resamples)[:, None]
    counts = np.bincount(draws.ravel(), minlength=n_resamples * n_groups)
    return counts.reshape(n_resamples, n_groups).astype(np.float64)


def interval(samples: Any, level: float = LEVEL, *, unit: str = "sequences") -> Interval:
    """Percentile interval of bootstrap ``samples[n_resamples]``, if all of them are finite.

    ``unit`` names what was resampled.
    """
    values = np.asarray(samples, dtype=np.float64)
    if values.size < 2:
        return Interval(None, None, reason="an interval needs at least two resamples")
    undefined = int((~np.isfinite(values)).sum())
    if undefined:
        return Interval(None, None, reason=f"undefined in {undefined} of {values.size} resamples")
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    how = f"bootstrap over {unit}, {level:.0%} percentile, {values.size} resamples"
    return Interval(float(low), float(high), how)


def jackknife(
    estimate: float,
    leave_one_out: Any,
    level: float = LEVEL,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Interval:
    """``estimate ± t · SE`` from the estimates without each block, ``leave_one_out[n_blocks]``.

    ``SE² = (B − 1)/B · Σ (θ₍₋b₎ − θ̄)²`` and ``t`` has ``B − 1`` degrees of freedom; the result is
    cut to ``bounds``. Source: Efron and Tibshirani 1993, chapter 11.
    """
    values = np.asarray(leave_one_out, dtype=np.float64)
    n_blocks = values.size
    if n_blocks < 2:
        return Interval(None, None, reason="an interval needs sequences in at least two blocks")
    if not np.isfinite(values).all() or not math.isfinite(estimate):
        return Interval(None, None, reason="undefined without one of the blocks")
    error = math.sqrt((n_blocks - 1) / n_blocks * float(((values - values.mean()) ** 2).sum()))
    reach = t_quantile(level, n_blocks - 1) * error
    low, high = (
        min(max(edge, bounds[0]), bounds[1]) for edge in (estimate - reach, estimate + reach)
    )
    return Interval(low, high, f"delete-one-block jackknife, {level:.0%}, {n_blocks} blocks")


def wilson(successes: int, trials: int, level: float = LEVEL) -> Interval:
    """Score interval of a proportion; inside [0, 1] and honest at 0 and at ``trials``.

    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference.
    """
    if trials <= 0:
        return Interval(None, None, reason="a proportion needs at least one trial")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / trials
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    reach = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # At the ends one bound is exactly 0 or 1; subtraction would leave rounding behind.
    low = 0.0 if successes == 0 else centre - reach
    high = 1.0 if successes == trials else centre + reach
    return Interval(low, high, f"Wilson, {level:.0%}, {trials} trials")


def rule_of_three(n_tokens: int) -> float | None:
    """The 95 % upper bound ``3/n`` on a rate that was never seen in ``n_tokens``, None without any.

    Source: Hanley and Lippman-Hand 1983, If nothing goes wrong, is everything all right?
    """
    return min(1.0, 3 / n_tokens) if n_tokens > 0 else None


def t_quantile(level: float, df: int) -> float:
    """The two-sided quantile of Student's t: ``P(|T| ≤ t) = level`` with ``df`` degrees of freedom.

    Source: the finite series of Abramowitz and Stegun 26.7.3 and 26.7.4, inverted by bisection.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(80):
        angle = (low + high) / 2
        if _t_coverage(angle, df) < level:
            low = angle
        else:
            high = angle
    return math.sqrt(df) * math.tan((low + high) / 2)


def _t_coverage(angle: float, df: int) -> float:
    """``P(|T| ≤ √df · tan(angle))`` for a whole number of degrees of freedom."""
    sine, cosine = math.sin(angle), math.cos(angle)
    if df == 1:
        return 2 * angle / math.pi
    term = total = cosine if df % 2 else 1.0
    for power in range(3 if df % 2 else 2, df - 1, 2):
        term *= cosine * cosine * (power - 1) / power
        total += term
    return 2 / math.pi * (angle + sine * total) if df % 2 else sine * total
