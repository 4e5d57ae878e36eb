"""Features of one fold, made for fitting: scaled on its training rows, and turned where that is cheaper.

Nothing here sees a label, so that one design serves all shuffles of the labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg, sparse

from saebench.probing.scaling import Matrix, scaled_sparse, standardised

WIDEST_EIGEN = 1500  # training rows up to which an eigendecomposition takes less than a second
RANK = 1e-12  # of the largest eigenvalue: what is below is rounding


@dataclass(frozen=True)
class Design:
    """The rows of one fold, ``train[n_train, r]`` and ``test[n_test, r]`` float64, and what varies there.

    Of the features ``n_varying`` are not constant on the training rows.
    """

    train: Matrix
    test: Matrix
    n_varying: int


def scaled(features: Matrix, train: np.ndarray, test: np.ndarray) -> Design:
    """The rows ``train`` and ``test`` of ``features[n, d]``, scaled by what the training rows show.

    Dense features are standardised, sparse ones divided by their largest value (see
    :mod:`saebench.probing.scaling`).
    """
    if not sparse.issparse(features):
        return Design(*standardised(features[train], features[test]))
    rows, other, n_varying = scaled_sparse(features[train], features[test])
    return Design(_narrow(rows), _narrow(other), n_varying)


def turned(design: Design) -> Design:
    """The same rows in at most ``n_train`` coordinates, turned onto their principal axes.

    With an L2 penalty the best weights lie in the span of the training rows, so that a fit to the
    coordinates there is the fit to all features, exactly: the representer theorem. Where there are more
    training rows than features the axes are those of the features. Beyond ``WIDEST_EIGEN`` rows the
    coordinates come from a pivoted Cholesky factor, and are not principal axes; as many features stay.
    """
    n, d = design.train.shape
    if not n or not design.n_varying:
        train, test = (np.zeros((rows.shape[0], 0)) for rows in (design.train, design.test))
        return Design(train, test, 0)
    if d <= n:
        narrow = d <= WIDEST_EIGEN
        return _along_features(design) if narrow else design
    gram, across = (_dense(rows @ design.train.T) for rows in (design.train, design.test))
    return Design(*_factored(gram, across), design.n_varying)


def _along_features(design: Design) -> Design:
    train, test = _dense(design.train), _dense(design.test)
    _, axes = linalg.eigh(train.T @ train)
    return Design(train @ axes, test @ axes, design.n_varying)


def _factored(gram: np.ndarray, across: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates ``[n, r]`` and ``[n_test, r]`` with the products ``gram`` and ``across``."""
    if len(gram) <= WIDEST_EIGEN:
        values, axes = linalg.eigh(gram)
        kept = values > RANK * values[-1]
        lengths = np.sqrt(values[kept])
        return axes[:, kept] * lengths, across @ (axes[:, kept] / lengths)
    # lower: P'KP = LL'; rows and columns of what follows the rank are rounding
    packed, order, rank, _ = linalg.lapack.dpstrf(gram, lower=1, tol=RANK * gram.diagonal().max())
    factor = np.tril(packed)[:, :rank]
    coordinates = np.empty_like(factor)
    coordinates[order - 1] = factor
    pivots = across[:, order[:rank] - 1]
    others = linalg.solve_triangular(factor[:rank], pivots.T, lower=True).T
    return coordinates, others


def _dense(rows: Matrix) -> np.ndarray:
    return np.asarray(rows.toarray() if sparse.issparse(rows) else rows, dtype=np.float64)


def _narrow(rows: sparse.csr_array) -> sparse.csr_array:
    """The same rows with int32 indices, which liblinear asks for."""
    if rows.nnz <= np.iinfo(np.int32).max:
        rows.indices, rows.indptr = rows.indices.astype(np.int32), rows.indptr.astype(np.int32)
    return rows
