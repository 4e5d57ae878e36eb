"""Logistic regression with an L2 penalty on scaled features, fitted until its gradient vanishes."""

from __future__ import annotations

import warnings

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from saebench.probing.fitted import Fitted
from saebench.probing.scaling import Matrix, scaled_sparse, standardised

MAX_ITERATIONS = 2000
# of the mean loss, the largest component of its gradient: at 1e-4 some predictions are not settled yet
TOLERANCE = 1e-6


def fit(train: Matrix, targets: np.ndarray, test: Matrix, seed: int) -> Fitted:
    """Fit ``train[n_train, d]`` to class numbers ``targets[n_train]``, and predict ``test[n_test, d]``.

    It has converged where no component of the gradient of the mean penalised loss exceeds ``TOLERANCE``.
    C = 1; multinomial from three classes on. The loss is convex, so ``seed`` does not matter. The solver
    is the one that is fast on such a matrix, newton-cg for compressed rows and lbfgs for dense ones.
    """
    if sparse.issparse(train):
        fitted, other, n_varying = scaled_sparse(train, test)
    else:
        fitted, other, n_varying = standardised(train, test)
    solver = "newton-cg" if sparse.issparse(train) else "lbfgs"
    if not n_varying:  # nothing to learn from but the shares of the classes
        fitted, other = (np.zeros((rows.shape[0], 1)) for rows in (fitted, other))
    model = LogisticRegression(C=1.0, solver=solver, tol=TOLERANCE, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(fitted, targets)
    return Fitted(
        model.predict(other),
        not any(map(_says_unfinished, caught)),
        int(np.max(model.n_iter_)),
        n_varying,
        float(np.linalg.norm(model.coef_)),
    )


def _says_unfinished(item: warnings.WarningMessage) -> bool:
    return (
        issubclass(item.category, ConvergenceWarning) or "line search" in str(item.message).lower()
    )
