"""How FVE grows with k: gains per doubling, whether they level off, and points that stand out.

Between neighbouring ``k₁ < k₂`` of one sweep the gain is ``(FVE₂ − FVE₁)/log₂(k₂/k₁)``. An *elbow* at k is a
gain after k of less than half the gain before, with an interval that excludes half. A gain that exceeds
both its neighbours by more than the interval *stands out*, and no elbow is read off it. Intervals are over
the text that is measured on. There is one training run per k, and runs differ as well: a gain may stand out
for that alone, or for another training budget where budgets are not known to be equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from saebench.stats import N_RESAMPLES, Floats, Interval, bootstrap_weights, interval


@dataclass(frozen=True)
class Point:
    """A checkpoint of a sweep: its ``k``, and the squared error ``sse[G]`` in each group of sequences."""

    name: str
    k: float
    sse: Floats


@dataclass(frozen=True)
class Step:
    """The gain per doubling from ``before`` to ``after``; ``stands_out`` is above both neighbours'."""

    before: Point
    after: Point
    gain: float
    bounds: Interval
    stands_out: bool = False


@dataclass(frozen=True)
class Sweep:
    """Points by rising k, the FVE of each, the steps between them, and the k of every elbow."""

    points: tuple[Point, ...]
    fve: tuple[float, ...]
    steps: tuple[Step, ...]
    elbows: tuple[float, ...]


def sweep(
    points: Sequence[Point], total: Floats, *, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> Sweep:
    """The sweep of points with different k; ``total[G]`` is ``Σ‖δ − δ̄‖²`` in each group, the same for all.

    Groups are resampled together for all points. The mean δ̄ stays that of all tokens.
    """
    ordered = tuple(sorted(points, key=lambda point: point.k))
    rows = np.ones((1, total.shape[0]))
    if total.shape[0] > 1:
        rows = np.concatenate([rows, bootstrap_weights(total.shape[0], n_resamples, seed)])
    fve = np.stack(
        [1 - (rows @ point.sse) / (rows @ total) for point in ordered]
    )  # [points, 1 + R]
    doublings = np.array([np.log2(b.k / a.k) for a, b in pairwise(ordered)])
    gains = np.diff(fve, axis=0) / doublings[:, None]
    outstanding = [
        _below(gains[i - 1] - gains[i]) and _below(gains[i + 1] - gains[i])
        if 0 < i < len(gains) - 1
        else False
        for i in range(len(gains))
    ]
    steps = tuple(
        Step(a, b, float(gain[0]), _interval(gain), out)
        for (a, b), gain, out in zip(pairwise(ordered), gains, outstanding, strict=True)
    )
    elbows = tuple(
        ordered[i].k
        for i in range(1, len(gains))
        if gains[i - 1][0] > 0 and not outstanding[i - 1] and _below(gains[i] - gains[i - 1] / 2)
    )
    return Sweep(ordered, tuple(float(value) for value in fve[:, 0]), steps, elbows)


def _below(samples: Floats) -> bool:
    """Whether a quantity ``[1 + R]`` is below 0, and its interval as well."""
    bounds = _interval(samples)
    return bool(samples[0] < 0 and bounds.high is not None and bounds.high < 0)


def _interval(samples: Floats) -> Interval:
    if samples.shape[0] == 1:
        return Interval(None, None, reason="an interval needs at least two sequences")
    return interval(samples[1:])
