"""Quantising the linear layers of a model in memory, and saying what was left as it was."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from saebench.precision import CODE_BOOKS, Precision
from saebench.quantisation.blocks import quantise_blocks
from saebench.quantisation.code_books import code_book
from saebench.quantisation.float8 import round_to_float8
from saebench.quantisation.integers import round_to_nearest
from saebench.quantisation.layers import Float8Linear, Int8Linear

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


def linear_layers(model: Any) -> dict[str, nn.Module]:
    """The linear layers of a causal language model by name, the unembedding left out.

    A linear layer is a :class:`torch.nn.Linear` or GPT-2's ``Conv1D``, which holds its weight
    transposed.
    """
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if module is not head and (type(module) is nn.Linear or isinstance(module, Conv1D))
    }


@torch.no_grad()
def quantise_model(model: Any, precision: Precision) -> list[str]:
    """Quantise every linear layer of a model in place, and name the matrices that were left alone.

    Weights are held dequantised, in the type that the model computes in: the model takes as much
    memory as without quantisation. What the layers compute is what packed codes would give.
    """
    layers = linear_layers(model)
    for name, layer in layers.items():
        _quantise_layer(model, name, layer, precision)
    return unquantised(model, layers)


def _quantise_layer(model: Any, name: str, layer: Any, precision: Precision) -> None:
    transposed = isinstance(layer, Conv1D)
    weight = layer.weight.T.contiguous() if transposed else layer.weight
    if precision.base == "int8":
        model.set_submodule(name, Int8Linear(weight, layer.bias))
        return
    rounded = _rounded(weight, precision)
    if precision.activations:
        model.set_submodule(name, Float8Linear(rounded, layer.bias, precision.float8))
    else:
        layer.weight.copy_(rounded.T if transposed else rounded)


def _rounded(weight: Tensor, precision: Precision) -> Tensor:
    """``weight[out, in]`` as the regime has it, dequantised."""
    if precision.base in CODE_BOOKS:
        book = code_book(precision.base)
        return quantise_blocks(weight, book, double=precision.double).dequantise().to(weight.dtype)
    if precision.base == "rtn":
        assert precision.bits is not None
        return round_to_nearest(weight, precision.bits)
    return round_to_float8(weight, precision.float8)


def unquantised(model: Any, layers: Any) -> list[str]:
    """The modules outside ``layers`` that hold matrices, block numbers as ``*``, in order, each once."""
    return list(dict.fromkeys(_NUMBER.sub("*", name) for name in _matrices(model, layers)))


def _matrices(model: Any, layers: Any) -> Iterator[str]:
    for name, module in model.named_modules():
        own = module.parameters(recurse=False)
        if name not in layers and any(parameter.ndim > 1 for parameter in own):
            yield name
