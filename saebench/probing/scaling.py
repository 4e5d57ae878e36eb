"""Features on one scale: what is learned on the training rows is applied to both."""

from __future__ import annotations

import numpy as np
from scipy import sparse

Matrix = np.ndarray | sparse.csr_array

# below this share of its size the spread of a float32 feature is rounding
ROUNDING = 16 * float(np.finfo(np.float32).eps)


def standardised(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Dense features ``[n, d]`` in float64 with mean 0 and standard deviation 1 on the training rows.

    Features that are constant there, up to the rounding of float32, become 0 everywhere. Also returns
    how many are not.
    """
    fitted, other = (np.array(rows, dtype=np.float64) for rows in (train, test))
    mean, spread = fitted.mean(0), fitted.std(0)
    varying = spread > ROUNDING * np.abs(fitted).max(0)
    scale = np.where(varying, spread, np.inf)
    for rows in (fitted, other):
        rows -= mean
        rows /= scale
    return fitted, other, int(varying.sum())


def scaled_sparse(
    train: sparse.csr_array, test: sparse.csr_array
) -> tuple[sparse.csr_array, sparse.csr_array, int]:
    """Sparse features in float64, divided by their largest absolute value on the training rows.

    Nothing is subtracted, so zeros stay zeros. Features that are zero on all training rows are left out:
    a penalised fit gives them no weight. Also returns how many are left.
    """
    largest = abs(train).max(axis=0).toarray().ravel()
    active = np.flatnonzero(largest)
    scale = sparse.diags_array(1 / largest[active].astype(np.float64))
    fitted, other = (
        sparse.csr_array(rows[:, active].astype(np.float64) @ scale) for rows in (train, test)
    )
    return fitted, other, len(active)
