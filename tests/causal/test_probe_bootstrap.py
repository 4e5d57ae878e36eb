"""Intervals by resampling probes, against a loop over latents and resamples, and their coverage."""

import numpy as np
import pytest
from scipy import stats

from saebench.causal.probe_bootstrap import (
    mean_bounds,
    partial_bounds,
    pearson_bounds,
    spearman_bounds,
)
from saebench.stats import bootstrap_weights

LENGTHS = (20, 33, 20)
N = 60
OPTIONS = {"n_resamples": N, "seed": 3}


@pytest.fixture
def rows():
    generator = np.random.default_rng(0)
    f = generator.lognormal(0, 1, (3, 33)).round(1)
    a, b = (f * generator.lognormal(0, 1, (3, 33)).round(1) for _ in range(2))
    there = np.arange(33) < np.array(LENGTHS)[:, None]
    return (*(np.where(there, x, np.nan) for x in (a, b, f)), there)


def naive(statistic, *sides):
    found = []
    for i, n in enumerate(LENGTHS):
        weights = bootstrap_weights(n, N, 3).astype(int)
        draws = [np.repeat(np.arange(n), row) for row in weights]
        values = [statistic(*(side[i, draw] for side in sides)) for draw in draws]
        found.append(np.quantile(values, [0.025, 0.975]))
    return np.array(found).T


def left_of(y, x):
    return y - np.polyval(np.polyfit(x, y, 1), x)


def test_pearson_bounds_are_those_of_a_loop_over_resamples(rows):
    a, b, _, there = rows
    expected = naive(lambda x, y: stats.pearsonr(x, y).statistic, a, b)
    np.testing.assert_allclose(pearson_bounds(a, b, there, **OPTIONS), expected, rtol=1e-9)


def test_spearman_ranks_each_resample_anew_with_its_ties(rows):
    a, b, _, there = rows
    expected = naive(lambda x, y: stats.spearmanr(x, y).statistic, a, b)
    np.testing.assert_allclose(spearman_bounds(a, b, there, **OPTIONS), expected, rtol=1e-5)


def test_partial_bounds_fit_the_covariate_in_each_resample(rows):
    a, b, f, there = rows

    def expected(x, y, z):
        return stats.pearsonr(left_of(x, z), left_of(y, z)).statistic

    found = partial_bounds(a, b, f, there, **OPTIONS)
    np.testing.assert_allclose(found, naive(expected, a, b, f), rtol=1e-6)


def test_mean_bounds_are_those_of_a_loop(rows):
    a, _, _, there = rows
    np.testing.assert_allclose(mean_bounds(a, there, **OPTIONS), naive(np.mean, a), rtol=1e-9)


def test_gaps_between_probes_have_no_effect(rows):
    a, b, f, there = rows
    order = np.random.default_rng(5).permutation(33)
    moved = [side[:, order] for side in (a, b, f, there)]
    compact = [np.where(there, side, np.nan) for side in (a, b)]
    first = np.argsort(~moved[3], axis=1, kind="stable")
    packed = [np.take_along_axis(side, first, 1) for side in moved]
    np.testing.assert_array_equal(
        pearson_bounds(*moved[:2], moved[3], **OPTIONS),
        pearson_bounds(packed[0], packed[1], packed[3], **OPTIONS),
    )
    assert np.isfinite(pearson_bounds(*compact, there, **OPTIONS)).all()


def test_equal_rows_have_bounds_of_exactly_one(rows):
    a, _, f, there = rows
    for found in (
        pearson_bounds(a, a.copy(), there, **OPTIONS),
        spearman_bounds(a, a.copy(), there, **OPTIONS),
        partial_bounds(a, a.copy(), f, there, **OPTIONS),
    ):
        assert (np.array(found) == 1).all()


def test_a_row_that_does_not_vary_has_no_bounds(rows):
    a, _, _, there = rows
    flat = np.where(there, 0.0, np.nan)
    assert np.isnan(pearson_bounds(a, flat, there, **OPTIONS)).all()
    assert np.isnan(spearman_bounds(a, flat, there, **OPTIONS)).all()


def test_latents_are_independent_of_each_other(rows):
    a, b, _, there = rows
    alone = pearson_bounds(a[[2]], b[[2]], there[[2]], **OPTIONS)
    together = pearson_bounds(a, b, there, **OPTIONS)
    np.testing.assert_allclose(np.array(alone)[:, 0], np.array(together)[:, 2], rtol=1e-12)


def test_bounds_agree_with_fisher_z_where_pairs_are_normal():
    generator = np.random.default_rng(2)
    x = generator.standard_normal((200, 64))
    y = 0.8 * x + 0.6 * generator.standard_normal((200, 64))
    there = np.ones((200, 64), dtype=bool)
    found = np.array(pearson_bounds(x, y, there, n_resamples=400, seed=0))
    each = (stats.pearsonr(*pair).confidence_interval(0.95) for pair in zip(x, y, strict=True))
    expected = np.array([(one.low, one.high) for one in each]).T  # scipy's is Fisher's z
    assert np.abs(np.median(found - expected, axis=1)).max() < 0.02
    assert ((found[0] < 0.8) & (found[1] > 0.8)).mean() > 0.88
