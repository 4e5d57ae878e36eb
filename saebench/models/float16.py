"""float16 on CPUs: for real where products are fast enough, rounded at module boundaries where not.

A CPU multiplies float16 in ``linear`` with a weight ``[out, in]`` some four times slower than float32;
in every other product it is about a hundred times slower. So GPT-2's ``Conv1D`` layers become linear
layers, with the same weights. In models with matrices of other shapes (experts side by side in one
tensor) weights and what modules return are rounded to float16, and multiplied in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

WHY_EMULATED = (
    "float16 products of stacked matrices take too long on a CPU: weights and what modules return "
    "are rounded to float16, products made in float32"
)


def make_fast(model: Any) -> str | None:
    """Ready a float16 model for a CPU; where it is emulated from now on, the reason."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            model.set_submodule(name, as_linear(module))
    if not any(parameter.ndim > 2 and _is_product(parameter) for parameter in model.parameters()):
        return None
    model.float()  # weights keep the values that float16 gave them
    for module in model.modules():
        if module is not model:
            module.register_forward_hook(_round_output)
    return WHY_EMULATED


def as_linear(layer: Conv1D) -> nn.Linear:
    """A linear layer with the weights of a ``Conv1D``."""
    n_in, n_out = layer.weight.shape
    with torch.device("meta"):
        made = nn.Linear(n_in, n_out, bias=layer.bias is not None)
    made.weight = nn.Parameter(layer.weight.detach().T.contiguous(), requires_grad=False)
    if layer.bias is not None:
        made.bias = layer.bias
    return made.train(layer.training)


def _is_product(parameter: Tensor) -> bool:
    """Whether a tensor of three dimensions is stacked matrices, not the taps of a convolution."""
    return min(parameter.shape[-2:]) > 1


def _round_output(module: nn.Module, args: tuple, output: Any) -> Any:
    if isinstance(output, Tensor):
        return _rounded(output)
    if isinstance(output, tuple):
        return tuple(_rounded(value) if isinstance(value, Tensor) else value for value in output)
    return output


def _rounded(value: Tensor) -> Tensor:
    return value.half().float() if value.dtype == torch.float32 else value
