"""d, g and AUROC of columns: published golden values, naive loops, scikit-learn."""

import numpy as np
import pytest
from scipy import sparse, special
from sklearn.metrics import roc_auc_score

from saebench.concepts import Columns, hedges, separate, standard_error
from saebench.errors import DataError
from tests.concepts.matrices import both_kinds, labels_of, naive_d, sparse_rows


def separated(x, labels):
    columns = Columns.of(x)
    return separate(columns, columns.ranks(), labels)


def test_the_golden_values_of_the_reference():
    low, high = [0, 0, 1, 2, 3], [1, 2, 2, 4, 6]
    x = np.array([*low, *high], dtype=np.float64)[:, None]
    found = separated(x, np.arange(10) >= 5)
    assert found.d[0] == pytest.approx(1.066228, abs=5e-7)
    assert found.g[0] == pytest.approx(0.963045, abs=5e-7)
    assert found.auroc[0] == pytest.approx(0.78, abs=1e-12)
    assert found.d[0] * np.sqrt(5 / 4) == pytest.approx(
        1.192079, abs=5e-7
    )  # the variant with ddof 0


@pytest.mark.parametrize(("df", "factor"), [(18, 0.958), (36, 0.979), (38, 0.980)])
def test_the_correction_of_small_samples_is_the_tabulated_and_nearly_the_exact_one(df, factor):
    n1 = df // 2 + 1
    assert hedges(1.0, n1, n1) == pytest.approx(factor, abs=6e-4)
    log = special.gammaln(df / 2) - special.gammaln((df - 1) / 2)
    assert hedges(1.0, n1, n1) == pytest.approx(np.exp(log) / np.sqrt(df / 2), abs=1e-3)


def test_the_standard_error_of_d_is_the_textbook_one():
    assert standard_error(0.0, 20, 20) == pytest.approx(np.sqrt(0.1))
    assert standard_error(1.0, 10, 30) == pytest.approx(np.sqrt(40 / 300 + 1 / 80))


@pytest.mark.parametrize("density", [0.05, 0.15, 0.6])
def test_d_is_that_of_a_loop_over_columns(density):
    x, labels = sparse_rows(60, 40, density), labels_of(60, 22)
    for rows in both_kinds(x):
        np.testing.assert_allclose(separated(rows, labels).d, naive_d(x, labels), atol=1e-9)


@pytest.mark.parametrize("density", [0.05, 0.15, 0.6, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_auroc_is_that_of_scikit_learn_with_ties_zeros_and_negative_values(density, dtype):
    x, labels = sparse_rows(50, 30, density).astype(dtype), labels_of(50, 17)
    assert (x < 0).any()
    expected = [roc_auc_score(labels, column) for column in x.T]
    for rows in both_kinds(x):
        np.testing.assert_allclose(separated(rows, labels).auroc, expected, atol=1e-6)


def test_sparse_rows_give_what_dense_ones_give_and_stay_sparse():
    x, labels = sparse_rows(80, 50, 0.1), labels_of(80, 30)
    dense, thin = (separated(rows, labels) for rows in both_kinds(x))
    for name in ("d", "auroc", "rate1", "rate0", "firings"):
        np.testing.assert_allclose(getattr(thin, name), getattr(dense, name), atol=1e-7)
    columns = Columns.of(sparse.csr_array(x))
    assert sparse.issparse(columns.matrix)
    assert sparse.issparse(columns.ranks().matrix)


def test_the_order_of_texts_changes_nothing():
    x, labels = sparse_rows(70, 30), labels_of(70, 30)
    order = np.random.default_rng(1).permutation(70)
    one, other = separated(x, labels), separated(x[order], labels[order])
    np.testing.assert_allclose(one.d, other.d, atol=1e-12)
    np.testing.assert_allclose(one.auroc, other.auroc, atol=1e-12)


def test_swapping_the_classes_turns_signs():
    x, labels = sparse_rows(40, 20), labels_of(40, 15)
    one, other = separated(x, labels), separated(x, ~labels)
    np.testing.assert_allclose(one.d, -other.d, atol=1e-12)
    np.testing.assert_allclose(one.auroc, 1 - other.auroc, atol=1e-12)


def test_constant_columns_are_zero_if_equal_and_infinite_if_they_differ():
    labels = np.array([True] * 3 + [False] * 4)
    x = np.zeros((7, 4))
    x[:, 1] = 0.1  # no sum of these is exact
    x[:, 2] = np.where(labels, 0.3, 0.1)
    x[:, 3] = [1, 2, 3, 0, 0, 0, 1]
    found = separated(x, labels)
    assert found.d[:3].tolist() == [0, 0, np.inf]
    assert separated(x, ~labels).d[2] == -np.inf
    assert found.n_infinite == 1
    assert found.best(0) == 3  # what is infinite wins nothing


def test_a_column_has_to_fire_often_enough_to_be_the_best():
    labels = np.array([True] * 6 + [False] * 6)
    x = np.zeros((12, 2))
    x[:4, 0] = [1, 2, 1, 2]
    x[:, 1] = np.arange(12) % 5 + labels
    found = separated(x, labels)
    assert abs(found.d[0]) > abs(found.d[1])
    assert (found.best(4), found.best(5), found.best(13)) == (0, 1, None)


def test_rates_are_shares_of_texts_of_each_class():
    labels = np.array([True, True, False, False, False])
    found = separated(np.array([[1, 0, -2, 0, 0]], dtype=np.float32).T, labels)
    assert (found.rate1[0], found.rate0[0], found.firings[0]) == (0.5, pytest.approx(1 / 3), 2)


def test_small_differences_on_a_large_mean_are_kept():
    rng = np.random.default_rng(0)
    x = 1e4 + rng.normal(size=(60, 5))
    labels = labels_of(60, 30)
    np.testing.assert_allclose(separated(x, labels).d, naive_d(x, labels), rtol=1e-8)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_values_that_are_not_finite_are_refused_with_a_remedy(bad):
    x = sparse_rows(10, 5)
    x[3, 2] = bad
    for rows in both_kinds(x):
        with pytest.raises(DataError, match=r"1 are infinite.*float16 ends at 65,504"):
            Columns.of(rows)


def test_columns_can_be_taken_and_rows_left_out():
    x = sparse_rows(60, 40)
    columns = Columns.of(sparse.csr_array(x))
    keep = np.arange(60) < 45
    np.testing.assert_allclose(
        columns.take(np.arange(40) > 20).centre, x[:, 21:].mean(0), atol=1e-6
    )
    rows = columns.rows(keep)
    np.testing.assert_allclose(rows.spread, x[keep].astype(np.float64).var(0) * 45, atol=1e-9)
    np.testing.assert_array_equal(columns.column(7), x[:, 7])


def test_a_small_spread_within_the_classes_is_not_taken_for_none():
    labels = np.arange(20) >= 10
    x = (labels + 1e-4 * np.tile([-1.0, 1.0], 10))[:, None]
    found = separated(x, labels)
    assert found.n_infinite == 0
    assert found.d[0] == pytest.approx(naive_d(x, labels)[0], rel=1e-4)
    assert found.d[0] > 9000
