"""What one reconstruction leaves of each subset: FVE about its own and the global mean, L0, TSS share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saebench.metrics.definitions import definition
from saebench.metrics.difference.subsets import ALL, Subset
from saebench.metrics.difference.sums import Groups, Spread
from saebench.metrics.estimates import ONE_GROUP
from saebench.record import Measurement
from saebench.stats import Floats, Interval, interval

FIGURES = ("fve", "fve_global", "tss_share", "l0")
ALIKE = "these tokens have the same difference, so there is no variance to explain"


@dataclass(frozen=True)
class Figure:
    """A value with its interval, or the reason why there is none."""

    value: float | None
    bounds: Interval
    reason: str = ""

    @classmethod
    def of(cls, samples: Floats, reason: str = ALIKE, unit: str = "sequences") -> Figure:
        """From ``[1 + resamples]``, the estimate first; ``reason`` is why it may not be a number."""
        value = float(samples[0])
        if not np.isfinite(value):
            return cls(None, Interval(None, None), reason)
        if samples.shape[0] == 1:
            return cls(value, Interval(None, None, reason=ONE_GROUP))
        return cls(value, interval(samples[1:], unit=unit))

    def to_json(self) -> dict[str, Any]:
        """Value, interval and reason as plain JSON values."""
        bounds = [self.bounds.low, self.bounds.high]
        found: dict[str, Any] = {"value": self.value}
        if None not in bounds:
            found["interval"] = bounds
        why = self.reason or (self.bounds.reason and f"no interval: {self.bounds.reason}")
        return {**found, "reason": why} if why else found

    def measured(self, name: str, n_tokens: int, n_sequences: int, **detail: Any) -> Measurement:
        """As a measurement of the definition ``name``."""
        has = self.value is not None
        why = self.reason or (f"no interval: {self.bounds.reason}" if self.bounds.reason else None)
        return Measurement(
            definition(name).metric,
            self.value,
            self.bounds.low if has else None,
            self.bounds.high if has else None,
            n_tokens=n_tokens,
            n_sequences=n_sequences,
            interval=self.bounds.how if has else "",
            reason=why,
            detail=detail,
        )


@dataclass(frozen=True)
class Arm:
    """What a reconstruction does to each token: squared error and active latents, float64 ``[n]``.

    ``l0`` is None where it is no count of latents.
    """

    sse: Floats
    l0: Floats | None = None


def figures(
    arm: Arm,
    chosen: Sequence[Subset],
    groups: Groups,
    spreads: Mapping[str, Spread],
    weights: Floats,
) -> dict[str, dict[str, Figure]]:
    """The :data:`FIGURES` of each subset; resamples are the same for all, so that they pair."""
    rows = np.concatenate([np.ones((1, groups.n)), weights])
    total = spreads[ALL].overall
    found = {}
    for one in chosen:
        spread = spreads[one.name]
        why = (one.reason or ALIKE, groups.unit)
        sse = rows @ groups.add(arm.sse, one.keep)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = {
                "fve": Figure.of(1 - sse / spread.own, *why),
                "fve_global": Figure.of(1 - sse / spread.overall, *why),
                "tss_share": Figure.of(_zero_if_empty(spread) / total, *why),
            }
            if arm.l0 is not None:
                values["l0"] = Figure.of(rows @ groups.add(arm.l0, one.keep) / spread.n, *why)
        found[one.name] = values
    return found


def _zero_if_empty(spread: Spread) -> Floats:
    """The variance about the global mean; a resample without a token of a subset has none of it."""
    empty = (spread.n == 0) & (spread.n[0] > 0)
    return np.where(empty, 0.0, spread.overall)


def unmeasured(name: str, reason: str, n_tokens: int = 0) -> Measurement:
    """A metric without a value, and why."""
    return Measurement(definition(name).metric, None, reason=reason, n_tokens=n_tokens)
