"""One column, chosen elsewhere: how well it tells the classes of other texts apart, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from saebench.concepts.columns import Columns
from saebench.concepts.exchange import Exchange
from saebench.concepts.null import one_sided_p
from saebench.concepts.separation import ROUNDING, hedges, separate, standard_error
from saebench.stats import N_RESAMPLES, Interval, interval

N_PERMUTATIONS = 1000
ENOUGH = 10  # documents or texts of a class: percentiles of fewer lie too far from 0
UNDEFINED = 0.05  # share of resamples up to which the others serve
NO_WIDTH = "the same in all resamples, which says nothing of its error"


@dataclass(frozen=True)
class Chosen:
    """d, g and AUROC of one column on n1 + n0 texts, in the direction it was chosen for.

    A column that lies lower in the positive class where it was chosen has ``sign`` −1; d above 0 and AUROC
    above ½ mean that it does so here too. ``p`` is that of a d as high in this direction under permuted
    labels, and ``smallest_p`` the least that it can be. ``error`` is the standard error of d; None where
    documents group texts, for which the formula does not hold. ``unit`` says what was resampled, and
    ``samples[R]`` are d in each resample.
    """

    d: float
    g: float
    auroc: float
    p: float
    smallest_p: float
    error: float | None
    sign: int
    n1: int
    n0: int
    intervals: Mapping[str, Interval]
    unit: str
    samples: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; an infinite d is None. ``d_interval`` says how it was made, or why not."""
        values = {"d": self.d, "g": self.g, "auroc": self.auroc}
        found: dict[str, Any] = {"sign": self.sign, "n1": self.n1, "n0": self.n0}
        for name, value in values.items():
            bounds = self.intervals[name]
            found[name] = value if np.isfinite(value) else None
            found[f"{name}_low"], found[f"{name}_high"] = bounds.low, bounds.high
            found[f"{name}_interval"] = bounds.reason or bounds.how
        error = self.error if self.error is not None and np.isfinite(self.error) else None
        return found | {"p": self.p, "smallest_p": self.smallest_p, "standard_error": error}


def judged(
    values: np.ndarray,
    exchange: Exchange,
    labels: np.ndarray,
    *,
    sign: int = 1,
    n_permutations: int = N_PERMUTATIONS,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Chosen:
    """One column's ``values[n]`` on texts with ``labels[n]`` (bool), times ``sign``.

    Intervals are percentiles over resampled documents or texts, see :meth:`Exchange.resamples`; with few of
    those they reach too little towards 0, so that whether d is above 0 is left to ``p``.
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
    few = _too_few(exchange)
    bounds = {
        name: Interval(None, None, reason=few) if few else _bounds(sample, unit)
        for name, sample in samples.items()
    }
    p, least = one_sided_p(columns, exchange, n_permutations, seed)
    error = standard_error(d, n1, n0) if exchange.kind == "texts" else None
    g, auroc_seen = hedges(d, n1, n0), float(found.auroc[0])
    return Chosen(d, g, auroc_seen, p, least, error, sign, n1, n0, bounds, unit, d_samples)


def behaviour_minus_control(behaviour: Chosen, control: Chosen) -> tuple[float, Interval]:
    """d on the behaviour, in the direction chosen for it, less |d| on controls; and its interval.

    It is biased by −E|d on controls| where nothing separates the controls: about −0.26 with 20 + 20 texts,
    as the size of a d that is 0 but for chance is above 0. The texts are different ones and are resampled
    apart. In resamples the sign of d on controls is that of the estimate: |d| of a resample would lie above
    it where d is near 0.
    """
    sign = -1 if control.d < 0 else 1
    value = behaviour.d - sign * control.d
    for where, one in (("behaviour", behaviour), ("controls", control)):
        if reason := one.intervals["d"].reason:
            return value, Interval(None, None, reason=f"d on {where}: {reason}")
    samples = behaviour.samples - sign * control.samples
    return value, _bounds(samples, f"{behaviour.unit} and {control.unit}, apart")


def _too_few(exchange: Exchange) -> str:
    """Why there is no interval of so few documents or texts; empty where there is one."""
    least = min(exchange.n_resampled_by_class)
    if least >= ENOUGH:
        return ""
    return f"a class has texts of {least} {exchange.resampled_unit}, an interval needs {ENOUGH}".replace(
        "texts of 1 documents", "texts of one document"
    )


def _bounds(samples: np.ndarray, unit: str) -> Interval:
    """The percentile interval of those ``samples[R]`` that are defined, if nearly all are and they differ."""
    defined = samples[np.isfinite(samples)]
    missing = samples.size - defined.size
    if missing >= UNDEFINED * samples.size:
        return interval(samples, unit=unit)  # which has the reason, where any are missing
    found = interval(defined, unit=unit)
    if found.low is not None and found.low == found.high:
        return Interval(None, None, reason=NO_WIDTH)
    how = f"{found.how}; {missing} of {samples.size} more were undefined" if missing else found.how
    return Interval(found.low, found.high, how, found.reason)


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
