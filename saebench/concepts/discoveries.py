"""How many columns of a list can be called different at a given share of false ones."""

from __future__ import annotations

import numpy as np


def benjamini_hochberg(p: np.ndarray, rate: float = 0.05) -> int:
    """The number of ``p[m]`` that the step-up procedure rejects at the false discovery ``rate``.

    Source: Benjamini and Hochberg 1995.
    """
    ordered = np.sort(np.asarray(p, dtype=np.float64))
    limits = rate * np.arange(1, len(ordered) + 1) / max(len(ordered), 1)
    below = np.flatnonzero(ordered <= limits)
    return int(below[-1]) + 1 if len(below) else 0
