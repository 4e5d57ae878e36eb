"""What is made of firings: numbers of latents over both denominators, and the kinds of fakes told apart."""

import json
from dataclasses import replace

import pytest
import torch

from saebench.metrics.fake_features import results
from saebench.metrics.fake_features.counting import SEQUENCE, TOKEN, FiringSums
from saebench.metrics.fake_features.intervals import NONE_NEAR
from saebench.metrics.fake_features.results import Real
from saebench.protocols import FakeProtocol
from saebench.stats import wilson
from tests.codes_by_hand import random_codes, sparse

DENSE, NOISE, USUAL, CONTENT, DEAD = range(5)
N, LENGTH = 64, 10
NAMES = {
    "fake": "fake_token",
    "alive": "fake_token_alive",
    "specific": "fake_specific",
    "dense": "fake_dense",
}
PROTOCOLS = {"token": TOKEN, "sequence": SEQUENCE}


def planted(shares):
    """``FiringSums`` of a text on which each latent has code 2 on its share of tokens, independently."""
    generator = torch.Generator().manual_seed(0)
    fires = torch.rand(N * LENGTH, len(shares), generator=generator) < torch.tensor(shares)
    return summed(2.0 * fires, torch.arange(N).repeat_interleave(LENGTH))


def summed(f, ids, protocols=PROTOCOLS, **options):
    sums = FiringSums(protocols, f.shape[1], **options)
    sums.update(sparse(f), ids)
    return sums


@pytest.fixture(scope="module")
def random():
    return planted([0.95, 0.4, 0.01, 0.0, 0.0])


@pytest.fixture(scope="module")
def real():
    return Real.of(planted([0.9, 0.0, 0.02, 0.4, 0.0]))


def measured(random, real, names=NAMES, protocol="token", **options):
    found = results.measure(names, random.counts[protocol], random, real, **options)
    return {item.name: item for item in found.values()}


def test_a_planted_dense_latent_and_a_planted_noise_detector_are_told_apart(random, real):
    found = measured(random, real)
    assert found["fake_token"].value == 2 / 5
    assert found["fake_specific"].value == 1 / 5  # the noise detector
    assert found["fake_dense"].value == 1 / 5  # the dense latent
    assert found["fake_token_alive"].value == 1 / 3  # the noise detector never fires on real text
    assert found["fake_token"].detail["fake_never_on_real"] == 1


def test_without_the_control_on_real_text_they_are_not(random, real):
    assert set(measured(random, real, {"fake": "fake_unigram"})) == {"fake_unigram"}


def test_every_ratio_has_an_interval_around_it_and_says_what_it_is_made_on(random, real):
    for name, item in measured(random, real).items():
        assert item.low <= item.value <= item.high, name
        assert "judged again" in item.interval
        assert (item.n_tokens, item.n_sequences) == (N * LENGTH, N)


def test_both_denominators_and_wilsons_interval_stand_beside_a_ratio(random, real):
    detail = measured(random, real)["fake_token"].detail
    assert (detail["count"], detail["of"]) == (2, 5)
    assert (detail["fake_over_latents"], detail["fake_over_alive"]) == (2 / 5, 1 / 3)
    assert (detail["wilson"]["low"], detail["wilson"]["high"]) == (
        wilson(2, 5).low,
        wilson(2, 5).high,
    )
    assert "independent" in detail["wilson"]["note"]


def test_wilsons_interval_is_that_of_the_published_count():
    """36 of 12,288: the rounded interval of the literature."""
    found = results._wilson(36, 12_288)
    assert (round(found["low"], 4), round(found["high"], 4)) == (0.0021, 0.0041)


def test_the_published_share_is_of_the_tokens_asked_for():
    """A latent on 11 of 100 counted tokens, where 120 were asked for: 11 % and 9 %."""
    f = torch.zeros(100, 1)
    f[:11] = 2.0
    sums = summed(f, torch.arange(10).repeat_interleave(10))
    detail = measured(sums, Real.of(sums), requested=120)["fake_token"].detail
    assert (detail["n_units"], detail["n_requested"]) == (100, 120)
    assert (detail["fake"], detail["fake_by_share_of_requested"]) == (1, 0)


def test_an_sae_without_any_firing_latent_is_measured_with_a_reason():
    dead = planted([0.0] * 4)
    for item in measured(dead, Real.of(dead)).values():
        assert item.value is None
        assert item.reason == results.ALL_DEAD
    assert results.rate_ratios(dead, Real.of(dead))["quantiles"]["0.5"] is None
    assert results.top_latents(dead.counts["token"], Real.of(dead)) == []


def test_latents_that_fire_on_random_text_alone_are_fake_and_have_no_alive_ones_to_be_a_share_of():
    noise, silent = planted([0.5, 0.0]), Real.of(planted([0.0, 0.0]))
    found = measured(noise, silent)
    assert found["fake_token"].value == found["fake_specific"].value == 0.5
    assert found["fake_token_alive"].value is None
    assert found["fake_token_alive"].reason == results.NONE_ALIVE


def test_a_single_sequence_gives_a_value_and_no_interval():
    f = torch.full((10, 2), 2.0)
    sums = summed(f, torch.zeros(10, dtype=torch.int64))
    found = measured(sums, Real.of(sums))["fake_token"]
    assert (found.value, found.low) == (1.0, None)
    assert "two sequences" in found.reason


def test_the_ratio_of_rates_is_over_alive_latents_and_counts_the_others_apart(random, real):
    found = results.rate_ratios(random, real)
    rates = random.fired.double() / real.sums.fired
    alive = [DENSE, USUAL, CONTENT]
    assert found["n_alive"] == 3
    assert found["quantiles"]["0.5"] == pytest.approx(float(rates[alive].median()))
    assert found["only_random"] == {"n": 1, "ratio": None}
    assert found["on_neither"] == 1


def test_the_latents_that_fire_most_on_random_text_are_listed_with_their_real_share(random, real):
    found = results.top_latents(random.counts["token"], real)
    assert [one["latent"] for one in found] == [DENSE, NOISE, USUAL]
    assert found[1]["real_share"] == 0.0
    assert not found[1]["fired_on_real"]
    assert found[0]["random_share"] == pytest.approx(float(random.fired[DENSE]) / random.n_tokens)


def test_the_table_has_a_row_for_each_protocol_on_a_text(random, real):
    token, sequence = results.table_rows("uniform", random, real)
    assert (token["n_units"], sequence["n_units"]) == (N * LENGTH, N)
    assert (token["fake"], token["fake_over_latents"], token["fake_over_alive"]) == (2, 0.4, 1 / 3)
    assert token["mean_share"] == pytest.approx(random.fired.double().mean().item() / (N * LENGTH))


def test_threshold_noise_of_tokens_is_that_of_sequences_and_counts_the_latents_it_may_move():
    """One latent fires on whole sequences, so that .14 is within two sd of .1, as tokens would not be."""
    f = torch.zeros(1000, 3)
    f[:140, 0], f[:500, 1] = 2.0, 2.0
    sums = summed(f, torch.arange(100).repeat_interleave(10))
    detail = measured(sums, Real.of(sums))["fake_token"].detail
    assert detail["threshold_noise"] == pytest.approx((0.14 * 0.86 / 99) ** 0.5)
    assert (detail["threshold_noise_latents"], detail["within_two_noise"]) == (1, 1)
    assert detail["fake"] == 2
    assert 0.04 > 2 * (0.1 * 0.9 / 1000) ** 0.5


def test_the_noise_of_a_share_of_sequences_is_binomial(random, real):
    found = measured(random, real, {"fake": "fake_sequence"}, "sequence")["fake_sequence"].detail
    assert found["binomial_noise"] == pytest.approx((0.05 * 0.95 / N) ** 0.5)
    assert "threshold_noise" not in found


def test_without_latents_near_the_limit_threshold_noise_is_unknown_and_says_why():
    far = planted([0.9, 0.0])
    detail = measured(far, Real.of(far))["fake_token"].detail
    assert (detail["threshold_noise"], detail["within_two_noise"]) == (None, None)
    assert detail["threshold_noise_reason"] == NONE_NEAR
    one = summed(torch.full((10, 2), 2.0), torch.zeros(10, dtype=torch.int64))
    assert measured(one, Real.of(one))["fake_token"].detail["threshold_noise"] is None


def test_alive_is_said_by_the_runs_own_text_and_rates_by_the_control(random):
    """The control is shorter: a latent that it lacks is alive, and has no ratio of rates."""
    own, control = planted([0.9, 0.0, 0.02, 0.4, 0.3]), planted([0.9, 0.0, 0.02, 0.4, 0.0])
    short = Real.of(control, own)
    assert short.alive.tolist() == [True, False, True, True, True]
    detail = measured(random, short)["fake_token"].detail
    assert (detail["n_alive"], detail["fake_over_alive"]) == (4, 1 / 4)
    ratios = results.rate_ratios(random, short)
    assert (ratios["n_alive"], ratios["n_ratios"], ratios["alive_but_not_on_control"]) == (4, 3, 1)
    alone = results.rate_ratios(random, Real.of(control))
    assert alone["quantiles"] == ratios["quantiles"]


def test_latents_without_a_relative_threshold_are_counted_apart():
    relative = FakeProtocol(relative=True, threshold=0.5)
    thresholds = torch.tensor([1.0, torch.inf, torch.inf])
    f = torch.full((20, 3), 2.0)
    f[:, 2] = 0.0
    sums = summed(
        f, torch.arange(4).repeat_interleave(5), {"configured": relative}, thresholds=thresholds
    )
    assert sums.counts["configured"].of_groups().exceeds.tolist() == [True, False, False]
    found = results.without_threshold(thresholds, sums, relative)
    assert (found["n"], found["fire_on_more_tokens_than_share"]) == (2, 1)


def test_everything_is_plain_json():
    f, ids = random_codes()
    sums = summed(f, ids, {**PROTOCOLS, "other": replace(TOKEN, threshold=0.5)})
    real = Real.of(sums)
    found = [item.to_json() for item in measured(sums, real, requested=300).values()]
    tables = [results.table_rows("x", sums, real), results.rate_ratios(sums, real)]
    json.dumps([found, *tables, results.top_latents(sums.counts["token"], real)], allow_nan=False)
