"""What any classifier leaves behind once it is fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Fitted:
    """``predictions[n_test]`` as class numbers, and how the fit went.

    ``converged`` is None where nothing is fitted to convergence.
    """

    predictions: np.ndarray
    converged: bool | None
    n_iterations: int
    n_varying: int
    coefficient_norm: float
