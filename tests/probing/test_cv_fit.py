"""Fits of folds: the same as scikit-learn's pipelines, whatever is shared between them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

from saebench.probing import cv_design, cv_fit
from saebench.probing.cv_design import Design, scaled, turned
from saebench.probing.cv_fit import decide, decide_many, stays_sparse, work
from saebench.probing.cv_folds import draw_folds
from saebench.probing.scaling import Matrix

N = 40
LABELS = np.arange(N) % 2 == 0


def dense(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * np.geomspace(1, 0.01, d) + rng.normal(size=d)
    x[:, 0] += 0.5 * (np.arange(n) % 2)
    return x.astype(np.float32)


def few(n: int, d: int, k: int, seed: int = 0) -> sparse.csr_array:
    rng = np.random.default_rng(seed)
    columns = np.concatenate([rng.choice(d, k, replace=False) for _ in range(n)])
    values = rng.exponential(size=n * k).astype(np.float32)
    return sparse.csr_array((values, (np.repeat(np.arange(n), k), columns)), shape=(n, d))


def pipeline(x: Matrix, labels: np.ndarray, fold: np.ndarray, c: float = 1.0) -> np.ndarray:
    scaler = MaxAbsScaler() if sparse.issparse(x) else StandardScaler()
    model = LogisticRegression(C=c, tol=1e-10, max_iter=100_000)
    x = x.astype(np.float64)
    return cross_val_predict(
        make_pipeline(scaler, model),
        x,
        labels,
        cv=PredefinedSplit(fold),
        method="decision_function",
    )


def folds_of(labels: np.ndarray, seed: int = 0):
    return draw_folds(labels, None, n_folds=5, n_repeats=1, seed=seed)


FEATURES = {
    "wide dense": dense(N, 900),
    "narrow dense": dense(N, 7),
    "wide sparse": few(N, 1500, 120),
    "very sparse": few(N, 1500, 3),
    "low rank": dense(N, 4) @ dense(4, 300, 1),
}


@pytest.mark.parametrize("c", [1.0, 0.03])
@pytest.mark.parametrize("name", FEATURES)
def test_log_odds_out_of_fold_are_those_of_a_scikit_learn_pipeline(name, c):
    x, folds = FEATURES[name], folds_of(LABELS)
    expected = pipeline(x, LABELS, folds.of_text[0], c)
    for train, test in folds.splits(0):
        found = decide(scaled(x, train, test), LABELS[train], c)
        np.testing.assert_allclose(found, expected[test], atol=2e-4)


@pytest.mark.parametrize("name", FEATURES)
def test_many_labellings_at_once_are_fitted_like_each_by_itself(name):
    x, folds = FEATURES[name], folds_of(LABELS)
    shuffled = folds.shuffled(12)
    train, test = next(folds.splits(0))
    many = decide_many(scaled(x, train, test), shuffled[:, train], 1.0)
    for labels, found in zip(shuffled, many, strict=True):
        np.testing.assert_allclose(found, _one(x, labels, train, test), atol=2e-4)


def _one(x: Matrix, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    scaler = MaxAbsScaler() if sparse.issparse(x) else StandardScaler()
    model = LogisticRegression(tol=1e-10, max_iter=100_000)
    x = x.astype(np.float64)
    return make_pipeline(scaler, model).fit(x[train], labels[train]).decision_function(x[test])


def test_many_fits_in_small_batches_are_the_same(monkeypatch):
    x, folds = FEATURES["wide dense"], folds_of(LABELS)
    train, test = next(folds.splits(0))
    labels = folds.shuffled(10)[:, train]
    whole = decide_many(scaled(x, train, test), labels, 1.0)
    monkeypatch.setattr(cv_fit, "CELLS", 3 * len(train))
    np.testing.assert_allclose(decide_many(scaled(x, train, test), labels, 1.0), whole, atol=1e-6)


def test_rows_turned_onto_their_axes_keep_all_products():
    for name in ("wide dense", "wide sparse", "narrow dense", "low rank"):
        train, test = next(folds_of(LABELS).splits(0))
        before = scaled(FEATURES[name], train, test)
        after = turned(before)
        assert after.train.shape[1] <= min(before.train.shape)
        products = (before.train @ before.train.T, before.test @ before.train.T)
        products = [p.toarray() if sparse.issparse(p) else p for p in products]
        scale = np.abs(products[0]).max()
        np.testing.assert_allclose(after.train @ after.train.T, products[0], atol=1e-9 * scale)
        np.testing.assert_allclose(after.test @ after.train.T, products[1], atol=1e-9 * scale)


@pytest.mark.parametrize("name", ["wide dense", "wide sparse", "low rank"])
def test_many_training_rows_are_factored_with_the_same_result(name, monkeypatch):
    x, folds = FEATURES[name], folds_of(LABELS)
    train, test = next(folds.splits(0))
    labels = folds.shuffled(5)[:, train]
    expected = decide_many(scaled(x, train, test), labels, 1.0)
    monkeypatch.setattr(cv_design, "WIDEST_EIGEN", 10)
    np.testing.assert_allclose(
        decide_many(scaled(x, train, test), labels, 1.0), expected, atol=1e-4
    )


def test_sparse_rows_are_fitted_like_the_same_rows_stored_densely():
    train, test = next(folds_of(LABELS).splits(0))
    for name in ("wide sparse", "very sparse"):
        rows = scaled(FEATURES[name], train, test)
        full = Design(rows.train.toarray(), rows.test.toarray(), rows.n_varying)
        np.testing.assert_allclose(
            decide(rows, LABELS[train], 1.0), decide(full, LABELS[train], 1.0), atol=1e-5
        )


def test_very_sparse_rows_stay_as_they_are_and_others_meet_as_products():
    train, test = next(folds_of(LABELS).splits(0))
    sparsest, wide, narrow = (
        scaled(FEATURES[name], train, test)
        for name in ("very sparse", "wide sparse", "narrow dense")
    )
    assert (stays_sparse(sparsest), stays_sparse(wide)) == (True, False)
    assert work(sparsest) == 10 * sparsest.train.nnz
    assert work(wide) == 32 * 32
    assert work(narrow) == 32 * 7


def test_features_that_do_not_vary_leave_the_shares_of_the_classes():
    labels = np.arange(N) < 10
    train, test = next(folds_of(labels).splits(0))
    rows = scaled(np.ones((N, 5), dtype=np.float32), train, test)
    expected = np.log(8 / 24)
    np.testing.assert_allclose(decide(rows, labels[train], 1.0), expected)
    np.testing.assert_allclose(
        decide_many(rows, labels[None, train], 1.0), [[expected] * len(test)]
    )


def test_the_intercept_is_not_penalised():
    labels = np.arange(N) < 4
    x = dense(N, 300)
    train, test = np.arange(1, N), np.array([0])
    found = decide_many(scaled(x, train, test), labels[None, train], 1e-9)
    np.testing.assert_allclose(found, np.log(3 / 36), atol=1e-4)


def test_rows_of_very_different_size_do_not_throw_newtons_method_off():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(N, 5)) * 10.0 ** rng.normal(size=(N, 1))
    labels = rng.random((50, N)) < 0.3
    labels[:, 0], labels[:, 1] = True, False
    found = decide_many(Design(rows, rows, 5), labels, 1.0)
    for one, given in zip(labels, found, strict=True):
        model = LogisticRegression(tol=1e-10, max_iter=100_000).fit(rows, one)
        np.testing.assert_allclose(given, model.decision_function(rows), rtol=1e-3, atol=1e-3)
