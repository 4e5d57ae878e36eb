"""Correlations of padded rows against scipy, against regression by lstsq, and at their ends."""

import numpy as np
import pytest
from scipy import stats

from saebench.causal.correlations import (
    partial,
    partial_spearman,
    pearson,
    ranks,
    spearman,
)

LENGTHS = (12, 40, 25, 64)


@pytest.fixture
def rows():
    """Three sides ``[4, 64]`` with ties, padded with values that must not matter, and what is there."""
    generator = np.random.default_rng(0)
    f = generator.lognormal(0, 1, (4, 64)).round(1)
    a = f**2 * generator.lognormal(0, 1, (4, 64))
    b = f**2 * generator.lognormal(0, 1, (4, 64)).round(1)
    there = np.arange(64) < np.array(LENGTHS)[:, None]
    return (*(np.where(there, x, np.nan) for x in (a, b, f)), there)


def naive(statistic, *sides):
    return [statistic(*(side[i, :n] for side in sides)) for i, n in enumerate(LENGTHS)]


def left_of(y, *covariates):
    design = np.stack([np.ones_like(y), *covariates], 1)
    return y - design @ np.linalg.lstsq(design, y, rcond=None)[0]


def test_pearson_is_that_of_scipy_on_what_is_there(rows):
    a, b, _, there = rows
    expected = naive(lambda x, y: stats.pearsonr(x, y).statistic, a, b)
    np.testing.assert_allclose(pearson(a, b, there), expected, rtol=1e-12)


def test_a_negative_correlation_is_that_of_scipy(rows):
    a, b, _, there = rows
    expected = naive(lambda x, y: stats.pearsonr(x, y).statistic, a, -b)
    np.testing.assert_allclose(pearson(a, -b, there), expected, rtol=1e-12)


def test_spearman_shares_ranks_among_ties_as_scipy_does(rows):
    _, b, f, there = rows
    expected = naive(lambda x, y: stats.spearmanr(x, y).statistic, f, b)
    np.testing.assert_allclose(spearman(f, b, there), expected, rtol=1e-12)


def test_partial_is_the_correlation_of_regression_residuals(rows):
    a, b, f, there = rows

    def expected(x, y, z):
        return stats.pearsonr(left_of(x, z, z**2), left_of(y, z, z**2)).statistic

    found = partial(a, b, [f, f**2], there)
    np.testing.assert_allclose(found, naive(expected, a, b, f), rtol=1e-9)


def test_partial_of_one_covariate_is_the_closed_form(rows):
    a, b, f, there = rows
    ab, af, bf = (pearson(x, y, there) for x, y in ((a, b), (a, f), (b, f)))
    expected = (ab - af * bf) / np.sqrt((1 - af**2) * (1 - bf**2))
    np.testing.assert_allclose(partial(a, b, [f], there), expected, rtol=1e-9)


def test_partial_spearman_takes_the_ranks_of_the_covariate_out(rows):
    a, b, f, there = rows

    def expected(x, y, z):
        rx, ry, rz = (stats.rankdata(v) for v in (x, y, z))
        return stats.pearsonr(left_of(rx, rz), left_of(ry, rz)).statistic

    found = partial_spearman(a, b, f, there)
    np.testing.assert_allclose(found, naive(expected, a, b, f), rtol=1e-9)


def test_equal_rows_correlate_exactly_one_however_small(rows):
    a, _, f, there = rows
    for scale in (1.0, 1e-13, 1e9):
        x = scale * a
        assert (pearson(x, x.copy(), there) == 1).all()
        assert (spearman(x, x.copy(), there) == 1).all()
        assert (partial(x, x.copy(), [f, f**2], there) == 1).all()
        assert (partial_spearman(x, x.copy(), f, there) == 1).all()


def test_opposite_rows_correlate_exactly_minus_one(rows):
    a, _, _, there = rows
    assert (pearson(a, -a, there) == -1).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-9])
def test_a_row_that_does_not_vary_has_no_correlation(rows, value):
    a, _, f, there = rows
    flat = np.full_like(a, value)
    for found in (
        pearson(a, flat, there),
        pearson(flat, a, there),
        spearman(a, flat, there),
        partial(flat, a, [f], there),
        partial_spearman(a, flat, f, there),
    ):
        assert np.isnan(found).all()


def test_a_row_that_differs_by_rounding_alone_has_no_correlation(rows):
    a, _, _, there = rows
    almost = 0.3 + 1e-16 * np.arange(64) * np.ones((4, 1))
    assert np.isnan(pearson(a, almost, there)).all()


def test_nothing_is_left_of_a_row_that_its_covariates_determine(rows):
    a, _, f, there = rows
    assert np.isnan(partial(3 * f**2 - f + 1, a, [f, f**2], there)).all()


def test_a_covariate_that_does_not_vary_takes_nothing_out(rows):
    a, b, f, there = rows
    found = partial(a, b, [np.full_like(f, 2.0)], there)
    np.testing.assert_allclose(found, pearson(a, b, there), rtol=1e-12)


def test_a_covariate_given_twice_counts_once(rows):
    a, b, f, there = rows
    found = partial(a, b, [f, 3 * f - 1], there)
    np.testing.assert_allclose(found, partial(a, b, [f], there), rtol=1e-9)


def test_partial_needs_three_places_more_than_covariates():
    x = np.random.default_rng(0).standard_normal((3, 5))
    there = np.arange(5) < 4
    assert np.isnan(partial(x, x[::-1], [x**2, x**3], there[None].repeat(3, 0))).all()
    assert np.isfinite(partial(x, x[::-1].copy(), [x**2], there[None].repeat(3, 0))[[0, 2]]).all()


def test_rows_with_nothing_there_have_no_correlation(rows):
    a, b, _, there = rows
    assert np.isnan(pearson(a, b, np.zeros_like(there))).all()


def test_a_missing_shift_is_not_taken_for_a_number(rows):
    a, b, _, there = rows
    a = a.copy()
    a[1, 3] = np.nan
    found = pearson(a, b, there)
    assert np.isnan(found[1])
    assert np.isfinite(found[[0, 2, 3]]).all()


def test_ranks_are_zero_where_nothing_is_there(rows):
    _, _, f, there = rows
    found = ranks(f, there)
    assert (found[~there] == 0).all()
    assert found[0, :12].sum() == 12 * 13 / 2
