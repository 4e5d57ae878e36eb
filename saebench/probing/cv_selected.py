"""Probes on few latents: k-sparse ones, chosen on the training rows of each fold, and the L1 path."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from saebench.probing.cv_design import Design, scaled
from saebench.probing.cv_fit import CELLS, constant, decide
from saebench.probing.cv_folds import Folds, Split
from saebench.probing.cv_null import Null, shuffled_scores
from saebench.probing.cv_scores import Resampled, Scores, balanced_accuracy, ordered_pairs
from saebench.probing.scaling import Matrix

WEAKEST, STRONGEST = 1.1, 1000.0  # times the smallest C at which a latent gets a weight
INTERCEPT = 100.0  # liblinear penalises the intercept too, by its size over this
PATH_ITERATIONS, PATH_TOLERANCE = 1000, 1e-4


def mean_differences(features: Matrix, labels: np.ndarray) -> np.ndarray:
    """The mean of the positive rows less that of the others, ``[B, d]``, for ``labels[B, n]`` bool."""
    n_positive = labels.sum(axis=1, keepdims=True)
    weights = np.where(labels, 1 / n_positive, -1 / (labels.shape[1] - n_positive))
    if sparse.issparse(features):
        return (features.astype(np.float64).T @ weights.T).T
    return weights @ np.asarray(features, dtype=np.float64)


def ranked(features: Matrix, labels: np.ndarray, k: int) -> np.ndarray:
    """The ``k`` columns whose means differ most between the classes, largest first; none that are alike.

    ``features[n_train, d]`` as they are, ``labels[n_train]`` bool. Of equal differences the first column
    comes first. Source: sparse probing of SAEBench (arXiv 2503.09532).
    """
    found = np.abs(mean_differences(features, labels[None])[0])
    order = np.argsort(-found, kind="stable")[:k]
    return order[found[order] > 0]


def sparse_probes(
    features: Matrix, folds: Folds, ks: Sequence[int], c: float, resampled: Resampled
) -> dict[int, Scores]:
    """The scores of probes on the best ``k`` of ``features[n, d]``, for each of ``ks``.

    Columns are ranked on the training rows of each fold, and standardised there.
    """
    decisions = {k: np.empty(folds.of_text.shape) for k in ks}
    for repeat in range(folds.n_repeats):
        for train, test in folds.splits(repeat):
            labels = folds.labels[train]
            rows = features[train]
            best = ranked(rows, labels, max(ks))
            design = scaled(_dense(features[:, best]), train, test)
            for k in ks:
                few = Design(design.train[:, :k], design.test[:, :k], min(k, design.n_varying))
                decisions[k][repeat, test] = decide(few, labels, c)
    return {k: resampled.scores(found) for k, found in decisions.items()}


def single_null(features: Matrix, folds: Folds, n_permutations: int) -> Null:
    """The null of the probe on the one best column, chosen again for every shuffle.

    The best column's log-odds rise with it where the positive mean is larger, so that pairs are in order
    without a fit; balanced accuracy is that of a threshold half way between the means.
    """

    size = max(1, CELLS // features.shape[1])

    def chosen(split: Split, labels: np.ndarray) -> np.ndarray:
        rows = features[split[0]]
        parts = [labels[start : start + size] for start in range(0, len(labels), size)]
        return np.concatenate([_single(features, rows, split, part) for part in parts])

    return shuffled_scores(folds, n_permutations, chosen)


def _single(features: Matrix, rows: Matrix, split: Split, labels: np.ndarray) -> np.ndarray:
    """How far the test rows of a split are above the threshold of each labelling's best column, ``[B, n]``.

    ``rows`` are the training rows of ``features``.
    """
    train, test = split
    differences = mean_differences(rows, labels[:, train])
    best = np.abs(differences).argmax(axis=1)
    columns, place = np.unique(best, return_inverse=True)
    values = _dense(features[:, columns])
    half = _half_way(values[train], labels[:, train], place)
    sign = np.sign(differences[np.arange(len(best)), best])
    return sign[:, None] * (values[test][:, place].T - half[:, None])


def _half_way(values: np.ndarray, labels: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Half way between the means of both classes in column ``place[B]`` of ``values[n, columns]``."""
    own = values[:, place].T
    means = [(own * side).sum(axis=1) / side.sum(axis=1) for side in (labels, ~labels)]
    return (means[0] + means[1]) / 2


def smallest_c(rows: Matrix, labels: np.ndarray) -> float:
    """The C up to which an L1 penalty gives no column of ``rows[n, d]`` a weight, the intercept free.

    That is one over the largest ``|Σ x (y − ȳ)|``: the slope of the summed loss where all weights are 0.
    """
    n, positive = len(labels), int(labels.sum())
    slopes = mean_differences(rows, labels[None])[0] * (positive * (n - positive) / n)
    return 1 / max(float(np.abs(slopes).max()), 1e-12)


@dataclass(frozen=True)
class PathPoint:
    """One strength of the L1 penalty: C over the smallest that gives a latent a weight, and what it gives.

    ``n_latents`` is the mean over folds of how many have a weight.
    """

    strength: float
    n_latents: float
    balanced_accuracy: float
    auroc: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dict(vars(self))


def l1_path(features: Matrix, folds: Folds, n_path: int) -> list[PathPoint]:
    """Probes with an L1 penalty, from one that allows hardly any latent on; on the first repeat's folds.

    Strengths are multiples of the smallest C at which the training rows of a fold give any latent a
    weight, evenly spaced in logarithms from 1.1 to 1,000. By liblinear; the intercept is nearly free.
    """
    strengths = np.geomspace(WEAKEST, STRONGEST, n_path)
    labels = folds.labels
    decisions = np.empty((n_path, folds.n_texts))
    counts = np.zeros((n_path, folds.n_folds))
    for fold, (train, test) in enumerate(folds.splits(0)):
        design = scaled(features, train, test)
        for place, (given, n_latents) in enumerate(_path(design, labels[train], strengths)):
            decisions[place, test], counts[place, fold] = given, n_latents
    given = np.repeat(labels[None], n_path, axis=0)
    ordered, pairs = np.zeros(n_path), np.zeros(n_path)
    for _, test in folds.splits(0):
        above, there = ordered_pairs(given[:, test], decisions[:, test])
        ordered, pairs = ordered + above, pairs + there
    found = zip(
        strengths.tolist(),
        counts.mean(axis=1).tolist(),
        balanced_accuracy(given, decisions).tolist(),
        (ordered / pairs).tolist(),
        strict=True,
    )
    return [PathPoint(*point) for point in found]


def _path(
    design: Design, labels: np.ndarray, strengths: np.ndarray
) -> Iterator[tuple[np.ndarray, int]]:
    """Log-odds of the test rows, and how many columns have a weight, at each strength."""
    if not design.n_varying:
        for _ in strengths:
            yield constant(design.test.shape[0], labels[None])[0], 0
        return
    smallest = smallest_c(design.train, labels)
    for strength in strengths.tolist():
        model = LogisticRegression(
            C=smallest * strength,
            solver="liblinear",
            intercept_scaling=INTERCEPT,
            tol=PATH_TOLERANCE,
            max_iter=PATH_ITERATIONS,
            random_state=0,
            **_L1,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(design.train, labels)
        yield model.decision_function(design.test), int(np.count_nonzero(model.coef_))


def _l1_option() -> dict[str, Any]:
    """How this scikit-learn is asked for an L1 penalty: 1.8 has replaced the name by a ratio."""
    usual = LogisticRegression().get_params().get("penalty")
    return {"penalty": "l1"} if usual == "l2" else {"l1_ratio": 1.0}


_L1 = _l1_option()


def _dense(columns: Matrix) -> np.ndarray:
    return np.asarray(columns.toarray() if sparse.issparse(columns) else columns)
