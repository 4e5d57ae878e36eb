"""Layers that quantise what they read, and models whose linear layers are quantised in place."""

import pytest
import torch
from torch import nn

from saebench.models import bits_and_bytes
from saebench.precision import parse_precision
from saebench.quantisation import (
    Float8Linear,
    Int8Linear,
    code_book,
    linear_layers,
    quantise_blocks,
    quantise_model,
    round_to_float8,
    round_to_nearest,
)
from tests.tiny_models import tiny_model


def tensors(seed=0, scale=1.0, n_in=128, n_out=96):
    g = torch.Generator().manual_seed(seed)
    weight = 0.1 * torch.randn(n_out, n_in, generator=g)
    return weight, torch.randn(n_out, generator=g), scale * torch.randn(2, 7, n_in, generator=g)


def by_hand(x, weight, bias):
    """LLM.int8 one output at a time, in Python numbers."""
    rows = x.reshape(-1, x.shape[-1]).half().float()
    outlier = (rows.abs() >= 6).any(0)
    w = weight.half().float()
    sw = w.abs().amax(1, keepdim=True)
    qw = (w * (127 / sw)).round()
    inliers = rows.masked_fill(rows.abs() >= 6, 0)
    sx = inliers.abs().amax(1, keepdim=True)
    qx = (inliers * (127 / sx)).round().masked_fill(outlier, 0)
    out = (qx @ qw.T) * (sx * sw.T) / 127**2 + bias
    exact = x.reshape(-1, x.shape[-1])[:, outlier]
    return (out + exact @ (qw * sw / 127)[:, outlier].T).view(*x.shape[:-1], -1).float()


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_int8_products_and_outliers_are_those_worked_out_by_hand(scale):
    weight, bias, x = tensors(scale=scale)
    assert bool((x.abs() >= 6).any()) == (scale > 1)
    torch.testing.assert_close(
        Int8Linear(weight, bias)(x), by_hand(x, weight, bias), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_int8_is_that_of_bitsandbytes(scale):
    """But for its constant 1/127², which its CPU code has to five digits only."""
    pytest.importorskip("bitsandbytes")
    library = bits_and_bytes.load()
    weight, bias, x = tensors(scale=scale)
    theirs = library.nn.Linear8bitLt(128, 96, has_fp16_weights=False, threshold=6.0)
    theirs.weight = library.nn.Int8Params(weight.clone(), requires_grad=False).to("cpu")
    theirs.bias.data = bias.clone()
    with torch.no_grad():
        expected = theirs.to("cpu").eval()(x)
    got = Int8Linear(weight, bias)(x)
    assert float((got - expected).abs().max()) < 3e-5 * float(expected.abs().max())
    assert float((got - nn.functional.linear(x, weight, bias)).abs().max()) > 1e-3


def test_an_outlier_of_one_token_changes_how_others_are_rounded():
    weight, _, x = tensors()
    layer = Int8Linear(weight, None)
    changed = x.clone()
    changed[1, 3, 5] = 50.0
    plain, other = layer(x), layer(changed)
    assert not torch.equal(plain[0], other[0])
    torch.testing.assert_close(plain[0], other[0], atol=0.05, rtol=0)


def test_without_outliers_the_column_counts_as_any_other():
    weight, _, x = tensors()
    layer = Int8Linear(weight, None)
    torch.testing.assert_close(layer(x)[:1], layer(x[:1]))
    assert layer(x.bfloat16()).dtype == torch.bfloat16


def test_float8_activations_are_rounded_per_token():
    weight, bias, x = tensors()
    layer = Float8Linear(weight, bias, "e4m3fn")
    expected = nn.functional.linear(round_to_float8(x), weight, bias)
    assert torch.equal(layer(x), expected)
    torch.testing.assert_close(layer(x[:, :1]), layer(x)[:, :1])
    torch.testing.assert_close(layer(4 * x) - bias, 4 * (layer(x) - bias), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma4"])
def test_every_linear_layer_is_rounded_and_the_rest_is_left_and_named(name):
    plain, model = tiny_model(name).model, tiny_model(name).model
    left = quantise_model(model, parse_precision("rtn4"))
    transposed = name == "gpt2"
    layers = linear_layers(plain)
    assert not any("head" in layer or "embed" in layer for layer in layers)
    for path, parameter in plain.named_parameters():
        got = model.get_parameter(path)
        if path.removesuffix(".weight") in layers and parameter.ndim == 2:
            w = parameter.T if transposed else parameter
            expected = round_to_nearest(w.detach(), 4)
            assert torch.equal(got, expected.T if transposed else expected)
            assert not torch.equal(got, parameter)
        else:
            assert torch.equal(got, parameter)
    embeddings = {"gpt2": ["transformer.wte", "transformer.wpe"]}
    assert left == [*embeddings.get(name, ["model.embed_tokens"]), "lm_head"]


def test_4_bit_weights_of_transposed_layers_lie_in_blocks_along_their_inputs():
    plain, model = tiny_model("gpt2").model, tiny_model("gpt2").model
    quantise_model(model, parse_precision("nf4+double"))
    w = plain.transformer.h[1].mlp.c_fc.weight.detach()
    expected = quantise_blocks(w.T.contiguous(), code_book("nf4"), double=True).dequantise().T
    assert torch.equal(model.transformer.h[1].mlp.c_fc.weight, expected)


def test_tied_unembeddings_and_repeated_blocks_are_named_once():
    model = tiny_model("gpt_neox").model
    model.gpt_neox.layers[0].extra = nn.Embedding(3, 4)
    model.gpt_neox.layers[2].extra = nn.Embedding(3, 4)
    left = quantise_model(model, parse_precision("int8"))
    assert left == ["gpt_neox.embed_in", "gpt_neox.layers.*.extra", "lm_head"]
    assert isinstance(model.gpt_neox.layers[0].mlp.dense_h_to_4h, Int8Linear)
