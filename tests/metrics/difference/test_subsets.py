"""Which tokens belong to which subset: exact quantiles, labels, and controls with the same norms."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from saebench.metrics.difference.subsets import largest_share, norm_matched, subsets

RNG = np.random.default_rng(0)
NORMS = RNG.gamma(2.0, size=1000)
FIRE = np.zeros(1000, dtype=bool)
FIRE[RNG.permutation(np.argsort(NORMS)[300:])[:120]] = True


def chosen(norms=NORMS, labels=None, **options):
    known = {"top": 0.01, "bottom": 0.5, "seed": 0, "unlabelled": {"fire": "no labels"}}
    labels = {"fire": FIRE} if labels is None else labels
    return {one.name: one for one in subsets(norms, labels, **(known | options))}


def test_the_largest_share_is_exact_and_ties_go_to_the_first():
    assert largest_share(NORMS, 0.01).sum() == 10
    assert NORMS[largest_share(NORMS, 0.01)].min() >= np.sort(NORMS)[-10]
    assert largest_share(np.ones(10), 0.3).tolist() == [True] * 3 + [False] * 7
    assert largest_share(np.ones(3), 0.01).sum() == 1
    assert not largest_share(np.ones(0), 0.5).size


def test_top_and_rest_part_the_tokens_and_bottom_is_the_smaller_half():
    found = chosen()
    assert (found["top"].keep ^ found["rest"].keep).all()
    assert found["bottom"].n_tokens == 500
    assert NORMS[found["bottom"].keep].max() <= np.sort(NORMS)[499]


def test_matched_tokens_are_others_with_the_same_norms():
    keep = norm_matched(NORMS, FIRE, seed=0)
    assert not (keep & FIRE).any()
    edges = np.quantile(NORMS[FIRE], np.linspace(0, 1, 21))
    for low, high in pairwise(edges):
        inside = (low <= NORMS) & ((high > NORMS) | (high == edges[-1])) & (edges[-1] >= NORMS)
        wanted, there = (inside & FIRE).sum(), (inside & ~FIRE).sum()
        assert (inside & keep).sum() == min(wanted, there)
    assert NORMS[keep].mean() == pytest.approx(NORMS[FIRE].mean(), rel=0.03)


def test_matched_tokens_are_random_but_fixed_by_the_seed():
    assert (norm_matched(NORMS, FIRE, 0) == norm_matched(NORMS, FIRE, 0)).all()
    assert (norm_matched(NORMS, FIRE, 0) != norm_matched(NORMS, FIRE, 1)).any()


def test_no_token_beyond_the_norms_of_fire_tokens_is_taken():
    largest = largest_share(NORMS, 0.02)
    assert not norm_matched(NORMS, largest, 0).any()
    found = chosen(labels={"fire": largest})["matched"]
    assert found.reason == "no other token has a norm as fire tokens have"


def test_one_fire_token_gets_no_more_than_one_match():
    fire = np.zeros(6, dtype=bool)
    fire[2] = True
    assert norm_matched(np.array([1.0, 2, 2, 2, 3, 2]), fire, 0).sum() == 1


def test_without_labels_fire_and_its_match_have_the_reason():
    found = chosen(labels={})
    assert {found[name].reason for name in ("fire", "matched")} == {"no labels"}
    assert found["fire"].n_tokens == found["matched"].n_tokens == 0
    assert found["top"].n_tokens == 10


def test_every_label_is_a_subset_and_an_empty_one_says_why():
    none = np.zeros(1000, dtype=bool)
    found = chosen(labels={"fire": FIRE, "answer": none}, unlabelled={"answer": "cut off"})
    assert (found["fire"].keep == FIRE).all()
    assert found["fire"].reason == ""
    assert found["answer"].reason == "cut off"
