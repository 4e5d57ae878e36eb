"""Rows to separate: sparse ones with ties, negative values and silent columns; naive statistics of them."""

from __future__ import annotations

import numpy as np
from scipy import sparse


def labels_of(n: int, n1: int, seed: int = 0) -> np.ndarray:
    """``n1`` positive ones of ``n``, in random order."""
    return np.random.default_rng(seed).permutation(np.arange(n) < n1)


def sparse_rows(n: int, m: int, density: float = 0.15, seed: int = 0) -> np.ndarray:
    """Rows ``[n, m]`` float32: few values, many of them equal, some negative; column 0 is silent."""
    rng = np.random.default_rng(seed)
    fires = rng.random((n, m)) < density * rng.uniform(0.2, 2, m)
    values = np.round(rng.normal(1, 1, (n, m)), 1)
    x = np.where(fires, values, 0).astype(np.float32)
    x[:, 0] = 0
    return x


def both_kinds(x: np.ndarray) -> list[np.ndarray | sparse.csr_array]:
    """The same rows dense and sparse."""
    return [x, sparse.csr_array(x)]


def naive_d(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cohen's d by a loop over columns."""
    found = []
    for column in x.T.astype(np.float64):
        a, b = column[labels], column[~labels]
        pooled = ((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(column) - 2)
        gap = a.mean() - b.mean()
        found.append(0.0 if np.ptp(column) == 0 else gap / np.sqrt(pooled))
    return np.array(found)
