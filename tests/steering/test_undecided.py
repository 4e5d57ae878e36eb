"""Completions without a label: their trend over strengths, and what they could hide."""

import json

import numpy as np
import pytest
from scipy import stats

from saebench.steering.dose_response import slope, spearman
from saebench.steering.undecided import Undecided

ALPHAS = (-2.0, -1.0, 0.0, 1.0, 2.0)


def world(seed, rates, n=40):
    """Classes that depend on no α; of the positives a share ``rates[A]`` goes undecided."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 5)) < 0.5).astype(float)
    labels[(rng.random((n, 5)) < np.asarray(rates)) & (labels == 1)] = np.nan
    return labels


def test_the_trend_of_undecided_is_spearmans_of_being_undecided():
    labels = world(0, np.linspace(0, 0.6, 5))
    gone = np.isnan(labels)
    found = Undecided.of(ALPHAS, labels).trend
    expected = stats.spearmanr(np.tile(ALPHAS, 40), gone.ravel()).statistic
    assert found.value == pytest.approx(expected)
    assert found.p == spearman(ALPHAS, gone.astype(float)).p


def test_positives_that_vanish_with_the_strength_are_found_out():
    """The labels that are left have a trend of their own; the test of being undecided names its cause."""
    fooled = found_out = 0
    for seed in range(40):
        labels = world(seed, np.linspace(0, 0.8, 5))
        fooled += spearman(ALPHAS, labels).p <= 0.05
        found = Undecided.of(ALPHAS, labels)
        found_out += found.trend.p <= 0.05
        assert found.as_1.trend.value > spearman(ALPHAS, labels).value
        assert found.as_1.slope.value > found.as_0.slope.value
    assert fooled >= 20
    assert found_out == 40


def test_undecided_at_the_same_rate_everywhere_has_no_trend():
    below = [Undecided.of(ALPHAS, world(seed, [0.3] * 5)).trend.p <= 0.2 for seed in range(150)]
    assert np.mean(below) <= 0.2 + 3 * np.sqrt(0.2 * 0.8 / 150)
    assert np.mean(below) > 0.05


def test_undecided_are_counted_as_either_class():
    labels = world(3, np.linspace(0, 0.6, 5))
    found = Undecided.of(ALPHAS, labels)
    for counted, value in ((found.as_0, 0.0), (found.as_1, 1.0)):
        filled = np.nan_to_num(labels, nan=value)
        assert counted.trend == spearman(ALPHAS, filled)
        assert counted.slope == slope(ALPHAS, filled)
    assert found.beside("slope")["if_undecided_0"] == found.as_0.slope.value
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("value", "reason"),
    [(1.0, "every completion was decided"), (np.nan, "no completion was decided")],
)
def test_without_a_difference_there_is_a_reason(value, reason):
    found = Undecided.of(ALPHAS, np.full((4, 5), value))
    assert found.trend.value is None
    assert found.trend.reason == reason
    assert found.beside("trend") == {}
