"""Groups compared over seeds: scipy's exact permutation test, and what few seeds can say at all."""

import numpy as np
import pytest
from scipy.stats import permutation_test

from saebench.comparison import permutation
from saebench.comparison.permutation import compare_groups
from saebench.errors import ConfigError


def by_scipy(a, b):
    def difference(x, y, axis):
        return np.mean(x, axis=axis) - np.mean(y, axis=axis)

    return permutation_test((a, b), difference, vectorized=True, n_resamples=np.inf).pvalue


@pytest.mark.parametrize(("n_a", "n_b"), [(2, 2), (3, 3), (4, 4), (2, 5), (6, 3), (5, 2)])
@pytest.mark.parametrize("seed", range(4))
def test_the_p_value_is_that_of_scipys_exact_permutation_test(n_a, n_b, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(seed, 1, n_a).tolist(), rng.normal(0, 1, n_b).tolist()
    found = compare_groups(a, b)
    assert found.exact
    assert found.p_value == pytest.approx(by_scipy(a, b), abs=1e-12)


def test_ties_count_on_both_sides_as_in_scipy():
    a, b = [0.1, 0.2, 0.3], [0.3, 0.1, 0.2]
    assert compare_groups(a, b).p_value == by_scipy(a, b) == 1.0
    a, b = [36, 38], [34, 33]
    assert compare_groups(a, b).p_value == pytest.approx(by_scipy(a, b)) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("n_a", "n_b", "p"), [(1, 1, 1.0), (2, 2, 1 / 3), (3, 3, 0.1), (4, 4, 1 / 35), (2, 3, 0.2)]
)
def test_groups_that_do_not_overlap_reach_the_smallest_p_their_sizes_allow(n_a, n_b, p):
    found = compare_groups([10.0 + i for i in range(n_a)], [float(i) for i in range(n_b)])
    assert found.smallest_p == pytest.approx(p)
    assert found.p_value == pytest.approx(found.smallest_p)


def test_the_difference_is_that_of_the_means():
    assert compare_groups([1.0, 2.0, 6.0], [4.0]).difference == -1.0


def test_a_constant_shift_or_scale_of_all_values_changes_no_p_value():
    a, b = [0.3, 0.1, 0.7], [0.2, 0.15, 0.05]
    for shift, scale in ((1e6, 1.0), (0.0, 1e-9)):
        moved = ([shift + scale * x for x in values] for values in (a, b))
        assert compare_groups(*moved).p_value == compare_groups(a, b).p_value


def test_groups_with_too_many_splits_are_dealt_at_random_and_agree_with_all_of_them(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.8, 1, 7).tolist(), rng.normal(0, 1, 7).tolist()
    exact = compare_groups(a, b)
    monkeypatch.setattr(permutation, "MAX_SPLITS", 10)
    drawn = compare_groups(a, b)
    assert not drawn.exact
    assert drawn.n_splits == 10_000
    assert drawn.smallest_p == 2 / 10_000
    assert drawn.p_value == pytest.approx(exact.p_value, abs=0.02)
    assert drawn.p_value == compare_groups(a, b).p_value


def test_a_p_value_over_random_splits_is_never_zero(monkeypatch):
    monkeypatch.setattr(permutation, "MAX_SPLITS", 10)
    found = compare_groups([100.0 + i for i in range(12)], [float(i) for i in range(12)])
    assert found.p_value == found.smallest_p


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")]])
def test_groups_without_a_number_for_every_seed_are_refused(bad):
    with pytest.raises(ConfigError, match="each seed of the second group"):
        compare_groups([1.0], bad)
