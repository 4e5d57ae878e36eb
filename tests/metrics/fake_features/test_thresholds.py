"""Relative thresholds: quantiles of each latent's codes, to the stated resolution and never below."""

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
def test_a_threshold_is_at_most_one_bin_above_the_quantile_of_the_codes(quantile):
    f, _ = random_codes(200, scale=40.0)
    thresholds = quantiles_of(f).thresholds(quantile)
    for latent in range(f.shape[1] - 3):
        codes = f[:, latent][f[:, latent] != 0].double().numpy()
        exact = np.quantile(codes, quantile, method="inverted_cdf")
        assert exact <= thresholds[latent] <= exact * STEP * (1 + 1e-6)
        assert (codes > float(thresholds[latent])).mean() <= 1 - quantile + 1e-12


def test_a_latent_that_never_fires_has_no_threshold():
    f, _ = random_codes()
    thresholds = quantiles_of(f).thresholds(0.5)
    dead = (f == 0).all(0)
    assert 3 <= dead.sum() < len(dead)
    assert torch.equal(torch.isinf(thresholds), dead)


def test_one_code_is_its_own_quantile():
    f = torch.tensor([[0.0], [3.0]])
    for quantile in (0.01, 0.99):
        assert 3.0 <= quantiles_of(f).thresholds(quantile).item() <= 3.0 * STEP


def test_a_code_at_an_edge_belongs_to_the_bin_below_it():
    edges = upper_edges()
    assert bin_of(edges).tolist() == list(range(N_BINS))
    assert edges[-1] == 2.0**16


def test_codes_out_of_range_are_in_the_outermost_bins():
    assert bin_of(torch.tensor([-4.0, 1e-9, 1e9])).tolist() == [0, 0, N_BINS - 1]


def test_shards_merge_exactly_and_different_sizes_do_not():
    f, _ = random_codes()
    whole, first, second = quantiles_of(f), quantiles_of(f[:100]), quantiles_of(f[100:])
    first.merge(second)
    assert torch.equal(whole.counts, first.counts)
    with pytest.raises(ConfigError, match="d_sae"):
        first.merge(CodeQuantiles(3))
