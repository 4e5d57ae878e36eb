"""Trend, slope and homogeneity over strengths, against scipy, all arrangements, and a published sweep."""

from itertools import permutations, product

import numpy as np
import pytest
from scipy import stats

from saebench.steering import permutation
from saebench.steering.dose_response import (
    homogeneity,
    homogeneity_within,
    rate_trend,
    slope,
    spearman,
)
from saebench.steering.granularity import common_denominators, denominators
from saebench.steering.permutation import drawn, linear_p, permuted

ALPHAS = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
# a published sweep: the share of completions called honest at each strength
PUBLISHED = (0.647, 0.686, 0.596, 0.549, 0.769, 0.745, 0.682)


def normal(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, len(ALPHAS)))


def coins(n, seed=0, rate=0.5):
    return (np.random.default_rng(seed).random((n, len(ALPHAS))) < rate).astype(float)


def with_gaps(values, seed=1, share=0.2):
    values = values.copy()
    values[np.random.default_rng(seed).random(values.shape) < share] = np.nan
    return values


def pairs(values):
    grid = np.broadcast_to(ALPHAS, values.shape)
    there = ~np.isnan(values)
    return grid[there], values[there]


# --- the published sweep ---------------------------------------------------------------------------


def test_the_published_rates_have_no_dose_response():
    found = rate_trend(ALPHAS, PUBLISHED)
    assert found.value == pytest.approx(0.357, abs=5e-4)
    assert found.p == pytest.approx(0.44, abs=5e-3)
    assert found.test.how == "all permutations within prompts"


def test_the_published_rates_are_as_alike_as_chance_makes_them():
    found = homogeneity([51 * rate for rate in PUBLISHED], [51] * 7)
    assert found.value == pytest.approx(8.4, abs=0.05)
    assert found.p == pytest.approx(0.21, abs=5e-3)
    assert found.test.how == "χ² with 6 degrees of freedom"


def test_no_number_of_completions_below_255_gives_all_published_rates():
    assert common_denominators(PUBLISHED, most=254) == []
    fitting = [[51], [51], [47, 52, 57], [51], [52], [47, 51, 55], [44]]
    for rate, counts in zip(PUBLISHED, fitting, strict=True):
        around = [n for n in denominators(rate) if 40 <= n <= 60]
        assert around == counts


def test_denominators_are_those_of_all_fractions():
    for rate in (0.0, 1.0, 0.5, 0.333, 0.647):
        expected = [
            n
            for n in range(1, 256)
            if any(abs(k / n - rate) <= 0.0005 + 1e-12 for k in range(n + 1))
        ]
        assert denominators(rate) == expected
    assert denominators(0.33, decimals=2, most=8) == [3, 6]


# --- Spearman --------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [normal(9), coins(9), with_gaps(normal(9)), with_gaps(coins(9))])
def test_rho_is_scipys_over_all_pairs(values):
    expected = stats.spearmanr(*pairs(values)).statistic
    assert spearman(ALPHAS, values, draws=10).value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("gaps", [False, True])
def test_the_exact_p_counts_all_arrangements_within_prompts(gaps):
    values = np.array([[0.1, 0.5, 0.2, 0.9, 0.4], [1.0, 3.0, 2.0, 2.0, 7.0]])
    if gaps:
        values[0, 1] = values[1, 4] = np.nan
    alphas = ALPHAS[:5]
    there = ~np.isnan(values)
    every = []
    rows = [list(permutations(np.flatnonzero(row))) for row in there]
    for orders in product(*rows):
        moved = np.full(values.shape, np.nan)
        for i, order in enumerate(orders):
            moved[i, there[i]] = values[i, list(order)]
        grid = np.broadcast_to(alphas, values.shape)[there]
        every.append(stats.spearmanr(grid, moved[there]).statistic)
    every = np.array(every)
    observed = spearman(alphas, values)
    far = np.abs(every - every.mean()) >= abs(observed.value - every.mean()) - 1e-12
    assert observed.p == pytest.approx(far.mean(), rel=1e-9)
    assert observed.test.how.startswith("all")
    most = np.abs(every - every.mean()).max()
    smallest = (np.abs(every - every.mean()) >= most - 1e-12).mean()
    assert observed.test.smallest == pytest.approx(smallest, rel=1e-9)


def test_the_exact_p_of_many_prompts_is_what_drawing_comes_close_to():
    values = coins(30, seed=4)
    weights = np.asarray(ALPHAS)
    exact = linear_p(weights, values)
    assert exact.how.startswith("all")
    sums = drawn(weights, values, 40_000, 0)
    centre = weights.mean() * values.sum()
    observed = (values * weights).sum()
    share = (np.abs(sums - centre) >= abs(observed - centre) - 1e-9).mean()
    assert exact.p == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 40_000))


def test_drawing_counts_the_observed_arrangement():
    found = spearman(ALPHAS, np.sort(normal(20), axis=1), draws=99)
    assert found.p == pytest.approx(1 / 100)
    assert found.test.how == "99 permutations within prompts"
    assert found.test.smallest == pytest.approx(1 / 100)


def test_drawing_agrees_with_all_arrangements_where_high_strengths_are_missing(monkeypatch):
    """Prompts with high outcomes lack the high strengths: the mean under permutation is not 0."""
    values = normal(4) / 2
    values[:2] += 3
    values[:2, 4:] = np.nan
    weights = np.asarray(ALPHAS)
    monkeypatch.setattr(permutation, "MOST_SUMS", 10**9)
    values = np.round(values)  # few different sums
    exact = linear_p(weights, values)
    assert exact.how.startswith("all")
    monkeypatch.setattr(permutation, "MOST_SUMS", 0)
    found = linear_p(weights, values, draws=20_000)
    assert found.how.startswith("20,000")
    assert found.p == pytest.approx(exact.p, abs=0.02)
    assert 0.05 < exact.p < 0.95


def test_a_perfect_dose_response_is_found():
    found = spearman(ALPHAS, np.broadcast_to(ALPHAS, (12, 7)), draws=999)
    assert found.value == pytest.approx(1)
    assert found.p <= 0.001
    assert spearman(ALPHAS, -np.broadcast_to(ALPHAS, (12, 7)), draws=999).value == pytest.approx(-1)


@pytest.mark.parametrize("make", [normal, coins])
def test_p_is_uniform_where_nothing_depends_on_the_strength(make):
    """Levels differ from prompt to prompt, and some outcomes are missing: neither is an effect."""
    n_worlds = 200
    found = []
    for seed in range(n_worlds):
        rate = np.random.default_rng([seed, 9]).random((10, 1))
        values = make(10, seed=seed) if make is normal else coins(10, seed=seed, rate=rate)
        values = with_gaps(values + (10 * rate if make is normal else 0), seed=seed)
        found.append(spearman(ALPHAS, values, draws=199, seed=seed).p)
    for level in (0.05, 0.2, 0.5):
        share = np.mean(np.array(found) <= level)
        assert share <= level + 3 * np.sqrt(level * (1 - level) / n_worlds)
    assert np.mean(np.array(found) <= 0.5) > 0.35


def test_permuting_keeps_prompts_apart_and_gaps_in_place():
    values = with_gaps(normal(6))
    for block in permuted(values, 50, 0):
        assert np.array_equal(np.isnan(block), np.broadcast_to(np.isnan(values), block.shape))
        same = np.sort(np.broadcast_to(values, block.shape), axis=2)
        assert np.array_equal(np.sort(block, axis=2), same, equal_nan=True)
    assert not np.array_equal(next(permuted(values, 2, 0))[0], values, equal_nan=True)


def test_every_order_is_drawn_alike():
    block = np.concatenate(list(permuted(np.array([[1.0, 2.0, np.nan, 3.0]]), 12_000, 3)))[:, 0]
    orders, counts = np.unique(block[:, [0, 1, 3]], axis=0, return_counts=True)
    assert len(orders) == 6
    assert stats.chisquare(counts).pvalue > 0.001


def test_the_order_of_prompts_and_of_strengths_changes_nothing():
    values, order = with_gaps(coins(12)), [3, 0, 6, 1, 5, 2, 4]
    plain = spearman(ALPHAS, values)
    turned = spearman([ALPHAS[i] for i in order], values[::-1, order])
    assert turned.value == pytest.approx(plain.value, rel=1e-12)
    assert turned.p == pytest.approx(plain.p, rel=1e-9)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((4, 7), 1.0), "the same at every α"),
        (np.full((4, 7), np.nan), "0 α have an outcome"),
        (np.where(np.arange(7) < 4, normal(4), np.nan), "4 α have an outcome; a trend needs 5"),
    ],
)
def test_what_has_no_trend_says_why(values, reason):
    found = spearman(ALPHAS, values)
    assert found.value is None
    assert found.p is None
    assert reason in found.reason


# --- slope -----------------------------------------------------------------------------------------


def test_the_slope_is_least_squares_with_a_level_per_prompt():
    values = with_gaps(normal(8) + np.arange(8)[:, None])
    there = ~np.isnan(values)
    rows, columns = np.nonzero(there)
    design = np.column_stack([np.asarray(ALPHAS)[columns], np.eye(8)[rows]])
    expected = np.linalg.lstsq(design, values[there], rcond=None)[0][0]
    assert slope(ALPHAS, values).value == pytest.approx(expected, rel=1e-10)


def test_the_slope_of_a_whole_table_is_scipys():
    values = normal(8)
    assert slope(ALPHAS, values).value == pytest.approx(stats.linregress(*pairs(values)).slope)


def test_the_interval_of_the_slope_covers_the_truth():
    n_worlds, hits = 200, 0
    for seed in range(n_worlds):
        effects = 0.3 + 0.2 * np.random.default_rng([seed, 5]).standard_normal((40, 1))
        values = effects * np.asarray(ALPHAS) + normal(40, seed=seed)
        bounds = slope(ALPHAS, values).bounds
        hits += bounds.low <= 0.3 <= bounds.high
    assert 0.88 <= hits / n_worlds <= 0.99


@pytest.mark.parametrize("n_prompts", [3, 5, 10])
def test_the_interval_of_the_slope_holds_with_few_prompts(n_prompts):
    n_worlds, hits = 800, 0
    for seed in range(n_worlds):
        effects = 0.3 + 0.2 * np.random.default_rng([seed, 5]).standard_normal((n_prompts, 1))
        values = effects * np.asarray(ALPHAS) + normal(n_prompts, seed=seed)
        bounds = slope(ALPHAS, values).bounds
        hits += bounds.low <= 0.3 <= bounds.high
    assert 0.93 <= hits / n_worlds <= 0.97


def test_the_interval_of_a_whole_table_is_students_of_each_prompts_slope():
    values = normal(6)
    own = [stats.linregress(ALPHAS, row).slope for row in values]
    low, high = stats.t.interval(0.95, 5, np.mean(own), stats.sem(own))
    bounds = slope(ALPHAS, values).bounds
    assert (bounds.low, bounds.high) == (pytest.approx(low), pytest.approx(high))
    assert bounds.how == "delete-one-prompt jackknife, t with 5 degrees of freedom, 95%, 6 prompts"
    assert slope(ALPHAS, values).to_json()["interval"] == bounds.how


def test_prompts_that_all_say_the_same_give_no_interval_rather_than_one_without_width():
    one = normal(1)
    # many copies of one prompt: no variation between prompts, whatever there is within
    for values in (np.repeat(one, 30, axis=0), np.ones((30, 7))):
        bounds = slope(ALPHAS, values).bounds
        assert bounds.low is None
        assert bounds.high is None
        assert bounds.reason == "it is the same in each of 30 prompts"
    alone = slope(ALPHAS, one)
    assert alone.value is not None
    assert alone.bounds.low is None


def test_a_slope_needs_two_strengths():
    values = np.full((3, 7), np.nan)
    values[:, 2] = 1.0
    assert slope(ALPHAS, values).value is None
    assert "two α" in slope(ALPHAS, values).reason


# --- homogeneity -----------------------------------------------------------------------------------


def test_chi_square_is_that_of_the_table():
    hits, trials = np.array([3, 9, 5, 12]), np.array([20, 22, 18, 25])
    expected = stats.chi2_contingency([hits, trials - hits], correction=False)
    found = homogeneity(hits, trials)
    assert found.value == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue)
    assert homogeneity([*hits, 0], [*trials, 0]).value == pytest.approx(expected.statistic)


def test_a_rate_of_zero_or_one_everywhere_has_no_chi_square():
    assert homogeneity([0, 0], [5, 5]).value is None
    assert homogeneity([5, 5], [5, 5]).reason
    assert homogeneity([2], [5]).reason == "fewer than two α have an outcome"


def test_prompts_of_very_different_levels_make_the_plain_chi_square_too_timid():
    """The same prompts stand at every strength: what differs between them is no noise."""
    rng = np.random.default_rng(0)
    levels = np.repeat([0.02, 0.98], 30)[:, None]
    below = []
    for _ in range(200):
        values = (rng.random((60, 7)) < levels).astype(float)
        below.append(
            (homogeneity_within(values, draws=99).p, homogeneity(values.sum(0), [60] * 7).p)
        )
    within, plain = np.array(below).T
    assert (plain <= 0.2).mean() < 0.02
    assert abs((within <= 0.2).mean() - 0.2) < 0.1


def test_arrangements_with_the_same_chi_square_count_as_far():
    """Of the four arrangements of two prompts at two strengths, two have the χ² that was seen."""
    found = homogeneity_within(np.array([[1.0, 0.0], [1.0, 0.0]]), draws=4_000)
    assert found.value == pytest.approx(4)
    assert found.p == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 4_000))
    alone = homogeneity_within(np.array([[1.0, 0.0]]), draws=99)
    assert alone.p == 1


def test_one_strength_that_stands_out_is_found():
    values = coins(60, rate=0.5)
    values[:, 4] = 1
    assert homogeneity_within(values, draws=999).p == pytest.approx(0.001)
