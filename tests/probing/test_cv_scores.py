"""Scores out of fold, their intervals, and what chance gives, against naive counts."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from saebench.probing.cv_folds import Folds, draw_folds
from saebench.probing.cv_scores import (
    Resampled,
    balanced_accuracy,
    chance,
    ordered_pairs,
    widening,
)
from saebench.stats import bootstrap_weights

RNG = np.random.default_rng(0)
N, REPEATS = 43, 3
LABELS = np.arange(N) % 3 == 0
DECISIONS = np.round(RNG.normal(size=(REPEATS, N)) + LABELS, 1)  # rounded: with ties


def folds_of(labels=LABELS, documents=None, n_folds=4, repeats=REPEATS) -> Folds:
    return draw_folds(labels, documents, n_folds=n_folds, n_repeats=repeats, seed=0)


def naive_auroc(labels, decisions, fold) -> float:
    right = total = 0.0
    for i in np.flatnonzero(labels):
        for j in np.flatnonzero(~labels):
            if fold[i] == fold[j]:
                total += 1
                right += (decisions[i] > decisions[j]) + 0.5 * (decisions[i] == decisions[j])
    return right / total


def test_scores_are_means_over_repeats_of_naive_counts():
    folds = folds_of()
    found = Resampled(folds).scores(DECISIONS)
    areas = [naive_auroc(LABELS, DECISIONS[r], folds.of_text[r]) for r in range(REPEATS)]
    shares = [balanced_accuracy_score(LABELS, DECISIONS[r] > 0) for r in range(REPEATS)]
    np.testing.assert_allclose(found.by_repeat["auroc"], areas)
    np.testing.assert_allclose(found.by_repeat["balanced_accuracy"], shares)
    assert found.values["auroc"] == pytest.approx(np.mean(areas))
    assert found.values["balanced_accuracy"] == pytest.approx(np.mean(shares))


def test_with_folds_of_one_size_the_auroc_is_the_mean_of_those_of_the_folds():
    labels = np.arange(40) % 2 == 0
    folds, decisions = folds_of(labels, n_folds=5, repeats=1), RNG.normal(size=(1, 40))
    areas = [roc_auc_score(labels[test], decisions[0, test]) for _, test in folds.splits(0)]
    assert Resampled(folds).scores(decisions).values["auroc"] == pytest.approx(np.mean(areas))


def test_pairs_by_ranks_are_those_of_a_double_loop():
    labels = RNG.random((6, 20)) < 0.4
    decisions = np.round(RNG.normal(size=(6, 20)), 1)
    above, pairs = ordered_pairs(labels, decisions)
    one_fold = np.zeros(20)
    for row in range(6):
        expected = naive_auroc(labels[row], decisions[row], one_fold)
        assert above[row] / pairs[row] == pytest.approx(expected)


def test_log_odds_that_differ_by_rounding_are_ties():
    labels = np.array([[True, False]])
    assert ordered_pairs(labels, np.array([[1.0, 1.0 + 1e-13]]))[0] == 0.5


def test_an_offset_of_one_fold_leaves_the_auroc_as_it_is():
    folds = folds_of()
    moved = DECISIONS + 100 * folds.of_text
    assert Resampled(folds).scores(moved).values["auroc"] == pytest.approx(
        Resampled(folds).scores(DECISIONS).values["auroc"]
    )


def test_balanced_accuracy_of_many_labellings_is_scikit_learns():
    labels, decisions = RNG.random((5, 30)) < 0.3, RNG.normal(size=(5, 30))
    expected = [balanced_accuracy_score(y, d > 0) for y, d in zip(labels, decisions, strict=True)]
    np.testing.assert_allclose(balanced_accuracy(labels, decisions), expected)


def test_a_constant_probe_scores_one_half_whatever_the_shares_of_the_classes():
    found = Resampled(folds_of()).scores(np.full((REPEATS, N), -0.3))
    assert found.values == pytest.approx({"auroc": 0.5, "balanced_accuracy": 0.5})


@pytest.mark.parametrize("documents", [None, np.arange(N) // 2])
def test_resamples_are_scored_like_texts_that_are_there_as_often_as_drawn(documents):
    labels = LABELS if documents is None else (np.arange(N) // 2) % 3 == 0
    folds = folds_of(labels, documents)
    found = Resampled(folds, n_resamples=5).scores(DECISIONS)
    for number, counts in enumerate(bootstrap_weights(folds.n_units, 5, folds.seed).astype(int)):
        rows = np.repeat(np.arange(N), counts[folds.unit_of])
        areas, shares = [], []
        for repeat in range(REPEATS):
            of = labels[rows], DECISIONS[repeat][rows]
            areas.append(naive_auroc(*of, folds.of_text[repeat][rows]))
            shares.append(balanced_accuracy_score(of[0], of[1] > 0))
        assert found.samples["auroc"][number] == pytest.approx(np.mean(areas))
        assert found.samples["balanced_accuracy"][number] == pytest.approx(np.mean(shares))


def test_differences_are_taken_in_pairs():
    resampled = Resampled(folds_of())
    one, other = resampled.scores(DECISIONS), resampled.scores(DECISIONS + 0.2 * LABELS)
    gap = other.minus(one)
    assert gap.values["auroc"] == pytest.approx(other.values["auroc"] - one.values["auroc"])
    paired, alone = gap.interval("auroc"), one.interval("auroc")
    assert paired.low <= gap.values["auroc"] <= paired.high
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)


def test_intervals_say_what_was_drawn():
    text = Resampled(folds_of()).scores(DECISIONS).interval("auroc").how
    assert "43 texts" in text
    assert text.endswith("widened for training sets (Nadeau and Bengio 2003)")
    documents = np.arange(N) // 2
    text = (
        Resampled(folds_of(documents % 3 == 0, documents)).scores(DECISIONS).interval("auroc").how
    )
    assert "22 documents" in text


def test_five_folds_widen_by_one_half_and_one_fit_by_nothing():
    assert [widening(k) for k in (1, 2, 5)] == pytest.approx([1, 3**0.5, 1.5])


@pytest.mark.parametrize("name", ["auroc", "balanced_accuracy"])
def test_distances_to_the_percentiles_are_stretched(name):
    found = Resampled(folds_of()).scores(DECISIONS)  # of four folds
    value, ends = found.values[name], found.interval(name)
    low, high = np.quantile(found.samples[name], [0.025, 0.975])
    stretch = (1 + 4 / 3) ** 0.5
    assert ends.low == pytest.approx(value - stretch * (value - low))
    assert ends.high == pytest.approx(value + stretch * (high - value))


def test_texts_that_no_probe_was_fitted_to_have_the_percentiles_themselves():
    one = Folds(LABELS, np.arange(N), np.zeros((1, N), dtype=int), False, 1, 0)
    found = Resampled(one).scores(DECISIONS[:1])
    ends = found.interval("auroc")
    expected = np.quantile(found.samples["auroc"], [0.025, 0.975])
    assert (ends.low, ends.high) == pytest.approx(tuple(expected))
    assert ends.how.endswith("the probe as fitted")


def test_intervals_end_where_scores_do():
    resampled = Resampled(folds_of())
    good = resampled.scores(DECISIONS + 2 * LABELS)
    bad = resampled.scores(DECISIONS - 4 * LABELS)
    assert good.interval("auroc").high == 1
    assert 0 < good.interval("auroc").low < good.values["auroc"] < 1
    assert bad.interval("auroc").low == 0
    assert good.minus(bad).interval("auroc").high == 1
    assert bad.minus(good).interval("auroc").low == -1
    assert -1 < bad.minus(good).interval("auroc").high < -0.5


def test_perfect_separation_has_no_interval_but_a_reason():
    perfect = Resampled(folds_of()).scores(np.where(LABELS, 1.0, -1.0) + 0 * DECISIONS)
    for name in ("auroc", "balanced_accuracy"):
        ends = perfect.interval(name)
        assert (perfect.values[name], ends.low, ends.high) == (1, None, None)
        assert ends.reason == "all resamples give the same score: separation is perfect"
    assert perfect.to_json()["auroc_interval"] == [None, None]


def test_arms_that_never_differ_have_no_interval_but_a_reason():
    one = Resampled(folds_of()).scores(DECISIONS)
    for same in (one, Resampled(folds_of()).scores(DECISIONS * 2)):
        ends = one.minus(same).interval("auroc")
        assert (ends.low, ends.high) == (None, None)
        assert ends.reason == "all resamples give the same difference"


def test_intervals_hold_the_score_of_other_texts_as_often_as_they_say():
    rng, held, n = np.random.default_rng(1), 0, 60
    labels = np.arange(n) % 2 == 0
    fold = np.zeros((1, n), dtype=int)
    for seed in range(200):
        folds = Folds(labels, np.arange(n), fold, False, 1, seed)
        found = Resampled(folds, 300).scores(rng.normal(size=(1, n)) + labels)
        ends = found.interval("auroc")
        held += ends.low <= 0.7602 <= ends.high  # Φ(1/√2)
    assert 0.89 <= held / 200 <= 0.99


def ridge_out_of_fold(features, folds) -> np.ndarray:
    """Least squares with a ridge of 1, fitted anew in every fold: a probe that is cheap to simulate."""
    alike, decisions = features @ features.T, np.empty(folds.of_text.shape)
    for repeat in range(folds.n_repeats):
        for train, test in folds.splits(repeat):
            targets = np.where(folds.labels[train], 1.0, -1.0)
            weights = np.linalg.solve(alike[np.ix_(train, train)] + np.eye(len(train)), targets)
            decisions[repeat, test] = alike[np.ix_(test, train)] @ weights
    return decisions


def test_cross_validated_intervals_hold_what_other_training_texts_give_as_well():
    rng, n, runs = np.random.default_rng(3), 40, 120
    labels = np.arange(n) % 2 == 0
    held = dict.fromkeys(["one", "gap", "one, texts alone", "gap, texts alone"], 0)
    for seed in range(runs):
        folds = draw_folds(labels, None, n_folds=5, n_repeats=5, seed=seed)
        resampled = Resampled(folds, 200)
        arms = [resampled.scores(ridge_out_of_fold(rng.normal(size=(n, 100)), folds)) for _ in "ab"]
        for name, found, truth in (("one", arms[0], 0.5), ("gap", arms[0].minus(arms[1]), 0.0)):
            ends = found.interval("auroc")
            low, high = np.quantile(found.samples["auroc"], [0.025, 0.975])
            held[name] += ends.low <= truth <= ends.high
            held[f"{name}, texts alone"] += low <= truth <= high
    for name in ("one", "gap"):
        assert 0.91 <= held[name] / runs <= 0.985
        assert held[f"{name}, texts alone"] / runs < 0.88


def test_chance_has_the_known_spread_at_twenty_texts_of_each_class():
    found = chance(folds_of(np.arange(40) % 2 == 0))
    assert found["balanced_accuracy_sd"] == pytest.approx(0.079, abs=1e-4)
    assert found["balanced_accuracy_range"] == pytest.approx([0.345, 0.655], abs=5e-4)
    assert found["auroc_sd"] == pytest.approx(0.0924, abs=1e-4)


def test_chance_of_guessing_is_that_of_simulated_guesses():
    rng = np.random.default_rng(2)
    flips = rng.normal(size=(20_000, N))
    sd = balanced_accuracy(np.repeat(LABELS[None], 20_000, axis=0), flips).std()
    assert chance(folds_of())["balanced_accuracy_sd"] == pytest.approx(sd, rel=0.03)
    above, pairs = ordered_pairs(np.repeat(LABELS[None], 20_000, axis=0), flips)
    assert chance(folds_of())["auroc_sd"] == pytest.approx((above / pairs).std(), rel=0.03)


def test_documents_of_one_class_count_once_in_chance():
    documents = np.arange(N) // 2
    found = chance(folds_of(documents % 3 == 0, documents))
    assert (found["n_positive"], found["n_negative"], found["unit"]) == (8, 14, "documents")


def test_the_order_of_texts_does_not_matter_on_the_same_folds():
    folds, order = folds_of(), RNG.permutation(N)
    other = Folds(LABELS[order], np.arange(N), folds.of_text[:, order], False, 4, 0)
    found = [
        Resampled(one).scores(given).values
        for one, given in ((folds, DECISIONS), (other, DECISIONS[:, order]))
    ]
    assert found[0] == pytest.approx(found[1])
