"""Pairs among all and among living latents, and shares of them, against counts by hand."""

import numpy as np
import pytest
import torch

from saebench.matching.shared import (
    THRESHOLDS,
    cosine_histogram,
    match_alive,
    match_among,
    share_above,
    shared_curve,
)

COSINES = np.array([0.9, -0.8, 0.5])

# Row 0 of a is nearest to row 1 of b, row 1 of a to both of them; all other cosines are 0.
A = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 2.0]])
B = torch.tensor([[0.0, 3.0, 0.0], [1.0, 0.0, 0.0]])


def alive(*flags):
    return np.array(flags, dtype=bool)


def pairs(matched):
    return dict(zip(matched.rows.tolist(), matched.columns.tolist(), strict=True))


def test_all_latents_are_matched_one_to_one_and_the_rest_left_out():
    found = match_among(A, B)
    assert pairs(found) == {0: 1, 1: 0}
    np.testing.assert_allclose(found.cosines, [1.0, 0.6], atol=1e-6)
    assert found.above(0.7) == {(0, 1)}
    assert found.above(0.5) == {(0, 1), (1, 0)}


def test_pairs_are_named_by_the_numbers_their_rows_have_elsewhere():
    found = match_among(A[:2], B, np.array([7, 4]), np.array([30, 20]))
    assert pairs(found) == {7: 20, 4: 30}
    assert found.above(0.7) == {(7, 20)}


def test_a_living_latent_gets_the_partner_that_a_dead_one_had():
    found = match_alive(A, B, alive(False, True, True), alive(False, True), match_among(A, B))
    assert pairs(found) == {1: 1}
    np.testing.assert_allclose(found.cosines, [0.8], atol=1e-6)  # .6 with the partner it had


def test_a_dead_latent_of_the_other_dictionary_is_no_partner():
    found = match_alive(A, B, alive(True, True, True), alive(True, False), match_among(A, B))
    assert pairs(found) == {1: 0}


def test_where_none_is_dead_the_living_are_not_matched_again():
    every = match_among(A, B)
    assert match_alive(A, B, alive(1, 1, 1), alive(1, 1), every) is every


@pytest.mark.parametrize("masks", [((0, 0, 0), (1, 1)), ((1, 0, 1), (0, 0))])
def test_where_one_side_has_no_living_latent_there_is_no_matching(masks):
    left, right = (alive(*flags) for flags in masks)
    assert match_alive(A, B, left, right, match_among(A, B)) is None


@pytest.mark.parametrize(
    ("threshold", "share"), [(-0.9, 1.0), (-0.8, 2 / 3), (0.4, 2 / 3), (0.7, 1 / 3), (0.9, 0.0)]
)
def test_a_share_counts_signed_scores_above_the_threshold_and_none_at_it(threshold, share):
    assert share_above(COSINES, threshold) == pytest.approx(share)


def test_a_share_of_nothing_is_none():
    assert share_above(np.empty(0), 0.7) is None
    assert shared_curve(np.empty(0), [0.1, 0.2])["shared"] == [None, None]


def test_the_curve_is_the_share_at_every_threshold():
    curve = shared_curve(COSINES)
    assert curve["thresholds"] == list(THRESHOLDS)
    assert (THRESHOLDS[0], THRESHOLDS[1], THRESHOLDS[-2], THRESHOLDS[-1]) == (0.0, 0.05, 0.95, 0.99)
    counts = [sum(cosine > threshold for cosine in COSINES) for threshold in THRESHOLDS]
    assert curve["shared"] == pytest.approx([n / 3 for n in counts])


def test_the_histogram_counts_every_pair_once_signed():
    found = cosine_histogram(COSINES, [-1.0, 0.0, 0.7, 0.85])
    assert found == {"edges": [-1.0, 0.0, 0.7, 0.85], "counts": [1, 1, 1]}
    assert sum(cosine_histogram(COSINES)["counts"]) == 3
