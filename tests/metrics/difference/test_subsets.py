"""Which tokens belong to which subset: exact quantiles, labels, and controls with the same norms."""

from __future__ import annotations

import numpy as np
import pytest

from saebench.metrics.difference.subsets import CALIPER, counterparts, largest_share, subsets

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


def test_pairs_are_fire_tokens_and_others_with_the_same_norms():
    paired, others = counterparts(NORMS, FIRE, ~FIRE, seed=0)
    assert not (others & FIRE).any()
    assert not (paired & ~FIRE).any()
    bins = np.floor(np.log(NORMS) / np.log(CALIPER))
    for number in np.unique(bins):
        inside = bins == number
        fewer = min((inside & FIRE).sum(), (inside & ~FIRE).sum())
        assert (inside & paired).sum() == (inside & others).sum() == fewer
    ratio = np.sort(NORMS[paired]) / np.sort(NORMS[others])
    assert 1 / CALIPER < ratio.min() <= ratio.max() < CALIPER
    assert NORMS[paired].mean() == pytest.approx(NORMS[others].mean(), rel=0.01)


def test_where_the_largest_norms_are_of_fire_tokens_alone_they_are_left_out_of_both_sides():
    rng = np.random.default_rng(1)
    norms = np.r_[rng.uniform(10, 30, 60), rng.uniform(50, 90, 60), rng.uniform(1, 31, 900)]
    fire = np.arange(norms.size) < 120
    found = chosen(norms, {"fire": fire})
    paired, others = found["fire_matched"], found["matched"]
    assert paired.n_tokens == others.n_tokens >= 50
    assert norms[paired.keep].max() < 32
    means = [norms[one.keep].mean() for one in (paired, others)]
    assert means[0] == pytest.approx(means[1], rel=0.01)
    assert found["fire"].n_tokens == 120
    assert norms[fire].mean() > 1.5 * means[0]


def test_a_token_with_any_label_is_nobodys_counterpart():
    norms = np.ones(100)
    labels = {
        name: np.isin(np.arange(100) // 20, places)
        for name, places in {"fire": [0], "decision": [1], "answer": [2, 3]}.items()
    }
    found = chosen(norms, labels)
    assert np.flatnonzero(found["matched"].keep).tolist() == list(range(80, 100))
    assert (found["fire_matched"].keep == labels["fire"]).all()


def test_pairs_are_random_but_fixed_by_the_seed():
    most = ~FIRE  # more than there are others, so that either side has some to choose from
    for side, of in ((0, most), (1, FIRE)):
        one, again, other = (counterparts(NORMS, of, ~of, seed)[side] for seed in (0, 0, 1))
        assert (one == again).all()
        assert (one != other).any()


def test_every_token_of_a_bin_is_as_likely_to_be_a_counterpart():
    fire = np.arange(40) < 10
    times = sum(counterparts(np.ones(40), fire, ~fire, seed)[1] for seed in range(600))
    assert (times[10:] / 600).tolist() == pytest.approx([1 / 3] * 30, abs=0.1)


@pytest.mark.parametrize(("n_fire", "n_alike"), [(9, 9), (60, 11)])
def test_too_few_pairs_are_none_and_say_so(n_fire, n_alike):
    norms = np.r_[np.ones(n_alike), np.full(n_fire - n_alike, 9.0), np.ones(50)]
    found = chosen(norms, {"fire": np.arange(norms.size) < n_fire})
    assert found["fire_matched"].n_tokens == found["matched"].n_tokens == 0
    assert found["matched"].reason == found["fire_matched"].reason
    assert found["matched"].reason.startswith(f"{n_alike} of {n_fire} fire tokens have a counterp")


@pytest.mark.parametrize(("n_fire", "n_alike"), [(10, 10), (60, 12)])
def test_ten_pairs_and_a_fifth_of_the_fire_tokens_are_enough(n_fire, n_alike):
    norms = np.r_[np.ones(n_alike), np.full(n_fire - n_alike, 9.0), np.ones(50)]
    found = chosen(norms, {"fire": np.arange(norms.size) < n_fire})
    assert found["fire_matched"].n_tokens == found["matched"].n_tokens == n_alike


def test_norms_of_nothing_pair_with_each_other_and_those_that_are_not_finite_with_none():
    norms = np.array([0.0, np.nan, np.inf, 5.0, 0.0, np.nan, np.inf, 0.0])
    paired, others = counterparts(norms, np.arange(8) < 4, np.arange(8) >= 4, 0)
    assert np.flatnonzero(paired).tolist() == [0]
    assert others.sum() == 1
    assert norms[others] == 0


def test_without_labels_fire_and_its_match_have_the_reason():
    found = chosen(labels={})
    assert {found[name].reason for name in ("fire", "fire_matched", "matched")} == {"no labels"}
    assert found["fire"].n_tokens == found["matched"].n_tokens == 0
    assert found["top"].n_tokens == 10


def test_every_label_is_a_subset_and_an_empty_one_says_why():
    none = np.zeros(1000, dtype=bool)
    found = chosen(labels={"fire": FIRE, "answer": none}, unlabelled={"answer": "cut off"})
    assert (found["fire"].keep == FIRE).all()
    assert found["fire"].reason == ""
    assert found["answer"].reason == "cut off"
