"""From values and their resamples to measurements: the one place where intervals are attached."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from saebench.metrics.definitions import definition
from saebench.record import Measurement
from saebench.stats import Interval, bootstrap_weights, interval

Values = dict[str, Tensor]

# Resamples computed together: bounds the [resamples, d] temporaries at a few tens of megabytes.
RESAMPLE_ROWS = 256
NO_TOKENS = "no token was counted"
ONE_GROUP = "an interval needs at least two sequences"


def bootstrap(
    values: Callable[[Tensor | None], Values],
    n_groups: int,
    n_resamples: int,
    seed: int,
    unit: str = "sequences",
) -> tuple[dict[str, float], dict[str, Interval]]:
    """Point estimates and percentile intervals of everything ``values(weights[R, G])`` computes."""
    points = {name: float(value[0]) for name, value in values(None).items()}
    if n_groups < 2:
        return points, dict.fromkeys(points, Interval(None, None, reason=ONE_GROUP))
    weights = torch.from_numpy(bootstrap_weights(n_groups, n_resamples, seed))
    parts = [values(rows) for rows in weights.split(RESAMPLE_ROWS)]
    samples = {name: torch.cat([part[name] for part in parts]) for name in points}
    return points, {name: interval(sample.numpy(), unit=unit) for name, sample in samples.items()}


def estimate(
    name: str,
    value: float | None,
    bounds: Interval | None = None,
    *,
    n_tokens: int,
    n_sequences: int,
    reason: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> Measurement:
    """A measurement of the definition ``name``; ``reason`` says why where there is no value.

    A value that is not a number, or that comes from no tokens, is no value. ``bounds`` is None for
    what has no interval by definition.
    """
    if n_tokens == 0:
        value, reason = None, NO_TOKENS
    if value is None or not math.isfinite(value):
        value, bounds, reason = None, None, reason or "undefined on these tokens"
    elif bounds is not None and bounds.reason:
        reason = f"no interval: {bounds.reason}"
    return Measurement(
        metric=definition(name).metric,
        value=value,
        low=bounds.low if bounds else None,
        high=bounds.high if bounds else None,
        n_tokens=n_tokens,
        n_sequences=n_sequences,
        interval=bounds.how if bounds else "",
        reason=reason if value is None or (bounds and bounds.reason) else None,
        detail=dict(detail or {}),
    )


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """``numerator / denominator``, not a number where the denominator is not positive."""
    return torch.where(denominator > 0, numerator / denominator, torch.nan)
