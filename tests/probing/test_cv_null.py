"""Permutation tests of the whole pipeline: valid under the null, and nothing leaks into them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import kstest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from saebench.probing import cv_null
from saebench.probing.cv_folds import draw_folds
from saebench.probing.cv_null import affordable, null_of, shuffled_scores
from saebench.probing.cv_selected import single_null


def folds_of(labels, documents=None, n_folds=5, seed=0):
    return draw_folds(labels, documents, n_folds=n_folds, n_repeats=1, seed=seed)


def halves(n: int) -> np.ndarray:
    return np.arange(n) % 2 == 0


def naive(x, labels, folds) -> tuple[float, float]:
    """AUROC and balanced accuracy of a pipeline that is run anew, with folds of one size."""
    decisions, areas = np.empty(len(labels)), []
    for train, test in folds.splits(0):
        model = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-10, max_iter=10_000))
        decisions[test] = model.fit(x[train], labels[train]).decision_function(x[test])
        areas.append(roc_auc_score(labels[test], decisions[test]))
    return float(np.mean(areas)), balanced_accuracy_score(labels, decisions > 0)


def test_every_shuffle_is_scored_as_if_the_pipeline_had_been_run_anew():
    rng = np.random.default_rng(0)
    labels = halves(40)
    x = rng.normal(size=(40, 60)) + 0.3 * labels[:, None]
    folds = folds_of(labels)
    null = null_of(x, folds, 20, 1.0)
    assert (null.observed["auroc"], null.observed["balanced_accuracy"]) == pytest.approx(
        naive(x, labels, folds)
    )
    expected = np.array([naive(x, one, folds) for one in folds.shuffled(20)])
    np.testing.assert_allclose(null.shuffled["auroc"], expected[:, 0])
    np.testing.assert_allclose(null.shuffled["balanced_accuracy"], expected[:, 1])
    reached = (expected[:, 0] >= null.observed["auroc"]).sum()
    assert null.p("auroc") == (1 + reached) / 21


def test_p_is_uniform_where_labels_mean_nothing():
    rng = np.random.default_rng(1)
    labels, found = halves(30), []
    for seed in range(200):
        folds = folds_of(labels, seed=seed, n_folds=3)
        found.append(null_of(rng.normal(size=(30, 12)), folds, 99, 1.0).p("auroc"))
    assert kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_p_of_documents_of_both_classes_is_uniform_where_labels_mean_nothing():
    rng = np.random.default_rng(2)
    documents, found = np.repeat(np.arange(12), 3), []
    for seed in range(200):
        labels = rng.random(36) < 0.5
        x = rng.normal(size=(12, 8))[documents] + rng.normal(size=(36, 8))
        folds = folds_of(labels, documents, seed=seed, n_folds=3)
        found.append(null_of(x, folds, 99, 1.0).p("auroc"))
    assert kstest(found, "uniform").pvalue > 0.01


def test_p_by_document_is_uniform_where_texts_of_one_document_are_alike():
    rng = np.random.default_rng(3)
    documents, by_document, by_text = np.repeat(np.arange(16), 5), [], []
    labels = documents % 2 == 0
    for seed in range(80):
        x = rng.normal(size=(16, 10))[documents] + 0.1 * rng.normal(size=(80, 10))
        folds = folds_of(labels, documents, seed=seed, n_folds=4)
        by_document.append(null_of(x, folds, 99, 1.0).p("auroc"))
        by_text.append(null_of(x, folds_of(labels, None, seed=seed, n_folds=4), 99, 1.0).p("auroc"))
    assert kstest(by_document, "uniform").pvalue > 0.01
    assert np.mean(np.array(by_text) <= 0.05) > 0.9  # what shuffling by text would have said


def test_shuffled_labels_average_to_one_half_of_auroc():
    rng = np.random.default_rng(4)
    null = null_of(rng.normal(size=(40, 200)), folds_of(halves(40)), 2000, 1.0)
    assert null.shuffled["auroc"].mean() == pytest.approx(0.5, abs=4 * 0.1 / np.sqrt(2000))


def test_selection_inside_the_fold_gives_chance_on_noise_where_selection_outside_would_not():
    rng = np.random.default_rng(5)
    labels, inside, outside = halves(40), [], []
    for seed in range(40):
        x, folds = rng.normal(size=(40, 2000)), folds_of(labels, seed=seed)
        inside.append(single_null(x, folds, 1).observed["auroc"])
        best = np.abs(x[labels].mean(0) - x[~labels].mean(0)).argmax()
        outside.append(single_null(x[:, [best]], folds, 1).observed["auroc"])
    assert np.mean(inside) == pytest.approx(0.5, abs=4 * 0.1 / np.sqrt(40))
    assert np.mean(outside) > 0.75


def test_what_is_there_gets_the_smallest_p():
    labels = halves(40)
    x = np.random.default_rng(6).normal(size=(40, 300)) + labels[:, None]
    null = null_of(x, folds_of(labels), 199, 1.0)
    assert null.p("auroc") == null.smallest_p == 1 / 200


def test_few_labels_bound_p_however_many_shuffles_there_are():
    labels = halves(8)
    null = null_of(
        np.random.default_rng(0).normal(size=(8, 3)), folds_of(labels, n_folds=2), 500, 1.0
    )
    assert null.n_arrangements == pytest.approx(36)  # (4 over 2) in each of two folds
    assert null.smallest_p == pytest.approx(1 / 36)


def test_p_comes_close_to_that_of_all_arrangements():
    labels, rng = halves(8), np.random.default_rng(7)
    folds = folds_of(labels, n_folds=2)
    x = rng.normal(size=(8, 4)) + 0.8 * labels[:, None]
    sides = [test for _, test in folds.splits(0)]
    choices = [
        [np.array(c, dtype=bool) for c in product([0, 1], repeat=4) if sum(c) == labels[side].sum()]
        for side in sides
    ]
    reached, total, observed = 0, 0, naive(x, labels, folds)[0]
    for first, second in product(*choices):
        one = np.empty(8, dtype=bool)
        one[sides[0]], one[sides[1]] = first, second
        total += 1
        reached += naive(x, one, folds)[0] >= observed - 1e-12
    null = null_of(x, folds, 4000, 1.0)
    assert total == pytest.approx(null.n_arrangements)
    assert null.p("auroc") == pytest.approx(reached / total, abs=4 * np.sqrt(0.25 / 4000))


def test_arms_meet_the_same_shuffles():
    folds, seen = folds_of(halves(20)), []
    for _ in range(2):
        shuffled_scores(
            folds, 10, lambda split, labels: seen.append(labels) or np.zeros((11, len(split[1])))
        )
    assert all(np.array_equal(one, seen[0]) for one in seen)


def test_sparse_and_dense_storage_give_one_null():
    rng = np.random.default_rng(8)
    x = rng.exponential(size=(40, 300)) * (rng.random((40, 300)) < 0.2)
    folds = folds_of(halves(40))
    peak = [np.abs(x[train]).max(0) for train, _ in folds.splits(0)]
    stored = null_of(sparse.csr_array(x), folds, 50, 1.0)

    def by_hand(split, labels):
        fold = next(i for i, (_, test) in enumerate(folds.splits(0)) if test[0] == split[1][0])
        scale = np.where(peak[fold] > 0, peak[fold], np.inf)
        model = LogisticRegression(tol=1e-10, max_iter=10_000)
        return np.stack(
            [
                model.fit(x[split[0]] / scale, one[split[0]]).decision_function(x[split[1]] / scale)
                for one in labels
            ]
        )

    np.testing.assert_allclose(
        stored.shuffled["auroc"], shuffled_scores(folds, 50, by_hand).shuffled["auroc"]
    )


def test_fewer_shuffles_are_drawn_where_they_would_take_too_long(monkeypatch):
    x, folds = np.random.default_rng(0).normal(size=(40, 300)), folds_of(halves(40))
    assert affordable(x, folds, 1000) == 1000
    monkeypatch.setattr(cv_null, "WORK", 5 * 32 * 32 * 300)
    assert affordable(x, folds, 1000) == 300
    monkeypatch.setattr(cv_null, "WORK", 1)
    assert affordable(x, folds, 1000) == 99
    assert affordable(x, folds, 20) == 20
    assert null_of(x, folds, 1000, 1.0).n_permutations == 99
