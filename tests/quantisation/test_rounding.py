"""Rounding to integers and to 8-bit floats, against closed forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saebench.quantisation import quantise_rows, round_to_float8, round_to_nearest


def test_two_bits_leave_minus_zero_and_plus_the_largest():
    w = torch.tensor([[4.0, -1.9, 2.1, -4.0], [0.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[4.0, 0.0, 4.0, -4.0], [0.0, 0.0, 0.0, 0.0]])
    assert torch.equal(round_to_nearest(w, 2), expected)


@pytest.mark.parametrize("bits", range(2, 9))
def test_multiples_of_the_scale_stay_and_errors_are_half_a_step(bits):
    levels = 2 ** (bits - 1) - 1
    grid = torch.arange(-levels, levels + 1.0).repeat(3, 1) * torch.tensor([[0.5], [1.0], [8.0]])
    assert torch.equal(round_to_nearest(grid, bits), grid)
    w = torch.randn(5, 100, generator=torch.Generator().manual_seed(bits))
    step = w.abs().amax(1, keepdim=True) / levels
    rounded = round_to_nearest(w, bits)
    assert ((rounded - w).abs() <= step / 2 * (1 + 1e-5)).all()
    assert max(len(row.unique()) for row in (rounded / step).round()) <= 2 * levels + 1


def test_each_output_channel_has_its_own_scale():
    w = torch.tensor([[1.0, 0.3], [100.0, 30.0]])
    rounded = round_to_nearest(w, 4)
    assert torch.allclose(rounded, torch.tensor([[1.0, 2 / 7], [100.0, 200 / 7]]))


def test_rows_become_integers_up_to_127():
    x = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [10.0, 5.0, -10.0]])
    integers, largest = quantise_rows(x)
    assert integers.tolist() == [[64, -127, 32], [0, 0, 0], [127, 64, -127]]
    assert largest.tolist() == [2, 0, 10]


def test_float8_values_stay_where_the_scale_is_a_power_of_two():
    grid = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    grid = grid[grid.isfinite()][None] * 2.0**-4
    assert torch.equal(round_to_float8(grid), grid)
    wide = torch.arange(256, dtype=torch.uint8).view(torch.float8_e5m2).float()
    wide = wide[wide.isfinite()][None]
    assert torch.equal(round_to_float8(wide, "e5m2"), wide)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.floats(1e-20, 1e20),
    kind=st.sampled_from([("e4m3fn", 3), ("e5m2", 2)]),
)
def test_float8_errors_are_half_a_unit_in_the_last_place(seed, size, kind):
    name, mantissa = kind
    x = size * torch.randn(3, 50, generator=torch.Generator().manual_seed(seed))
    error = (round_to_float8(x, name) - x).abs()
    largest = x.abs().amax(1, keepdim=True)
    # relative to the value, but for what lies below the smallest normal number
    assert (error <= x.abs() * 2.0 ** -(mantissa + 1) * 1.001 + largest * 2.0**-17).all()
    torch.testing.assert_close(
        round_to_float8(x, name).abs().amax(1), largest[:, 0], rtol=1e-6, atol=0
    )


def test_rounding_twice_changes_nothing_more():
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    once = round_to_float8(x)
    torch.testing.assert_close(round_to_float8(once), once, rtol=1e-6, atol=0)


def test_rows_of_zeros_and_16_bit_rows_are_kept():
    x = torch.zeros(2, 8, dtype=torch.bfloat16)
    assert torch.equal(round_to_float8(x), x)
    assert torch.equal(round_to_nearest(x, 4), x)
    half = torch.ones(2, 8, dtype=torch.float16)
    assert round_to_float8(half).dtype == round_to_nearest(half, 8).dtype == torch.float16
