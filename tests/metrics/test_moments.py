"""Grouped moments: against NumPy, under large means, and under resampling."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saebench.errors import ConfigError
from saebench.metrics.moments import Moments
from saebench.stats import bootstrap_weights

N_GROUPS = 8


def moments_of(x: torch.Tensor, groups: torch.Tensor) -> Moments:
    moments = Moments(N_GROUPS, x.shape[1])
    moments.update(x, groups)
    return moments


def tokens(n: int = 50, d: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, N_GROUPS, (n,), generator=generator)


def test_each_group_holds_the_mean_and_centred_squares_of_its_tokens():
    x, groups = tokens()
    moments = moments_of(x, groups)
    for g in range(N_GROUPS):
        own = x[groups == g]
        assert moments.n[g] == len(own)
        assert moments.mean[g].tolist() == pytest.approx(own.mean(0).tolist())
        assert moments.m2[g].tolist() == pytest.approx(
            (own.var(0, correction=0) * len(own)).tolist()
        )


def test_pooled_moments_are_numpys_of_all_tokens():
    x, groups = tokens()
    n, mean, m2 = moments_of(x, groups).pooled()
    assert n.tolist() == [50]
    assert mean[0].tolist() == pytest.approx(x.numpy().mean(0).tolist(), rel=1e-12)
    assert m2[0].tolist() == pytest.approx((x.numpy().var(0) * 50).tolist(), rel=1e-12)


def test_a_resample_has_the_moments_of_the_tokens_it_repeats():
    x, groups = tokens()
    moments = moments_of(x, groups)
    weights = torch.from_numpy(bootstrap_weights(len(moments.present), 5, seed=1))
    n, mean, m2 = moments.pooled(weights)
    for r in range(5):
        times = weights[r].long()[torch.searchsorted(moments.present, groups)]
        drawn = x.repeat_interleave(times, 0).numpy()
        assert n[r] == len(drawn)
        assert mean[r].tolist() == pytest.approx(drawn.mean(0).tolist(), rel=1e-11)
        assert m2[r].tolist() == pytest.approx((drawn.var(0) * len(drawn)).tolist(), rel=1e-11)


def test_a_mean_ten_thousand_times_the_spread_costs_no_digits():
    x, groups = tokens(n=4000, d=4)
    shifted = (x + 1e4).float()
    _, mean, m2 = moments_of(shifted, groups).pooled()
    exact = shifted.double().numpy()
    assert m2[0].tolist() == pytest.approx((exact.var(0) * 4000).tolist(), rel=1e-10)
    assert mean[0].tolist() == pytest.approx(exact.mean(0).tolist(), rel=1e-12)


def test_an_outlier_token_does_not_hide_the_spread_of_other_groups():
    x, groups = tokens(n=200, d=2)
    x = torch.cat((torch.full((1, 2), 3e4, dtype=torch.float64), x))
    groups = torch.cat((torch.tensor([0]), groups))
    moments = moments_of(x, groups)
    own = x[groups == 5]
    assert moments.m2[5].tolist() == pytest.approx((own.var(0, correction=0) * len(own)).tolist())


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 60), max_size=4), seed=st.integers(0, 100))
def test_batches_and_order_do_not_matter(cuts, seed):
    x, groups = tokens(n=60, seed=seed)
    whole = moments_of(x + 100, groups)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(60))
    pieces = Moments(N_GROUPS, 3)
    for part in np.split(order.numpy(), sorted(cuts)):
        pieces.update((x + 100)[part], groups[part])
    assert (pieces.n == whole.n).all()
    torch.testing.assert_close(pieces.mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(pieces.m2, whole.m2, rtol=1e-10, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 100))
def test_merging_is_commutative_and_associative(seed):
    parts = [tokens(n=20, seed=seed + i) for i in range(3)]

    def merged(order):
        total = Moments(N_GROUPS, 3)
        for i in order:
            total.merge(moments_of(*parts[i]))
        return total.pooled()

    for other in ([2, 1, 0], [1, 2, 0]):
        for a, b in zip(merged([0, 1, 2]), merged(other), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_half_precision_is_summed_in_float64():
    x, groups = tokens(n=500)
    half = x.bfloat16()
    _, mean, _ = moments_of(half, groups).pooled()
    assert mean[0].tolist() == pytest.approx(half.double().mean(0).tolist(), rel=1e-12)


def test_the_callers_tensor_is_left_alone():
    x, groups = tokens()
    before = x.clone()
    moments_of(x, groups)
    assert torch.equal(x, before)


def test_moments_of_other_widths_do_not_merge():
    with pytest.raises(ConfigError, match="width"):
        Moments(8, 3).merge(Moments(8, 4))
