"""Completions without a label: whether they depend on the strength, and what they could hide.

A rate is of the completions that were decided. Where which ones are decided depends on the class and on the
strength, the rate of the decided moves with the strength although no class does; permuting the labels that
are there cannot tell. So the trend of being undecided is tested too, and trends are given with every
undecided completion counted as another class and as the positive one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saebench.steering.dose_response import Estimate, slope, spearman
from saebench.steering.permutation import DRAWS

NONE_UNDECIDED = "every completion was decided"
ALL_UNDECIDED = "no completion was decided"


@dataclass(frozen=True)
class Counted:
    """Trend and slope of the label with all undecided completions counted as one of the classes."""

    trend: Estimate
    slope: Estimate

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"trend": self.trend.to_json(), "slope": self.slope.to_json()}


@dataclass(frozen=True)
class Undecided:
    """The ``trend`` of being undecided over α, and the label with undecided ``as_0`` and ``as_1``."""

    trend: Estimate
    as_0: Counted | None = None
    as_1: Counted | None = None

    @classmethod
    def of(
        cls, alphas: Sequence[float], labels: np.ndarray, *, draws: int = DRAWS, seed: int = 0
    ) -> Undecided:
        """From ``labels[n, A]``: 1, 0, or NaN where undecided."""
        gone = np.isnan(labels)
        if not gone.any():
            return cls(Estimate(None, NONE_UNDECIDED))
        if gone.all():
            return cls(Estimate(None, ALL_UNDECIDED))

        def counted(value: float) -> Counted:
            filled = np.where(gone, value, labels)
            return Counted(spearman(alphas, filled, draws=draws, seed=seed), slope(alphas, filled))

        trend = spearman(alphas, gone.astype(np.float64), draws=draws, seed=seed)
        return cls(trend, counted(0.0), counted(1.0))

    def beside(self, statistic: str) -> dict[str, Any]:
        """What goes beside the ``trend`` or the ``slope`` of the label; empty where all were decided."""
        if self.as_0 is None or self.as_1 is None:
            return {}
        return {
            "undecided_trend_p": self.trend.p,
            "if_undecided_0": getattr(self.as_0, statistic).value,
            "if_undecided_1": getattr(self.as_1, statistic).value,
        }

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        found: dict[str, Any] = {"trend": self.trend.to_json()}
        if self.as_0 is not None and self.as_1 is not None:
            found |= {"as_0": self.as_0.to_json(), "as_1": self.as_1.to_json()}
        return found
