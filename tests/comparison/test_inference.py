"""Small-sample tests are those of scipy, and say what so few cells could give at all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from saebench.comparison.inference import holm, paired_interval, sign_test, spread

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=30)


@pytest.mark.parametrize(("wins", "losses", "p"), [(10, 5, 0.30), (5, 2, 0.45), (6, 0, 0.03)])
def test_the_published_win_counts_have_these_p_values(wins, losses, p):
    assert sign_test(wins, losses).p == pytest.approx(p, abs=0.005)


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_sign_test_is_the_binomial_test(wins, losses):
    found = sign_test(wins, losses, ties=3)
    if wins + losses < 2:
        assert found.p is None
        assert found.smallest_p is None
        return
    assert found.p == pytest.approx(stats.binomtest(wins, wins + losses, 0.5).pvalue)
    best = stats.binomtest(wins + losses, wins + losses, 0.5).pvalue
    assert found.smallest_p == pytest.approx(best)
    assert found.ties == 3


@given(VALUES)
def test_the_paired_interval_is_that_of_students_t(values):
    found = paired_interval(values)
    if found.low is None:
        assert np.ptp(values) <= 1e-9 * max(map(abs, values)) + 1e-12
        return
    low, high = stats.t.interval(
        0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values, ddof=1)
    )
    assert found.low == pytest.approx(low, rel=1e-6, abs=1e-9)
    assert found.high == pytest.approx(high, rel=1e-6, abs=1e-9)


def test_one_place_or_equal_differences_have_no_interval_but_a_reason():
    assert paired_interval([0.3]).reason == "an interval needs at least two places"
    assert paired_interval([0.3, 0.1 + 0.2]).low is None


def test_spread_has_ddof_1_and_one_value_has_none():
    found = spread([0.561, 0.775, 0.643])
    assert (round(found.mean, 3), round(found.sd, 3), found.n) == (0.660, 0.108, 3)
    assert spread([2.0]).sd is None
    assert spread([]).mean is None


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, None]) == pytest.approx([0.03, 0.06, 0.06, None])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_its_step_down_definition(values):
    order = np.argsort(values, kind="stable")
    naive = np.empty(len(values))
    for rank, place in enumerate(order):
        steps = [(len(values) - i) * values[order[i]] for i in range(rank + 1)]
        naive[place] = min(1.0, max(steps))
    assert holm(values) == pytest.approx(naive.tolist())
