"""How many columns of a list can be called different: at a share of false ones, or at a chance of any."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from saebench.concepts.null import Nulls

RATE = 0.05  # of false discoveries
LEVEL = 0.05  # of p corrected for the maximum


@dataclass(frozen=True)
class Discoveries:
    """How many columns differ between the classes: ``n`` at a false discovery ``rate``.

    ``n`` is None where permutations are too few to say: some columns have the smallest p there can be, and
    that is too large for so many columns. ``n_needed`` permutations would do; None where the texts have no
    more arrangements. ``n_corrected`` counts p corrected for the maximum at ``level`` or below.
    """

    rate: float
    n: int | None
    n_needed: int | None
    level: float
    n_corrected: int

    @classmethod
    def of(
        cls, nulls: Nulls, d: np.ndarray, rate: float = RATE, level: float = LEVEL
    ) -> Discoveries:
        """Those among the columns of ``nulls``, whose d are ``d[m]``; infinite ones have no corrected p."""
        corrected = nulls.d_max.p_of(np.abs(d[np.isfinite(d)]))
        n_corrected = int((corrected <= level).sum())
        n = benjamini_hochberg(nulls.p, rate)
        floor = nulls.smallest_p * (1 + 1e-9)
        limited = n == 0 and len(d) > 0 and floor > rate / len(d) and nulls.p.min() <= floor
        if not limited:
            return cls(rate, n, None, level, n_corrected)
        return cls(
            rate, None, None if nulls.exact else math.ceil(len(d) / rate), level, n_corrected
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def benjamini_hochberg(p: np.ndarray, rate: float = RATE) -> int:
    """The number of ``p[m]`` that the step-up procedure rejects at the false discovery ``rate``.

    Source: Benjamini and Hochberg 1995.
    """
    ordered = np.sort(np.asarray(p, dtype=np.float64))
    limits = rate * np.arange(1, len(ordered) + 1) / max(len(ordered), 1)
    below = np.flatnonzero(ordered <= limits)
    return int(below[-1]) + 1 if len(below) else 0
