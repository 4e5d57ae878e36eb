"""bitsandbytes, where it is there: whether it works on a device, and what is set right after loading.

Three things are kept from it. On import it would fetch a kernel from the hub where the package
``kernels`` is installed. On CPUs with AVX512-BF16 it would round scales and products of 4-bit layers
to bfloat16 whatever they are asked to compute in, so that one regime would mean other numbers on
other machines. And its CPU kernel misreads 4-bit weights whose rows are no whole blocks.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from saebench.models.failures import first_line
from saebench.precision import BLOCK, CODE_BOOKS, Precision

PACKAGES = ("bitsandbytes", "accelerate")
EXTRA = "pip install 'bitsandbytes>=0.45' 'accelerate>=1.0'"
_EXPECTED = (  # said again and again about what is meant to be so
    "Failed to load CPU gemm_4bit_forward",
    "inputs will be cast from",
)
_LOGGERS = ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions")


def backend_name() -> str:
    """``bitsandbytes`` and its version, as records have it."""
    return f"bitsandbytes {version('bitsandbytes')}"


def why_not(device: torch.device) -> str | None:
    """Why bitsandbytes cannot be used on a device; None where it can."""
    for package in PACKAGES:
        try:
            version(package)
        except PackageNotFoundError:
            return f"the package {package} is not installed"
    return _trial(device.type)


@cache
def _trial(device: str) -> str | None:
    """Why it cannot quantise a few numbers on a device; None where it can."""
    try:
        library = load()
        known = getattr(library, "supported_torch_devices", {"cuda"})
        if device not in known:
            return f"{backend_name()} has no backend for {device}"
        library.functional.quantize_4bit(torch.zeros(64, device=device), quant_type="nf4")
    except Exception as error:  # libraries that do not fit the machine fail in many ways
        return f"{backend_name()} does not work on {device} ({first_line(error)})"
    return None


def load() -> Any:
    """The package, imported without a look at the hub and without its usual remarks."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if _is_unexpected not in logger.filters:
            logger.addFilter(_is_unexpected)
    with _without("kernels"):
        import bitsandbytes
    return bitsandbytes


def _is_unexpected(record: logging.LogRecord) -> bool:
    return not any(text in record.getMessage() for text in _EXPECTED)


@contextmanager
def _without(package: str) -> Iterator[None]:
    """Let a package look as if it were not installed."""
    missing = object()
    before: Any = sys.modules.get(package, missing)
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is missing:
            del sys.modules[package]
        else:
            sys.modules[package] = before


def loading_options(precision: Precision, device: torch.device) -> dict[str, Any]:
    """What transformers takes to quantise a model of the regime while it loads."""
    from transformers import BitsAndBytesConfig

    load()
    options: dict[str, Any]
    if precision.base in CODE_BOOKS:
        options = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": precision.base,
            "bnb_4bit_use_double_quant": precision.double,
            "bnb_4bit_compute_dtype": getattr(torch, precision.compute),
        }
    else:
        options = {"load_in_8bit": True}
    return {"quantization_config": BitsAndBytesConfig(**options), "device_map": {"": device}}


def settle_layers(model: Any) -> list[str]:
    """Have 4-bit layers on a CPU compute what they are told to, and name all quantised layers."""
    library = load()
    kinds = (library.nn.Linear4bit, library.nn.Linear8bitLt)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    for name, layer in layers.items():
        if isinstance(layer, library.nn.Linear4bit) and layer.weight.device.type == "cpu":
            layer.support_avx512bf16_for_cpu = False
            if layer.in_features % BLOCK and (plain := _plain(library, layer)) is not None:
                model.set_submodule(name, plain)
    return list(layers)


def _plain(library: Any, layer: Any) -> nn.Linear | None:
    """A linear layer with the weights that the codes stand for, where a CPU's kernel gives others.

    The kernel of bitsandbytes 0.50 begins a block with every row of a matrix; where rows are no whole
    blocks, it takes the scales of the wrong ones. All codes in a single row are read correctly.
    """
    state = copy(layer.weight.quant_state)
    shape = state.shape
    by_rows = library.functional.dequantize_4bit(layer.weight.data, state)
    state.shape = torch.Size([1, shape.numel()])
    weight = library.functional.dequantize_4bit(layer.weight.data, state).reshape(shape)
    if torch.equal(weight, by_rows.reshape(shape)):
        return None
    with torch.device("meta"):
        plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    weight = weight.to(layer.compute_dtype or state.dtype)
    plain.weight = nn.Parameter(weight, requires_grad=False)
    plain.bias = layer.bias
    return plain.train(layer.training)
