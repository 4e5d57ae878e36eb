"""Shares from a matching, against counts by hand."""

import numpy as np
import pytest

from saebench.matching import Matching, cosine_histogram, shared, shared_curve


def matching(absolute=False):
    """Four rows of a, three of b: row 3 of a has no partner."""
    scores = np.array([0.9, -0.8, 0.5, np.nan])
    return Matching(
        columns=np.array([2, 0, 1, -1]), scores=scores,
        best_a=np.array([0.95, 0.2, 0.5, 0.71]), best_b=np.array([0.1, 0.71, 0.95]),
        total=0.6, bound=0.6, certified=True, n_candidates=12, rounds=1, how="dense",
        absolute=absolute,
    )  # fmt: skip


def test_shares_over_all_latents():
    found = shared(matching(), 0.7)
    assert (found.n_a, found.n_b, found.n_pairs) == (4, 3, 3)
    assert found.matched == pytest.approx(1 / 4)
    assert found.best_a == pytest.approx(2 / 4)
    assert found.best_b == pytest.approx(2 / 3)
    assert found.mean_matched == pytest.approx(0.2)
    assert found.mean_absolute == pytest.approx(2.2 / 3)


def test_absolute_scores_are_compared_where_they_were_matched():
    assert shared(matching(absolute=True), 0.7).matched == pytest.approx(2 / 4)


def test_a_pair_counts_among_the_living_only_if_both_are_alive():
    found = shared(matching(), 0.4, alive_a=[True, False, True, True], alive_b=[True, True, False])
    assert (found.n_a, found.n_b, found.n_pairs) == (3, 2, 1)
    assert found.matched == pytest.approx(1 / 3)  # row 2; row 0's partner is dead
    assert found.best_a == pytest.approx(1.0)
    assert found.best_b == pytest.approx(1 / 2)
    assert found.mean_matched == pytest.approx(0.5)


def test_shares_of_nothing_are_none():
    found = shared(matching(), alive_a=[False] * 4)
    assert found.matched is None
    assert found.best_a is None
    assert found.mean_matched is None
    assert shared_curve(matching(), alive_a=[False] * 4).matched == [None] * 19


def test_the_curve_is_the_share_at_every_threshold():
    curve = shared_curve(matching())
    assert curve.thresholds[0] == 0.05
    assert curve.thresholds[-1] == 0.95
    for i, threshold in enumerate(curve.thresholds):
        one = shared(matching(), threshold)
        assert (curve.matched[i], curve.best_a[i], curve.best_b[i]) == (
            one.matched, one.best_a, one.best_b,
        )  # fmt: skip


def test_a_score_at_the_threshold_is_not_above_it():
    assert shared(matching(), 0.9).matched == 0
    assert shared_curve(matching(), [0.9]).matched == [0]


def test_the_histogram_counts_every_pair_once_signed():
    found = cosine_histogram(matching(), [-1.0, 0.0, 0.7, 0.85])
    assert found == {"edges": [-1.0, 0.0, 0.7, 0.85], "counts": [1, 1, 1]}
    assert sum(cosine_histogram(matching())["counts"]) == 3


def test_masks_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="alive masks"):
        shared(matching(), alive_a=[True])
