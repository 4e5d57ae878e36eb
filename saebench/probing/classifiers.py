"""Linear classifiers on pooled features: fitted on training texts, scored on test texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from saebench.errors import DataError
from saebench.probing import logistic, one_epoch
from saebench.probing.fitted import Fitted
from saebench.probing.scaling import Matrix
from saebench.probing.scores import accuracy_and_f1
from saebench.protocols import Classifier

Fit = Callable[[Matrix, np.ndarray, Matrix, int], Fitted]
FITS: Mapping[Classifier, Fit] = {"logistic": logistic.fit, "one_epoch": one_epoch.fit}


@dataclass(frozen=True)
class ProbeResult:
    """A fitted probe on the test texts: ``predictions[n_test]`` int64, in the labels of the training.

    ``converged`` is None where nothing is fitted to convergence. ``n_varying`` of ``n_features``
    features differ between training texts; ``coefficient_norm`` is the Frobenius norm of the weights
    in units of the scaled features.
    """

    accuracy: float
    macro_f1: float
    predictions: np.ndarray
    converged: bool | None
    n_iterations: int
    n_features: int
    n_varying: int
    coefficient_norm: float


def fit_and_score(
    train_X: Matrix,
    train_y: np.ndarray,
    test_X: Matrix,
    test_y: np.ndarray,
    classifier: Classifier,
    seed: int,
) -> ProbeResult:
    """Fit on ``train_X[n_train, d]`` and predict ``test_X[n_test, d]``, dense or in compressed rows.

    ``logistic`` is :func:`saebench.probing.logistic.fit`, ``one_epoch`` the published protocol of
    :func:`saebench.probing.one_epoch.fit`, which draws its start and its order by ``seed``. Raises
    :class:`DataError` where all training labels are the same.
    """
    classes, targets = np.unique(np.asarray(train_y), return_inverse=True)
    if len(classes) < 2:
        raise DataError(
            "a classifier of two classes or more",
            f"all {len(targets)} training labels are {classes[0] if len(classes) else 'missing'}",
            "Check the label column, or raise max_train.",
        )
    fitted = FITS[classifier](train_X, targets, test_X, seed)
    predictions = classes[fitted.predictions].astype(np.int64)
    accuracy, macro_f1 = accuracy_and_f1(test_y, predictions)
    return ProbeResult(
        accuracy,
        macro_f1,
        predictions,
        fitted.converged,
        fitted.n_iterations,
        train_X.shape[1],
        fitted.n_varying,
        fitted.coefficient_norm,
    )
