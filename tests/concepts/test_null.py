"""The null of maxima: all arrangements by hand, uniform p without an effect, published medians."""

from itertools import combinations

import numpy as np
import pytest
from scipy import sparse, stats
from sklearn.metrics import roc_auc_score

from saebench.concepts import (
    Columns,
    Discoveries,
    Exchange,
    Null,
    benjamini_hochberg,
    permuted,
    separate,
)
from tests.concepts.matrices import both_kinds, labels_of, naive_d, sparse_rows


def nulls(x, labels, n=200, seed=0, documents=None):
    columns = Columns.of(x)
    ranks = columns.ranks()
    exchange = Exchange.of(labels, documents)
    return permuted(columns, ranks, separate(columns, ranks, labels), exchange, n, seed)


def every_arrangement(n, n1):
    for chosen in combinations(range(n), n1):
        labels = np.zeros(n, dtype=bool)
        labels[list(chosen)] = True
        yield labels


@pytest.mark.parametrize("kind", [0, 1])
def test_all_arrangements_give_the_exact_p_of_every_statistic(kind):
    x, labels = sparse_rows(9, 6, 0.9, seed=2), labels_of(9, 4)
    found = nulls(both_kinds(x)[kind], labels)
    maxima = [np.abs(naive_d(x, one)) for one in every_arrangement(9, 4)]
    ranked = [
        max(abs(roc_auc_score(one, column) - 0.5) for column in x.T)
        for one in every_arrangement(9, 4)
    ]
    d_max, d = [one.max() for one in maxima], np.abs(naive_d(x, labels))
    away = max(abs(roc_auc_score(labels, column) - 0.5) for column in x.T)
    assert found.exact
    assert found.n_permutations == 125
    assert found.d_max.observed == pytest.approx(d.max())
    assert found.d_max.p == pytest.approx(np.mean([one >= d.max() - 1e-9 for one in d_max]))
    assert found.auroc_max.observed == pytest.approx(away)
    assert found.auroc_max.p == pytest.approx(np.mean([one >= away - 1e-9 for one in ranked]))
    over = [(one > 1).sum() for one in maxima]
    assert found.n_over_1.observed == (d > 1).sum()
    assert found.n_over_1.p == pytest.approx(np.mean([one >= (d > 1).sum() for one in over]))
    own = [np.mean([one[j] >= d[j] - 1e-9 for one in maxima]) for j in range(6)]
    np.testing.assert_allclose(found.p, own, atol=1e-12)


def test_documents_of_different_sizes_are_compared_by_d_and_not_by_sums():
    documents = np.repeat(np.arange(8), [1, 2, 3, 4, 1, 2, 3, 4])
    of_document = labels_of(8, 3)
    x, labels = sparse_rows(20, 5, 0.9, seed=1), of_document[documents]
    found = nulls(x, labels, documents=documents)
    maxima = [np.abs(naive_d(x, one[documents])) for one in every_arrangement(8, 3)]
    d = np.abs(naive_d(x, labels))
    p = np.mean([one.max() >= d.max() - 1e-9 for one in maxima])
    assert found.d_max.p == pytest.approx(p)
    own = [np.mean([one[j] >= d[j] - 1e-9 for one in maxima]) for j in range(5)]
    np.testing.assert_allclose(found.p, own, atol=1e-12)
    ranked = [
        max(abs(roc_auc_score(one[documents], column) - 0.5) for column in x.T)
        for one in every_arrangement(8, 3)
    ]
    away = max(abs(roc_auc_score(labels, column) - 0.5) for column in x.T)
    assert found.auroc_max.p == pytest.approx(np.mean([one >= away - 1e-9 for one in ranked]))


def test_random_arrangements_agree_with_all_of_them():
    x, labels = sparse_rows(40, 25, seed=3), labels_of(40, 20)
    one, other = (nulls(rows, labels, n=2000, seed=5) for rows in both_kinds(x))
    np.testing.assert_allclose(one.d_max.samples, other.d_max.samples, rtol=1e-9)
    np.testing.assert_allclose(one.auroc_max.samples, other.auroc_max.samples, rtol=1e-6)
    np.testing.assert_array_equal(one.n_over_1.samples, other.n_over_1.samples)
    again = nulls(x, labels, n=2000, seed=6)
    assert again.d_max.quantiles[1] == pytest.approx(one.d_max.quantiles[1], rel=0.03)
    assert one.smallest_p == 1 / 2001


def test_without_an_effect_p_is_uniform():
    p = {"d_max": [], "auroc_max": []}
    for seed in range(200):
        found = nulls(sparse_rows(30, 12, 0.3, seed=seed), labels_of(30, 13, seed + 999), 99, seed)
        p["d_max"].append(found.d_max.p)
        p["auroc_max"].append(found.auroc_max.p)
    for values in p.values():
        assert stats.kstest(values, "uniform").pvalue > 0.01
        assert np.mean(np.array(values) <= 0.05) < 0.1


def test_texts_of_one_document_do_not_make_an_effect_that_is_not_there():
    """Documents differ in every column; a null that lets texts trade labels calls that an effect."""
    p, naive = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        documents = np.repeat(np.arange(16), 6)
        x = rng.normal(size=(16, 8))[documents] + 0.1 * rng.normal(size=(96, 8))
        labels = labels_of(16, 8, seed)[documents]
        p.append(nulls(x, labels, 99, seed, documents).d_max.p)
        naive.append(nulls(x, labels, 99, seed).d_max.p)
    assert np.mean(np.array(p) <= 0.05) < 0.15
    assert np.mean(np.array(naive) <= 0.05) > 0.9


@pytest.mark.parametrize(
    ("n", "m", "low", "median", "high"), [(38, 181, 0.84, 1.04, 1.32), (20, 181, 1.18, 1.50, 1.95)]
)
def test_the_null_of_independent_gaussians_is_the_tabulated_one(n, m, low, median, high):
    """The table is over data; permutations of one data set scatter about it, so several are pooled."""
    samples = []
    for seed in range(12):
        x = np.random.default_rng(seed).normal(size=(n, m))
        samples.append(nulls(x, labels_of(n, n // 2, seed), 300, seed).d_max.samples)
    found = np.quantile(np.concatenate(samples), (0.05, 0.5, 0.95))
    np.testing.assert_allclose(found, [low, median, high], rtol=0.04)


def test_an_effect_that_is_there_has_the_smallest_p():
    x, labels = sparse_rows(60, 40), labels_of(60, 30)
    x[:, 7] += 3 * labels
    found = nulls(sparse.csr_array(x), labels, 199)
    assert found.d_max.p == found.auroc_max.p == 1 / 200
    assert found.p[7] == 1 / 200
    assert np.median(found.p) > 0.2
    low, median, high = found.d_max.quantiles
    assert low < median < high < found.d_max.observed


def test_a_column_that_separates_without_spread_counts_in_no_maximum():
    labels = np.array([True] * 4 + [False] * 4)
    x = np.stack([labels * 1.0, np.arange(8) % 3], axis=1)
    found = nulls(x, labels)
    assert np.isfinite(found.d_max.samples).all()
    assert found.d_max.observed == pytest.approx(abs(naive_d(x[:, 1:], labels)[0]))


@pytest.mark.parametrize("kind", [0, 1])
def test_p_of_a_column_without_spread_is_the_smallest_there_can_be_and_not_less(kind):
    labels = np.array([True] * 3 + [False] * 3)
    x = np.stack([labels * 1.0, np.array([1.0, 2, 0, 0, 2, 1])], axis=1)
    found = nulls(both_kinds(x)[kind], labels)
    assert found.p[0] == pytest.approx(0.1)  # the actual arrangement and its swap, of 20
    assert found.smallest_p == pytest.approx(0.1)
    assert np.isfinite(found.d_max.samples).all()
    assert found.n_over_1.observed == 1
    assert found.n_over_1.samples.max() >= 1


@pytest.mark.parametrize(
    ("n1", "high", "low"), [(3, 0.88, 0.69), (4, -1.64, 0.74), (6, -0.3, 1.78)]
)
def test_rounding_does_not_hide_a_swap_without_spread(n1, high, low):
    """The share that the swap explains is below 1 by about 1e-15 here."""
    labels = np.arange(2 * n1) < n1
    found = nulls(np.where(labels, high, low)[:, None], labels)
    assert found.p[0] == pytest.approx(found.smallest_p)


def test_arrangements_under_which_d_is_infinite_reach_any_finite_one():
    """d of column 0 is finite as it is, and infinite where the three ones are the positive texts."""
    labels = np.array([True, True, False, True, False, False])
    found = nulls(np.array([[1.0, 1, 1, 0, 0, 0]]).T, labels)
    assert found.p[0] == 1  # of 20 arrangements 18 have |d| as it is and 2 an infinite one


def planted(n_planted, m=600, n=60, n_permutations=99):
    labels = labels_of(n, n // 2)
    x = np.random.default_rng(0).normal(size=(n, m))
    x[:, :n_planted] += 5 * labels[:, None]
    columns = Columns.of(x)
    ranks = columns.ranks()
    separation = separate(columns, ranks, labels)
    exchange = Exchange.of(labels)
    return permuted(columns, ranks, separation, exchange, n_permutations, 0), separation.d


def test_planted_columns_that_permutations_cannot_resolve_are_not_called_none():
    found = Discoveries.of(*planted(20))
    assert found.n is None
    assert found.n_needed == 12_000
    assert 20 <= found.n_corrected <= 21  # by chance one more in one of twenty
    assert found.to_json()["n_corrected"] == found.n_corrected


def test_permutations_that_are_enough_resolve_planted_columns():
    found = Discoveries.of(*planted(20, m=60, n_permutations=1999))
    assert 20 <= found.n <= 22
    assert found.n_needed is None


def test_columns_none_of_which_comes_near_are_resolved_to_none():
    nulls_of, d = planted(0, m=8)
    assert nulls_of.smallest_p > 0.05 / 8
    assert nulls_of.p.min() > 1 / 100
    assert Discoveries.of(nulls_of, d).n == 0


def test_texts_with_few_arrangements_cannot_be_helped_by_more_permutations():
    found = Discoveries.of(*planted(2, m=50, n=8))
    assert found.n is None
    assert found.n_needed is None


def test_p_counts_ties_and_the_observed_one_itself():
    null = Null(1.0, np.array([0.5, 1.0, 1.0 - 1e-12, 2.0]))
    assert null.p == 4 / 5
    np.testing.assert_allclose(null.p_of(np.array([3.0, 0.0])), [1 / 5, 1])


def test_discoveries_are_those_of_the_step_up_procedure():
    p = np.array([0.01, 0.02, 0.03, 0.04, 0.5])
    assert benjamini_hochberg(p, 0.05) == 4
    assert benjamini_hochberg(p[::-1], 0.05) == 4
    assert benjamini_hochberg(np.array([0.04, 0.9])) == 0
    assert benjamini_hochberg(np.zeros(0)) == 0
