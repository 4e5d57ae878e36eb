"""Intervals of numbers of latents: every resample judges again, and the truth is inside often enough."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from saebench.metrics.fake_features.intervals import (
    SHIFTS,
    Counts,
    binomial_sd,
    cluster_noise,
    count_interval,
    judge,
    most_allowed,
)
from saebench.stats import bootstrap_weights


def counts_of(shares, n_groups, per_group, seed=0, limit=0.05):
    """Units of ``n_groups`` groups of which each latent fires on its share, independently."""
    rng = np.random.default_rng(seed)
    counts = rng.binomial(per_group, shares, size=(n_groups, len(shares)))
    units = torch.full((n_groups,), per_group, dtype=torch.int64)
    return Counts(torch.from_numpy(counts.astype(np.int32)), units, limit)


def shares_around(limit, m=60, seed=0):
    return np.clip(limit * np.random.default_rng(seed).lognormal(0, 1, m), 0, 1)


def interval_of(counts, **options):
    """The interval of the number of fake latents."""
    judged = judge(counts, everybody(counts), **options)
    drawn = [outcome.fake for outcome in judged.resamples]
    m = counts.counts.shape[1]
    return count_interval([int(outcome.fake) for outcome in judged.points], drawn, m)


def everybody(counts):
    return torch.ones(counts.counts.shape[1], dtype=torch.bool)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.29, 0.07, 1 / 3])
def test_the_most_that_is_allowed_is_the_largest_count_whose_share_is_not_above_the_limit(share):
    units = torch.arange(1, 2000, dtype=torch.float64)
    found = most_allowed(units, share)
    for n, most in zip(units.tolist(), found.tolist(), strict=True):
        assert most / n <= share < (most + 1) / n


def test_a_product_that_is_rounded_up_to_a_whole_number_allows_no_more():
    share, n = 0.873522551437514, 9_794_165
    assert share * n == 8_555_424 > Fraction(share) * n
    assert most_allowed(torch.tensor([n]).double(), share).item() == 8_555_423


def test_a_share_of_exactly_the_limit_is_not_above_it():
    for percent in range(1, 100):
        counts = Counts(torch.tensor([[percent, percent + 1]]), torch.tensor([100]), percent / 100)
        assert counts.exceeds.tolist() == [False, True]
        assert most_allowed(torch.tensor([100.0]).double(), percent / 100).item() == percent
        assert Fraction(percent, 100) == Fraction(counts.total[0].item(), counts.n)


@pytest.mark.parametrize("big", [1, 2**20])
def test_every_resample_judges_every_latent_again(big):
    """Against a loop over resamples."""
    counts = counts_of(shares_around(0.05), 24, 50)
    counts = Counts(counts.counts * big, counts.units * big, counts.share)
    real = counts_of(shares_around(0.05, seed=1), 17, 40)
    alive = torch.arange(60) % 3 > 0
    found = judge(counts, alive, real, n_resamples=50, seed=4).resamples
    weights, others = bootstrap_weights(24, 50, 4), bootstrap_weights(17, 50, 5)
    for shift, outcome in zip(SHIFTS, found, strict=True):
        for row in range(50):
            n = weights[row] @ counts.units.numpy()
            over = weights[row] @ counts.counts.double().numpy()
            usual = others[row] @ real.counts.double().numpy() / (others[row] @ real.units.numpy())
            fake, dense = (over - shift) / n > 0.05, usual > 0.05
            expected = [
                *(fake.sum(), (fake & alive.numpy()).sum()),
                *((fake & ~dense).sum(), (fake & dense).sum()),
            ]
            assert [int(values[row]) for values in vars(outcome).values()] == expected


def test_sums_too_large_for_float32_are_still_exact():
    """One unit above the limit of 2²⁵, from counts that float32 rounds to the limit."""
    counts = torch.tensor([[2**24 + 1, 2**24], [2**24, 2**24]], dtype=torch.int32)
    units = torch.full((2,), 2**25, dtype=torch.int64)
    (found,) = Counts(counts, units, 0.5).exceeding(torch.ones(1, 2, dtype=torch.float64))
    assert found.tolist() == [[True, False]]


def test_the_text_as_it_is_is_judged_as_resamples_are():
    counts, real = counts_of(shares_around(0.05), 24, 50), counts_of(shares_around(0.05), 9, 50, 2)
    alive = torch.arange(60) % 2 > 0
    found = judge(counts, alive, real)
    for shift, outcome in zip(SHIFTS, found.points, strict=True):
        (here,) = counts.exceeding(torch.ones(1, 24, dtype=torch.float64), [shift])
        assert outcome.fake == here.sum()
    assert torch.equal(counts.over(0.0), counts.exceeds)
    assert found.here.specific + found.here.dense == found.here.fake
    assert found.here.alive == (counts.exceeds & alive).sum()


def test_half_a_unit_is_between_the_counts_that_a_limit_between_them_tells_apart():
    """5 % of 256 sequences are 12.8: half a one less allows 12 as well, half a one more allows 13."""
    n = torch.tensor([256.0, 260.0], dtype=torch.float64)
    found = [most_allowed(n, 0.05, shift).tolist() for shift in SHIFTS]
    assert found == [[12, 13], [12, 12], [13, 13]]


def test_nothing_depends_on_how_many_latents_are_judged_together(monkeypatch):
    counts = counts_of(shares_around(0.05), 24, 50)
    whole, noise = judge(counts, everybody(counts), n_resamples=40), cluster_noise(counts)
    monkeypatch.setattr("saebench.metrics.fake_features.intervals.JUDGED", 40 * 7)
    parts = judge(counts, everybody(counts), n_resamples=40)
    for one, other in zip(whole.resamples, parts.resamples, strict=True):
        assert torch.equal(one.fake, other.fake)
    assert cluster_noise(counts) == noise


def test_latents_that_could_not_exceed_in_any_resample_are_not_judged():
    """Half a unit below the limit of 5, a count of 5 is above it."""
    counts = Counts(torch.tensor([[0, 4, 5, 6], [0, 4, 5, 0]]), torch.tensor([100, 100]), 0.05)
    assert counts.can_exceed().tolist() == [False, False, True, True]


def test_an_interval_holds_its_estimate_and_both_bootstrap_intervals():
    resamples = torch.arange(40, 60).repeat(100)  # all above the estimate of 30
    found = count_interval([30], [resamples], 200)
    assert (found.low, found.high) == (1 / 200, 59 / 200)
    assert found.low <= 30 / 200 <= found.high
    assert count_interval([0], [torch.tensor([0, 5, 5, 5])], 10).low == 0.0
    assert count_interval([10], [torch.tensor([10, 2, 2, 2])], 10).high == 1.0


def test_an_interval_holds_those_at_every_shift_of_the_limit():
    same = torch.full((50,), 30)
    found = count_interval([30, 36, 28], [same, same + 6, same - 2], 200)
    assert (found.low, found.high) == (28 / 200, 36 / 200)


def test_an_interval_is_at_least_one_latent_wide_either_way():
    """No resample differs: the count is still not known better than to one latent."""
    for number, expected in ((0, (0, 0.1)), (5, (0.4, 0.6)), (10, (0.9, 1))):
        found = count_interval([number] * 3, [torch.full((50,), number)] * 3, 10)
        assert (found.low, found.high) == expected
    assert "latents taken as given" in found.how


def test_one_group_gives_no_interval_and_says_why():
    counts = counts_of(shares_around(0.05), 1, 50)
    assert judge(counts, everybody(counts)).resamples is None
    found = count_interval([3], None, 60)
    assert found.low is None
    assert "two sequences" in found.reason


@pytest.mark.parametrize("n", [256, 1000])
@pytest.mark.parametrize(
    "shape", ["steep at the limit", "spread over decades", "clear of the limit"]
)
def test_the_interval_holds_the_true_number_of_latents(shape, n):
    """Planted true shares, measured 40 times: at least 85 % of the intervals hold the true number."""
    rng = np.random.default_rng(1)
    shares = {
        "steep at the limit": np.clip(0.02 + 0.0075 * rng.exponential(1.0, 800), 0, 1),
        "spread over decades": np.exp(rng.uniform(np.log(1e-4), np.log(0.6), 800)),
        "clear of the limit": np.repeat([0.005, 0.3], [700, 100]),
    }[shape]
    truth, covered = int((shares > 0.05).sum()), 0
    for repeat in range(40):
        counts = counts_of(shares, 64, n // 64, seed=repeat)
        found = interval_of(counts, n_resamples=300, seed=0)
        covered += found.low <= truth / 800 <= found.high
    assert covered >= 34


@pytest.mark.parametrize("scale", [0.02, 0.04])
def test_a_limit_between_two_attainable_shares_is_covered_as_well(scale):
    """Of 256 sequences 12.8 are the limit; without half a unit either way, .75 and .55 were covered."""
    rng, covered = np.random.default_rng(0), 0
    for repeat in range(25):
        shares = np.clip(rng.exponential(scale, 2000), 0, 1)
        found = interval_of(counts_of(shares, 128, 2, seed=repeat), n_resamples=300)
        covered += found.low <= (shares > 0.05).mean() <= found.high
    assert covered >= 24


def clustered(limit=0.1, n_groups=40, per_group=50, repeats=1):
    """Latents at the limit that fire on whole groups or not, and independent ones far from it."""
    rng = np.random.default_rng(0)
    bursts = per_group * (rng.random((n_groups, repeats)) < limit)
    far = rng.binomial(per_group, 0.5, (n_groups, 3))
    counts = np.concatenate([bursts, far], axis=1)
    units = torch.full((n_groups,), per_group, dtype=torch.int64)
    return Counts(torch.from_numpy(counts.astype(np.int32)), units, limit)


def test_the_noise_of_tokens_that_fire_together_is_that_of_their_groups():
    """Whole groups fire: the sd is that of 40 groups, 7 times that of 2,000 tokens."""
    found, n_near = cluster_noise(clustered(repeats=400))
    assert 200 < n_near <= 400
    assert found == pytest.approx(binomial_sd(0.1, 40), rel=0.1)
    assert found > 6 * binomial_sd(0.1, 2000)


def test_cluster_noise_is_that_of_a_loop_over_latents_and_uneven_groups():
    counts = counts_of(np.full(9, 0.06), 7, 40)
    counts = Counts(counts.counts, torch.tensor([40, 41, 50, 60, 44, 48, 47]), 0.05)
    n, sds = counts.n, []
    for latent in range(9):
        fires = counts.counts[:, latent].tolist()
        p = sum(fires) / n
        if 0.025 <= p <= 0.1:
            apart = [(c - p * u) ** 2 for c, u in zip(fires, counts.units.tolist(), strict=True)]
            sds.append((7 / 6 * sum(apart)) ** 0.5 / n)
    assert cluster_noise(counts) == (pytest.approx(np.median(sds)), len(sds))


def test_cluster_noise_is_unknown_without_latents_near_the_limit_or_with_one_group():
    assert cluster_noise(counts_of(np.array([0.0, 0.9]), 20, 50)) == (None, 0)
    assert cluster_noise(counts_of(np.array([0.05]), 1, 1000)) == (None, 1)


def test_threshold_noise_is_that_of_a_binomial_share():
    assert binomial_sd(0.05, 1000) == pytest.approx(0.0069, abs=5e-5)
    assert binomial_sd(0.05, 0) is None
