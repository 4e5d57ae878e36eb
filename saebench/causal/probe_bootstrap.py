"""Intervals of each latent's correlation by resampling its probes, many latents at once.

A probe is one sequence, so that probes are the independent units. Latents with equally many probes share
the resamples; sums over a resample are products with the matrix of how often each probe was drawn.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from saebench.causal.correlations import Bools, Floats, centred
from saebench.stats import LEVEL, bootstrap_weights

CHUNK = 2**23  # values of one temporary
EXACT_RANKS = 256  # up to so many probes sums of products of ranks are exact in float32

Rows = tuple[Floats, ...]  # each [l, n], without gaps
Bounds = tuple[Floats, Floats]


def pearson_bounds(
    a: Floats, b: Floats, there: Bools, *, n_resamples: int, seed: int, level: float = LEVEL
) -> Bounds:
    """``(low[L], high[L])`` of Pearson's r of each row; not a number where a resample does not vary."""
    return _bounds(_pearson, (a, b), there, n_resamples, seed, level)


def partial_bounds(
    a: Floats,
    b: Floats,
    covariate: Floats,
    there: Bools,
    *,
    n_resamples: int,
    seed: int,
    level: float = LEVEL,
) -> Bounds:
    """``(low[L], high[L])`` of the partial correlation given one covariate, fitted in each resample."""
    return _bounds(_partial, (a, b, covariate), there, n_resamples, seed, level)


def spearman_bounds(
    a: Floats, b: Floats, there: Bools, *, n_resamples: int, seed: int, level: float = LEVEL
) -> Bounds:
    """``(low[L], high[L])`` of Spearman's ρ of each row; each resample is ranked anew."""
    return _bounds(_spearman, (a, b), there, n_resamples, seed, level, scaled=False)


def mean_bounds(
    x: Floats, there: Bools, *, n_resamples: int, seed: int, level: float = LEVEL
) -> Bounds:
    """``(low[L], high[L])`` of the mean of each row ``x[L, P]`` over its probes."""
    return _bounds(_mean, (x,), there, n_resamples, seed, level, scaled=False)


def _bounds(
    correlate: Callable[[Rows, Floats], Floats],
    sides: Rows,
    there: Bools,
    n_resamples: int,
    seed: int,
    level: float,
    *,
    scaled: bool = True,
) -> Bounds:
    """Quantiles of ``correlate(rows, weights[R, n]) -> [l, R]`` over latents of equal ``n``.

    The rows are centred and ``scaled`` first where the statistic does not see it, which keeps digits;
    not for ranks, since what differs may be equal then.
    """
    found = np.full((2, there.shape[0]), np.nan)
    n_probes = there.sum(-1)
    first = np.argsort(~there, axis=-1, kind="stable")  # what is there, before the gaps
    packed = (np.take_along_axis(side, first, axis=-1) for side in sides)
    filled = np.take_along_axis(there, first, axis=-1)
    rows = tuple(centred(side, filled) if scaled else side for side in packed)
    tails = [(1 - level) / 2, (1 + level) / 2]
    for n in np.unique(n_probes[n_probes >= 2]):
        latents = np.flatnonzero(n_probes == n)
        weights = bootstrap_weights(int(n), n_resamples, seed)
        room = n if correlate is _spearman else 1
        size = max(1, CHUNK // int(n_resamples * room))
        for start in range(0, len(latents), size):
            some = latents[start : start + size]
            with np.errstate(invalid="ignore", divide="ignore"):
                samples = correlate(tuple(row[some, :n] for row in rows), weights)
            found[:, some] = np.quantile(samples, tails, axis=-1)
    return found[0], found[1]


def _mean(rows: Rows, weights: Floats) -> Floats:
    return rows[0] @ weights.T / rows[0].shape[-1]


def _pearson(rows: Rows, weights: Floats) -> Floats:
    return _weighted(rows[0], rows[1], weights)


def _partial(rows: Rows, weights: Floats) -> Floats:
    a, b, covariate = rows
    ab, ac, bc = (_weighted(x, y, weights) for x, y in ((a, b), (a, covariate), (b, covariate)))
    # a covariate that does not vary has nothing to take out
    ac, bc = np.nan_to_num(ac), np.nan_to_num(bc)
    return np.clip((ab - ac * bc) / np.sqrt((1 - ac**2) * (1 - bc**2)), -1, 1)


def _weighted(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Pearson's r of ``x[l, n]`` and ``y[l, n]`` in each resample, ``[l, R]``."""
    n = x.shape[-1]
    mean_x, mean_y = (side @ weights.T / n for side in (x, y))
    top = (x * y) @ weights.T / n - mean_x * mean_y
    var_x, var_y = (
        (side * side) @ weights.T / n - mean * mean for side, mean in ((x, mean_x), (y, mean_y))
    )
    spread = np.sqrt(np.maximum(var_x, 0) * np.maximum(var_y, 0))
    return np.clip(np.where(spread > 0, top / spread, np.nan), -1, 1)


def _spearman(rows: Rows, weights: Floats) -> Floats:
    """Spearman's ρ in each resample, ``[l, R]``.

    The rank of probe i less a half is ``Σ_j w_j ([x_j < x_i] + ½ [x_j = x_i])``, with ties and with probes
    that were drawn several times; ranks have mean n/2 in every resample.
    """
    n = rows[0].shape[-1]
    if n <= EXACT_RANKS:
        weights = weights.astype(np.float32)
    # [l, R, n], quarters of whole numbers
    a, b = (
        weights @ _below(row).astype(weights.dtype).transpose(0, 2, 1) - weights.dtype.type(n / 2)
        for row in rows
    )
    top = (weights * a * b).sum(-1)
    spread = np.sqrt((weights * a * a).sum(-1) * (weights * b * b).sum(-1))
    return np.clip(np.where(spread > 0, top / spread, np.nan), -1, 1)


def _below(x: Floats) -> Floats:
    """``[l, n, n]``: 1 where the second probe is below the first, ½ where they tie."""
    return (x[:, None, :] < x[:, :, None]) + 0.5 * (x[:, None, :] == x[:, :, None])
