"""Intervals: against closed forms and SciPy, and the promises about seeds and groups."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, t
from scipy.stats import bootstrap as scipy_bootstrap

from saebench import stats


def test_every_resample_draws_as_many_groups_as_there_are():
    weights = stats.bootstrap_weights(7, 100, seed=3)
    assert weights.shape == (100, 7)
    assert weights.dtype == np.float64
    assert (weights.sum(1) == 7).all()
    assert (weights >= 0).all()


def test_the_same_seed_gives_the_same_resamples_and_another_seed_others():
    first = stats.bootstrap_weights(9, 50, seed=0)
    assert (first == stats.bootstrap_weights(9, 50, seed=0)).all()
    assert (first != stats.bootstrap_weights(9, 50, seed=1)).any()


def test_resamples_are_multinomial():
    weights = stats.bootstrap_weights(20, 20_000)
    assert weights.mean(0) == pytest.approx(np.ones(20), abs=0.04)
    assert weights.var(0) == pytest.approx(np.full(20, 1 - 1 / 20), rel=0.06)
    # the 63 % rule: a group is left out of a resample with probability (1 − 1/G)^G
    assert (weights == 0).mean() == pytest.approx((1 - 1 / 20) ** 20, abs=0.003)


def test_no_groups_give_empty_resamples():
    assert stats.bootstrap_weights(0, 5).shape == (5, 0)


def test_the_bootstrap_interval_of_a_mean_matches_its_closed_form_standard_error():
    x = np.random.default_rng(0).normal(size=300)
    found = stats.interval(stats.bootstrap_weights(300, 4000) @ x / 300)
    se = x.std() / math.sqrt(300)
    assert found.low == pytest.approx(x.mean() - 1.96 * se, abs=0.12 * se)
    assert found.high == pytest.approx(x.mean() + 1.96 * se, abs=0.12 * se)


def test_the_bootstrap_interval_of_a_ratio_matches_the_cluster_standard_error():
    # unequal clusters: se² = Σ_c (Σ_{i∈c} r_i)² / N²
    rng = np.random.default_rng(1)
    n = rng.integers(1, 40, size=400)
    total = n * rng.normal(2, 0.5, size=400)
    mean = total.sum() / n.sum()
    se = math.sqrt(((total - mean * n) ** 2).sum()) / n.sum()
    weights = stats.bootstrap_weights(400, 4000)
    found = stats.interval((weights @ total) / (weights @ n))
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * se, rel=0.05)


def test_the_percentile_interval_is_scipys():
    x = np.random.default_rng(2).gamma(2.0, size=80)
    theirs = scipy_bootstrap((x,), np.mean, method="percentile", n_resamples=8000, rng=0)
    ours = stats.interval(stats.bootstrap_weights(80, 8000) @ x / 80)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.02)


def test_an_interval_says_how_it_was_made_or_why_there_is_none():
    assert "2000 resamples" in stats.interval(np.arange(2000.0)).how
    missing = stats.interval([1.0, math.nan, 2.0])
    assert (missing.low, missing.high) == (None, None)
    assert missing.reason == "undefined in 1 of 3 resamples"
    assert stats.interval([1.0]).low is None


def test_the_jackknife_of_a_mean_is_the_t_interval():
    x = np.random.default_rng(0).normal(size=12)
    without = [np.delete(x, i).mean() for i in range(12)]
    found = stats.jackknife(x.mean(), without)
    reach = t.ppf(0.975, 11) * x.std(ddof=1) / math.sqrt(12)
    assert found.low == pytest.approx(x.mean() - reach, rel=1e-9)
    assert found.high == pytest.approx(x.mean() + reach, rel=1e-9)
    assert found.how == "delete-one-block jackknife, 95%, 12 blocks"


def test_the_jackknife_stays_inside_its_bounds():
    found = stats.jackknife(0.01, [0.0, 0.05, 0.02], bounds=(0.0, 1.0))
    assert found.low == 0.0
    assert found.high < 1.0


@pytest.mark.parametrize("without", [[], [0.5]])
def test_one_block_has_no_jackknife(without):
    assert (
        stats.jackknife(0.5, without).reason == "an interval needs sequences in at least two blocks"
    )


def test_a_block_without_which_nothing_is_defined_leaves_no_jackknife():
    assert stats.jackknife(0.5, [0.5, math.nan]).low is None


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 10, 31, 63, 200])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_t_quantiles_are_scipys(df, level):
    assert stats.t_quantile(level, df) == pytest.approx(t.ppf((1 + level) / 2, df), rel=1e-9)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (1, 1000)])
def test_wilson_is_scipys(successes, trials):
    theirs = binomtest(successes, trials).proportion_ci(method="wilson")
    found = stats.wilson(successes, trials)
    assert found.low == pytest.approx(theirs.low, abs=1e-12)
    assert found.high == pytest.approx(theirs.high, abs=1e-12)


def test_a_proportion_of_nothing_has_no_interval():
    assert stats.wilson(0, 0).reason == "a proportion needs at least one trial"


def test_the_rule_of_three_bounds_what_was_never_seen():
    assert stats.rule_of_three(81_920) == pytest.approx(3.66e-5, rel=1e-2)
    assert stats.rule_of_three(2) == 1.0
    assert stats.rule_of_three(0) is None
    # close to the exact bound, 1 − .05^(1/n)
    assert stats.rule_of_three(1000) == pytest.approx(1 - 0.05 ** (1 / 1000), rel=5e-3)
