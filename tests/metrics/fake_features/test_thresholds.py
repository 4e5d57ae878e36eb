"""Relative thresholds: quantiles of each latent's codes, to the stated resolution and without bias."""

import numpy as np
import pytest
import torch

from saebench.errors import ConfigError
from saebench.metrics.fake_features.thresholds import (
    N_BINS,
    PER_OCTAVE,
    CodeQuantiles,
    bin_of,
    upper_edges,
)
from tests.codes_by_hand import random_codes, sparse

STEP = 2 ** (1 / PER_OCTAVE)


def quantiles_of(f):
    found = CodeQuantiles(f.shape[1])
    found.update(sparse(f))
    return found


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9, 0.99])
def test_a_threshold_is_less_than_a_bin_off_the_quantile_of_the_codes(quantile):
    f, _ = random_codes(200, scale=40.0)
    thresholds = quantiles_of(f).thresholds(quantile)
    for latent in range(f.shape[1] - 3):
        exact = quantile_by_hand(f[:, latent], quantile)
        assert exact / STEP * (1 - 1e-6) <= thresholds[latent] <= exact * STEP * (1 + 1e-6)


def quantile_by_hand(codes, quantile):
    codes = codes[codes != 0].double().numpy()
    return np.quantile(codes, quantile, method="inverted_cdf")


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_thresholds_are_not_above_quantiles_on_average(quantile):
    """400 latents of other scales: the mean error is a hundredth of a bin, not half of one."""
    generator = torch.Generator().manual_seed(1)
    scale = torch.exp(torch.rand(400, generator=generator) * 3)
    f = scale * torch.randn(2000, 400, generator=generator).abs()
    found = quantiles_of(f).thresholds(quantile).double().numpy()
    exact = np.array([quantile_by_hand(f[:, latent], quantile) for latent in range(400)])
    errors = np.log(found / exact) / np.log(STEP)
    assert abs(errors.mean()) < 0.05
    assert np.abs(errors).max() <= 1


def test_a_quantile_inside_a_bin_divides_its_logarithm():
    """Four codes in the bin that ends at 1, where it does not matter, and a quarter of them at a quarter."""
    f = torch.full((4, 1), 0.95)
    found = [quantiles_of(f).thresholds(quantile).item() for quantile in (0.25, 0.5)]
    assert found == pytest.approx([2 ** (-0.75 / PER_OCTAVE), 2 ** (-0.5 / PER_OCTAVE)])


def test_a_latent_that_never_fires_has_no_threshold():
    f, _ = random_codes()
    thresholds = quantiles_of(f).thresholds(0.5)
    dead = (f == 0).all(0)
    assert 3 <= dead.sum() < len(dead)
    assert torch.equal(torch.isinf(thresholds), dead)


def test_one_code_is_its_own_quantile():
    f = torch.tensor([[0.0], [3.0]])
    for quantile in (0.01, 0.99):
        assert 3.0 / STEP <= quantiles_of(f).thresholds(quantile).item() <= 3.0 * STEP


def test_a_code_at_an_edge_belongs_to_the_bin_below_it():
    edges = upper_edges()
    assert bin_of(edges).tolist() == list(range(N_BINS))
    assert edges[-1] == 2.0**16


def test_codes_out_of_range_are_in_the_outermost_bins():
    assert bin_of(torch.tensor([-4.0, 1e-9, 1e9])).tolist() == [0, 0, N_BINS - 1]


def test_codes_out_of_range_are_counted_and_their_thresholds_stay_in_range():
    found = quantiles_of(torch.tensor([[-4.0, 1e9, 1.0], [1e-9, 2.0**16, 0.0]]))
    described = found.describe()
    assert (described["codes_below"], described["codes_beyond"]) == (2, 1)
    low, high, _ = found.thresholds(0.5).tolist()
    assert 2.0**-16 <= low <= 2.0**-16 * STEP
    assert 2.0**16 / STEP <= high <= 2.0**16


def test_shards_merge_exactly_and_different_sizes_do_not():
    f, _ = random_codes()
    whole, first, second = quantiles_of(f), quantiles_of(f[:100]), quantiles_of(f[100:])
    first.merge(second)
    assert torch.equal(whole.counts, first.counts)
    assert whole.describe() == first.describe()
    with pytest.raises(ConfigError, match="d_sae"):
        first.merge(CodeQuantiles(3))
