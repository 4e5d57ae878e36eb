"""One column, chosen elsewhere: how well it tells the classes of other texts apart, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from saebench.concepts.columns import Columns
from saebench.concepts.exchange import Exchange
from saebench.concepts.separation import ROUNDING, hedges, separate, standard_error
from saebench.stats import N_RESAMPLES, Interval, interval

ONE_UNIT = "a class has texts of one document only"


@dataclass(frozen=True)
class Chosen:
    """d, g and AUROC of one column on n1 + n0 texts, in the direction it was chosen for.

    A column that lies lower in the positive class where it was chosen has ``sign`` −1; d above 0 and AUROC
    above ½ mean that it does so here too. ``samples[R]`` are d in each resample.
    """

    d: float
    g: float
    auroc: float
    error: float
    sign: int
    n1: int
    n0: int
    intervals: Mapping[str, Interval]
    samples: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; an infinite d is None."""
        values = {"d": self.d, "g": self.g, "auroc": self.auroc}
        found: dict[str, Any] = {"sign": self.sign, "n1": self.n1, "n0": self.n0}
        for name, value in values.items():
            bounds = self.intervals[name]
            found[name] = value if np.isfinite(value) else None
            found[f"{name}_low"], found[f"{name}_high"] = bounds.low, bounds.high
        found["standard_error"] = self.error if np.isfinite(self.error) else None
        return found


def judged(
    values: np.ndarray,
    exchange: Exchange,
    labels: np.ndarray,
    *,
    sign: int = 1,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Chosen:
    """One column's ``values[n]`` on texts with ``labels[n]`` (bool), times ``sign``.

    Intervals are percentiles over resampled documents or texts, see :meth:`Exchange.resamples`.
    """
    values = sign * np.asarray(values, dtype=np.float64)
    columns = Columns.of(values[:, None])
    found = separate(columns, columns.ranks(), labels)
    d, n1, n0 = float(found.d[0]), found.n1, found.n0
    parts = [_resampled(values, labels, w) for w in exchange.resamples(n_resamples, seed)]
    d_samples, g_samples, auroc = (np.concatenate(part) for part in zip(*parts, strict=True))
    samples = {"d": d_samples, "g": g_samples, "auroc": auroc}
    unit = f"{exchange.n_resampled:,} {exchange.resampled_unit}"
    unit += "" if exchange.kind == "texts within documents" else " within classes"
    if exchange.kind != "texts within documents" and min(np.bincount(exchange.labels)) < 2:
        bounds = dict.fromkeys(samples, Interval(None, None, reason=ONE_UNIT))
    else:
        bounds = {name: interval(sample, unit=unit) for name, sample in samples.items()}
    error = standard_error(d, n1, n0)
    g = hedges(d, n1, n0)
    return Chosen(d, g, float(found.auroc[0]), error, sign, n1, n0, bounds, d_samples)


def behaviour_minus_control(behaviour: Chosen, control: Chosen) -> tuple[float, Interval]:
    """d on the behaviour, in the direction chosen for it, less |d| on controls; and its interval.

    The texts are different ones and are resampled apart. In resamples the sign of d on controls is that of
    the estimate: |d| of a resample would lie above it where d is near 0.
    """
    sign = -1 if control.d < 0 else 1
    bounds = behaviour.intervals["d"], control.intervals["d"]
    value = behaviour.d - sign * control.d
    for one in bounds:
        if one.reason:
            return value, one
    samples = behaviour.samples - sign * control.samples
    return value, interval(samples, unit="texts of both, each within classes and apart")


def _resampled(
    values: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """d, g and AUROC ``[r]`` of texts that count ``weights[r, n]`` times."""
    centred = values - values.mean()
    w1, w0 = weights * labels, weights * ~labels
    n1, n0 = w1.sum(1), w0.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean1, mean0 = w1 @ centred / n1, w0 @ centred / n0
        square = weights @ centred**2
        within = square - n1 * mean1**2 - n0 * mean0**2
        within[within <= ROUNDING * square] = 0
        gap = mean1 - mean0
        gap[np.abs(gap) <= ROUNDING * np.abs(values).max(initial=0)] = 0
        d = np.where(gap == 0, 0.0, gap / np.sqrt(within / (n1 + n0 - 2)))
        g = d * (1 - 3 / (4 * (n1 + n0 - 2) - 1))
        return d, g, _weighted_auroc(values, w1, w0) / (n1 * n0)


def _weighted_auroc(values: np.ndarray, w1: np.ndarray, w0: np.ndarray) -> np.ndarray:
    """The Mann-Whitney count ``[r]``: pairs in which the positive text is higher, ties as half."""
    _, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    at1, at0 = (np.add.reduceat(w[:, order], starts, axis=1) for w in (w1, w0))
    below = at0.cumsum(1) - at0
    return (at1 * (below + at0 / 2)).sum(1)
