"""Probes on few latents: chosen and fitted like a naive pipeline does, fold by fold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from saebench.probing import cv_selected
from saebench.probing.cv_folds import draw_folds
from saebench.probing.cv_scores import Resampled
from saebench.probing.cv_selected import (
    l1_path,
    mean_differences,
    ranked,
    single_null,
    smallest_c,
    sparse_probes,
)

N = 40
LABELS = np.arange(N) % 2 == 0
RNG = np.random.default_rng(0)
CODES = (RNG.exponential(size=(N, 80)) * (RNG.random((N, 80)) < 0.4)).astype(np.float32)
CODES[:, 3] += LABELS * RNG.random(N).astype(np.float32)
FOLDS = draw_folds(LABELS, None, n_folds=5, n_repeats=2, seed=0)


def differences(x, y):
    y = y.astype(bool)
    return np.abs(x[y].astype(np.float64).mean(0) - x[~y].astype(np.float64).mean(0))


def l1_fit(x, y, c):
    """Weights and intercept by proximal gradient steps, the intercept unpenalised."""
    weights, bias = np.zeros(x.shape[1]), 0.0
    pace = 4 / (c * (np.linalg.norm(x, 2) ** 2 + len(x)))
    for _ in range(4000):
        error = 1 / (1 + np.exp(-(x @ weights + bias))) - y
        weights = weights - pace * c * (x.T @ error)
        weights = np.sign(weights) * np.maximum(np.abs(weights) - pace, 0)
        bias -= pace * c * error.sum()
    return weights, bias


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_array])
def test_mean_differences_are_those_of_the_classes(kind):
    labels = RNG.random((4, N)) < 0.4
    found = mean_differences(kind(CODES), labels)
    for row, one in zip(found, labels, strict=True):
        np.testing.assert_allclose(row, CODES[one].mean(0) - CODES[~one].mean(0), atol=1e-6)


def test_latents_are_ranked_by_how_far_the_class_means_are_apart():
    expected = np.argsort(-differences(CODES, LABELS), kind="stable")[:10]
    np.testing.assert_array_equal(ranked(sparse.csr_array(CODES), LABELS, 10), expected)


def test_of_equal_latents_the_first_is_taken_and_of_silent_ones_none():
    x = np.zeros((4, 5))
    x[:2, [1, 3]] = 1
    labels = np.array([True, True, False, False])
    assert ranked(x, labels, 1).tolist() == [1]
    assert ranked(x, labels, 5).tolist() == [1, 3]


@pytest.mark.parametrize("k", [1, 5, 20])
def test_k_sparse_probes_are_those_of_a_scikit_learn_pipeline(k):
    found = sparse_probes(sparse.csr_array(CODES), FOLDS, (1, 5, 20), 1.0, Resampled(FOLDS))
    for repeat in range(2):
        model = make_pipeline(
            SelectKBest(differences, k=k),
            StandardScaler(),
            LogisticRegression(tol=1e-10, max_iter=10_000),
        )
        given = cross_val_predict(
            model,
            CODES.astype(np.float64),
            LABELS,
            cv=PredefinedSplit(FOLDS.of_text[repeat]),
            method="decision_function",
        )
        expected = Resampled(FOLDS).scores(np.stack([given, given])).by_repeat
        for score in ("auroc", "balanced_accuracy"):
            assert found[k].by_repeat[score][repeat] == pytest.approx(expected[score][repeat])


def test_the_single_best_latent_has_the_auroc_of_its_probe():
    probes = sparse_probes(CODES, FOLDS, (1,), 1.0, Resampled(FOLDS))
    for x in (CODES, sparse.csr_array(CODES)):
        null = single_null(x, FOLDS, 5)
        assert null.observed["auroc"] == pytest.approx(probes[1].by_repeat["auroc"][0])


def test_the_single_best_latent_is_chosen_again_for_every_shuffle():
    null = single_null(sparse.csr_array(CODES), FOLDS, 25)
    for number, labels in enumerate(FOLDS.shuffled(25)):
        ordered = pairs = 0.0
        for train, test in FOLDS.splits(0):
            gaps = mean_differences(CODES[train], labels[None, train])[0]
            best = np.abs(gaps).argmax()
            values = np.sign(gaps[best]) * CODES[test, best]
            gap = values[labels[test]][:, None] - values[~labels[test]]
            ordered, pairs = ordered + ((np.sign(gap) + 1) / 2).sum(), pairs + gap.size
        assert null.shuffled["auroc"][number] == pytest.approx(ordered / pairs)


def test_the_single_best_latent_in_small_batches_is_the_same(monkeypatch):
    whole = single_null(CODES, FOLDS, 25).shuffled["auroc"]
    monkeypatch.setattr(cv_selected, "CELLS", 4 * CODES.shape[1])
    np.testing.assert_array_equal(single_null(CODES, FOLDS, 25).shuffled["auroc"], whole)


def test_the_smallest_strength_is_where_the_first_latent_gets_a_weight():
    labels = np.arange(N) < 13
    c = smallest_c(sparse.csr_array(CODES), labels)
    counts = []
    for factor in (0.99, 1.01):
        weights, _ = l1_fit(CODES.astype(np.float64), labels, factor * c)
        counts.append(np.count_nonzero(weights))
    assert counts[0] == 0
    assert counts[1] >= 1


def test_the_path_starts_with_hardly_any_latent_and_ends_with_many():
    points = l1_path(sparse.csr_array(CODES), FOLDS, 6)
    counts = [point.n_latents for point in points]
    assert len(points) == 6
    assert 1 <= counts[0] <= 3
    assert counts[-1] > 10
    assert counts == sorted(counts)
    assert [point.strength for point in points][:: len(points) - 1] == pytest.approx([1.1, 1000])


def test_points_of_the_path_score_like_fits_to_the_training_rows_alone():
    for point in l1_path(CODES, FOLDS, 4)[:2]:
        decisions, counts = np.empty(N), []
        for train, test in FOLDS.splits(0):
            scaler = StandardScaler().fit(CODES[train].astype(np.float64))
            rows = scaler.transform(CODES.astype(np.float64))
            c = point.strength * smallest_c(rows[train], LABELS[train])
            weights, bias = l1_fit(rows[train], LABELS[train], c)
            decisions[test] = rows[test] @ weights + bias
            counts.append(np.count_nonzero(weights))
        expected = Resampled(FOLDS).scores(np.stack([decisions, decisions])).by_repeat
        assert point.auroc == pytest.approx(expected["auroc"][0], abs=0.02)
        assert point.n_latents == pytest.approx(np.mean(counts), abs=1.5)


def test_silent_latents_give_a_path_without_any():
    points = l1_path(sparse.csr_array((N, 7)), FOLDS, 3)
    assert [point.n_latents for point in points] == [0, 0, 0]
    assert [point.auroc for point in points] == [0.5, 0.5, 0.5]
