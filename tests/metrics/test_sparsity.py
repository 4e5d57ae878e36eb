"""Firing statistics: against dense counting, brute-force jackknives and hand-made worlds."""

import math

import numpy as np
import pytest
import torch

from saebench.codes import SparseCodes
from saebench.errors import ConfigError
from saebench.metrics import sparsity
from saebench.metrics.sparsity import SparsitySums
from saebench.stats import bootstrap_weights, interval, jackknife


def sparse(f: torch.Tensor) -> SparseCodes:
    """The non-zero entries of dense codes ``f[n, d_sae]``."""
    rows, columns = f.nonzero(as_tuple=True)
    offsets = torch.zeros(f.shape[0] + 1, dtype=torch.int32)
    offsets[1:] = torch.bincount(rows, minlength=f.shape[0]).cumsum(0)
    return SparseCodes(f[rows, columns], columns.int(), offsets, f.shape[1])


def sums_of(f: torch.Tensor, sequence_ids: torch.Tensor) -> SparsitySums:
    sums = SparsitySums(f.shape[1])
    sums.update(sparse(f), sequence_ids)
    return sums


def random_codes(n_sequences=40, length=8, d_sae=30, seed=0):
    """Codes whose densities span rare to dense, some signed, the last three latents dead."""
    rng = np.random.default_rng(seed)
    density = np.geomspace(0.004, 0.5, d_sae)
    fires = rng.random((n_sequences * length, d_sae)) < density
    fires[:, -3:] = False
    f = torch.from_numpy(np.where(fires, rng.normal(size=fires.shape), 0.0))
    return f, torch.arange(n_sequences).repeat_interleave(length)


def measured(f, ids):
    return sparsity.measurements(sums_of(f, ids), n_sequences=int(ids.max()) + 1)


def test_l0_and_l1_are_those_of_the_dense_codes():
    f, ids = random_codes()
    found = measured(f, ids)
    assert found["l0@1"].value == pytest.approx(float((f != 0).sum(1).double().mean()))
    assert found["l1@1"].value == pytest.approx(float(f.abs().sum(1).mean()), rel=1e-12)
    assert found["l0@1"].detail == {
        "min": int((f != 0).sum(1).min()),
        "max": int((f != 0).sum(1).max()),
    }
    for name in ("l0@1", "l1@1"):
        assert found[name].low < found[name].value < found[name].high


def test_negative_codes_fire():
    f = torch.tensor([[0.0, -2.0, 1.0]])
    found = measured(f, torch.tensor([0]))
    assert (found["l0@1"].value, found["l1@1"].value) == (2, 3)


def test_densities_are_those_of_the_dense_codes():
    f, ids = random_codes()
    density = (f != 0).double().mean(0)
    found = measured(f, ids)
    for percent in (1, 10):
        dense = density > percent / 100
        share = found[f"freq_over_{percent}_percent@1"]
        assert share.value == pytest.approx(float(dense.double().mean()))
        mass = found[f"normalized_freq_over_{percent}_percent@1"]
        assert mass.value == pytest.approx(float(density[dense].sum() / density.sum()))
        assert mass.low <= mass.value <= mass.high


def test_dead_and_alive_add_up_to_all_latents():
    f, ids = random_codes()
    found = measured(f, ids)
    fired = (f != 0).sum(0)
    detail = found["dead_fraction@1"].detail
    assert found["alive@1"].value == int((fired > 0).sum())
    assert found["alive_10@1"].value == int((fired >= 10).sum()) == detail["fired_at_least_10"]
    assert detail["dead"] + detail["alive"] == detail["n_latents"] == 30
    assert found["dead_fraction@1"].value == pytest.approx(1 - found["alive@1"].value / 30)
    assert detail["density_upper_bound"] == pytest.approx(3 / 320)


def test_the_interval_of_dead_latents_is_the_jackknife_in_whole_latents():
    f, ids = random_codes()
    fires = f != 0
    without = [float((~fires[ids != s].any(0)).double().mean()) for s in range(40)]
    expected = jackknife(float((~fires.any(0)).double().mean()), without, bounds=(0, 1))
    found = measured(f, ids)["dead_fraction@1"]
    assert found.low * 30 == pytest.approx(min(math.floor(expected.low * 30), found.value * 30 - 1))
    assert found.high * 30 == pytest.approx(
        max(math.ceil(expected.high * 30), found.value * 30 + 1)
    )
    assert found.interval == "delete-one-block jackknife, 95%, 40 blocks, in whole latents"


def test_a_dead_fraction_that_no_block_changes_is_known_to_one_latent_and_no_better():
    f = torch.ones(80, 10)
    f[:, 7:] = 0
    found = measured(f, torch.arange(10).repeat_interleave(8))["dead_fraction@1"]
    assert (found.low, found.value, found.high) == pytest.approx((0.2, 0.3, 0.4))
    all_alive = measured(torch.ones(80, 10), torch.arange(10).repeat_interleave(8))[
        "dead_fraction@1"
    ]
    assert (all_alive.low, all_alive.value, all_alive.high) == pytest.approx((0.0, 0.0, 0.1))


def test_dense_latents_are_resampled_block_by_block_with_the_tokens_of_each():
    f, ids = random_codes(n_sequences=100)
    found = measured(f, ids)
    fires = (f != 0).double().numpy()
    expected = {"freq_over_10_percent@1": [], "normalized_freq_over_10_percent@1": []}
    for weights in bootstrap_weights(64, 2000, seed=0):
        per_token = weights[ids.numpy() % 64]
        density = per_token @ fires / per_token.sum()
        expected["freq_over_10_percent@1"].append((density > 0.1).mean())
        mass = density[density > 0.1].sum() / density.sum()
        expected["normalized_freq_over_10_percent@1"].append(mass)
    for metric, samples in expected.items():
        bounds = interval(samples)
        assert (found[metric].low, found[metric].high) == pytest.approx((bounds.low, bounds.high))
        assert found[metric].low < found[metric].high


def test_a_resample_of_sequences_overstates_death_and_the_jackknife_is_centred():
    # each latent fires in one sequence only: none is dead, a resample misses 37 % of them
    ids = torch.arange(50)
    f = torch.eye(50)
    drawn = np.random.default_rng(0).integers(0, 50, size=(200, 50))
    resampled = [1 - len(set(one)) / 50 for one in drawn.tolist()]
    assert np.mean(resampled) == pytest.approx(math.exp(-1), abs=0.01)
    found = measured(f, ids)["dead_fraction@1"]
    assert (found.value, found.low) == (0, 0)
    assert found.high < 0.1


def test_the_alive_curve_counts_latents_that_fired_in_each_prefix():
    f, ids = random_codes(n_sequences=21)
    curve = sums_of(f, ids).alive_curve()
    assert [point["n_sequences"] for point in curve] == [1, 2, 4, 8, 16, 21]
    for point in curve:
        prefix = ids < point["n_sequences"]
        assert point["alive"] == int((f[prefix] != 0).any(0).sum())
        assert point["n_tokens"] == int(prefix.sum())


@pytest.mark.parametrize(("n", "sequences"), [(1, [1]), (2, [1, 2]), (8, [1, 2, 4, 8])])
def test_the_alive_curve_ends_once_at_the_whole_window(n, sequences):
    sums = sums_of(torch.ones(n, 2), torch.arange(n))
    assert [point["n_sequences"] for point in sums.alive_curve()] == sequences
    assert sums.alive_curve()[-1]["n_tokens"] == n


def test_the_order_in_which_sequences_are_read_does_not_change_the_curve():
    f, ids = random_codes()
    order = torch.from_numpy(np.random.default_rng(1).permutation(len(ids)))
    assert sums_of(f[order], ids[order]).alive_curve() == sums_of(f, ids).alive_curve()


def test_a_window_is_too_short_when_its_last_doubling_wakes_more_than_one_percent():
    # latent j fires first in sequence j: the second half of the window wakes as many as the first
    waking = measured(torch.eye(16), torch.arange(16))["dead_fraction@1"].detail
    assert waking["alive_rise_last_doubling"] == 1.0
    assert waking["window_too_short"] is True
    settled = measured(torch.ones(16, 4), torch.arange(16))["dead_fraction@1"].detail
    assert settled["alive_rise_last_doubling"] == 0.0
    assert settled["window_too_short"] is False


def test_one_sequence_is_too_short_a_window():
    found = measured(torch.ones(5, 4), torch.zeros(5, dtype=torch.int64))["dead_fraction@1"]
    assert found.detail["alive_rise_last_doubling"] is None
    assert found.detail["window_too_short"] is True
    assert found.low is None
    assert "at least two blocks" in found.reason


def test_the_density_spectrum_counts_every_living_latent_once():
    f, ids = random_codes()
    spectrum = sparsity.curves(sums_of(f, ids))["density"]
    density = (f != 0).double().mean(0)
    alive = density[density > 0].numpy()
    assert sum(spectrum["counts"]) + spectrum["dead"] == 30
    assert spectrum["log10_edges"][0] == -8
    assert spectrum["log10_edges"][-1] == 0
    assert len(spectrum["counts"]) == 40
    assert spectrum["quantiles"]["0.5"] == pytest.approx(np.median(alive))
    bins = np.histogram(np.log10(alive), spectrum["log10_edges"])[0]
    assert spectrum["counts"] == bins.tolist()


def test_a_latent_that_always_fires_falls_into_the_last_bin():
    spectrum = sparsity.density_spectrum(sums_of(torch.ones(7, 1), torch.arange(7)))
    assert spectrum["counts"][-1] == 1


def test_shards_add_up_whatever_their_order():
    f, ids = random_codes()
    whole = measured(f, ids)
    first, second = (sums_of(f[ids % 2 == i], ids[ids % 2 == i]) for i in (0, 1))
    second.merge(first)
    merged = sparsity.measurements(second, n_sequences=40)
    for name, one in whole.items():
        assert merged[name].value == pytest.approx(one.value, rel=1e-12), name
        assert merged[name].detail == one.detail
        if one.high is not None:
            assert merged[name].high == pytest.approx(one.high, rel=1e-12), name


def test_sums_made_in_inference_mode_can_be_merged_outside_of_it():
    f, ids = random_codes()
    with torch.inference_mode():
        sums = sums_of(f, ids)
    sums.merge(sums_of(f, ids))
    assert sums.sums.n_tokens == 640


def test_an_sae_that_never_fires_is_all_dead_and_has_no_firing_mass():
    found = measured(torch.zeros(6, 4), torch.arange(6))
    assert found["dead_fraction@1"].value == 1
    assert found["l0@1"].value == 0
    assert found["normalized_freq_over_1_percent@1"].value is None
    assert found["normalized_freq_over_1_percent@1"].reason == "no latent fired"
    assert found["dead_fraction@1"].detail["window_too_short"] is False


def test_no_tokens_give_reasons_instead_of_numbers():
    sums = SparsitySums(4)
    sums.update(sparse(torch.zeros(0, 4)), torch.zeros(0, dtype=torch.int64))
    found = sparsity.measurements(sums, n_sequences=0)
    assert {one.value for one in found.values()} == {None}
    assert {one.reason for one in found.values()} == {"no token was counted"}
    assert sums.alive_curve() == []


def test_saes_of_different_widths_do_not_merge():
    with pytest.raises(ConfigError, match="d_sae"):
        SparsitySums(4).merge(SparsitySums(5))


def test_sequence_ids_may_be_large_and_have_gaps():
    sums = sums_of(torch.eye(3), torch.tensor([0, 5, 2**40]))
    assert sums.alive_curve()[-1] == {"n_sequences": 2**40 + 1, "n_tokens": 3, "alive": 3}
    assert sums.alive_curve()[3] == {"n_sequences": 8, "n_tokens": 2, "alive": 2}
