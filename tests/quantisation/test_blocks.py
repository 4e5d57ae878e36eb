"""4-bit blocks: a naive loop and bitsandbytes itself are the oracles."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saebench.models import bits_and_bytes
from saebench.quantisation import code_book, dynamic_map, quantise_blocks

EDGE = {
    "one block": torch.linspace(-1, 1, 64),
    "a short block alone": torch.tensor([0.3, -0.2, 0.1]),
    "no whole number of blocks": torch.sin(torch.arange(64.0 * 5 + 37)),
    "a block of zeros": torch.cat([torch.zeros(64), torch.sin(torch.arange(64.0))]),
    "all zeros": torch.zeros(130),
    "one huge value": torch.cat([torch.sin(torch.arange(100.0)), torch.tensor([1e30])]),
    "tiny values": 1e-36 * torch.sin(torch.arange(128.0)),
    "an odd number of values": torch.sin(torch.arange(101.0)),
}


def values(name, n=64 * 300 + 37):
    if name in EDGE:
        return EDGE[name]
    generator = torch.Generator().manual_seed(int(name))
    x = torch.randn(n, generator=generator)
    return x * torch.logspace(-3, 3, n)


@pytest.fixture(scope="module")
def functional():
    pytest.importorskip("bitsandbytes")
    return bits_and_bytes.load().functional


def theirs(functional, x, book, double):
    codes, state = functional.quantize_4bit(x, quant_type=book, compress_statistics=double)
    return functional.dequantize_4bit(codes, state).reshape(x.shape), state


@pytest.mark.parametrize("book", ["nf4", "fp4"])
@pytest.mark.parametrize("name", [*EDGE, "0", "1"])
def test_dequantised_weights_are_those_of_bitsandbytes(functional, name, book):
    x = values(name)
    got = quantise_blocks(x, code_book(book)).dequantise()
    assert torch.equal(got, theirs(functional, x, book, False)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_weights_are_quantised_as_bitsandbytes_does(functional, dtype):
    x = values("0").clamp(-1e4, 1e4).to(dtype)
    got = quantise_blocks(x, code_book("nf4")).dequantise().to(dtype)
    assert torch.equal(got, theirs(functional, x, "nf4", False)[0])


@pytest.mark.parametrize("book", ["nf4", "fp4"])
@pytest.mark.parametrize("name", [*EDGE, "0", "1"])
def test_doubly_quantised_scales_are_those_of_bitsandbytes(functional, name, book):
    """Equal, but for scales in the middle of two values, where its CPU kernel rounds by a coarse table."""
    x = values(name)
    ours = quantise_blocks(x, code_book(book), double=True)
    _, state = theirs(functional, x, book, True)
    assert float(ours.offset) == pytest.approx(float(state.offset), rel=1e-6, abs=1e-37)
    theirs_codes = state.absmax.reshape(-1).long()
    theirs_scales = functional.dequantize_blockwise(state.absmax, state.state2).reshape(-1)
    differ = ~torch.isclose(ours.scales.dequantise(), theirs_scales, rtol=1e-6, atol=1e-37)
    plain = quantise_blocks(x, code_book(book)).scales - ours.offset
    largest = ours.scales.scales.repeat_interleave(256)[: len(plain)].clamp(min=1e-38)
    unit = plain / largest
    middle = (dynamic_map()[ours.scales.codes.long()] + dynamic_map()[theirs_codes]) / 2
    assert float((unit - middle)[differ].abs().sum()) <= 2e-5 * int(differ.sum())
    assert int(differ.sum()) <= 0.02 * len(plain)
    same = ~differ.repeat_interleave(64)[: len(x)]
    expected = theirs(functional, x, book, True)[0]
    torch.testing.assert_close(ours.dequantise()[same], expected[same], rtol=1e-6, atol=1e-37)


def naive(x, book, size):
    """Nearest codes by looking at every one of them, in float64."""
    out = []
    for start in range(0, len(x), size):
        block = x[start : start + size].double()
        scale = block.abs().max()
        for value in block:
            unit = value / scale if scale > 0 else value
            out.append(book.double()[(book.double() - unit).abs().argmin()] * scale)
    return torch.stack(out)


@settings(max_examples=30, deadline=None)
@given(
    x=st.lists(
        st.floats(-1e3, 1e3, width=32).filter(lambda v: v == 0 or abs(v) > 1e-3), min_size=1
    ),
    book=st.sampled_from(["nf4", "fp4"]),
    size=st.sampled_from([4, 64]),
)
def test_every_value_takes_the_nearest_code_of_its_block(x, book, size):
    x = torch.tensor(x)
    got = quantise_blocks(x, code_book(book), size=size).dequantise().double()
    expected = naive(x, code_book(book), size)
    scale = quantise_blocks(x, code_book(book), size=size).scales.repeat_interleave(size)[: len(x)]
    # halfway between two codes either is as near
    assert ((got - x).abs() <= (expected - x).abs() + 1e-6 * scale).all()


def test_a_larger_scale_of_a_block_scales_its_values_alone():
    x = torch.sin(torch.arange(192.0))
    larger = x.clone()
    larger[64:128] *= 2.0**5
    one, two = (quantise_blocks(v, code_book("nf4")).dequantise() for v in (x, larger))
    assert torch.equal(one[64:128] * 2.0**5, two[64:128])
    assert torch.equal(one[:64], two[:64])


def test_shapes_are_kept_and_bits_counted():
    x = torch.randn(32, 512, generator=torch.Generator().manual_seed(0))
    plain = quantise_blocks(x, code_book("nf4"))
    double = quantise_blocks(x, code_book("nf4"), double=True)
    assert plain.dequantise().shape == double.dequantise().shape == x.shape
    assert plain.n_bits / x.numel() == 4.5
    # 8 bits a block of 64, and 32 for every 256 blocks and for the mean
    assert double.n_bits / x.numel() == pytest.approx(4 + 8 / 64 + (32 + 32) / x.numel())
