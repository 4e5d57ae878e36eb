"""Linear layers that quantise what they read as well as their weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from saebench.quantisation.float8 import round_to_float8
from saebench.quantisation.integers import quantise_rows

OUTLIER = 6.0  # magnitude from which a column of activations is kept in 16 bits or more


class Int8Linear(nn.Module):
    """LLM.int8: integer weights per output channel, integer activations per token, outliers apart.

    A column of the input that holds a magnitude of 6 or more, in any token of the batch, is multiplied
    unquantised with the dequantised weights, as bitsandbytes does at inference; so what a token gets
    depends a little on the others. The integers are held and multiplied as float32. Below 1,041
    columns their sums are exact.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        integers, largest = quantise_rows(weight.detach().to(torch.float16))
        self.integers: Tensor
        self.largest: Tensor
        self.register_buffer("integers", integers)
        self.register_buffer("largest", largest)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.out_features, self.in_features = weight.shape

    def forward(self, x: Tensor) -> Tensor:
        """``x[..., in]`` to ``[..., out]`` in the type of ``x``."""
        rows = x.reshape(-1, x.shape[-1])
        half = rows.to(torch.float16)
        large = half.abs() >= OUTLIER
        outliers = large.any(0)
        integers, largest = quantise_rows(half.masked_fill(large, 0))
        integers.masked_fill_(outliers, 0)
        scale = (largest[:, None] * self.largest) / 127.0**2
        out = linear(integers, self.integers) * scale
        if self.bias is not None:
            out += self.bias
        out = out.to(x.dtype)
        if bool(outliers.any()):
            weight = self.integers[:, outliers] * (self.largest[:, None] / 127.0)
            out += linear(rows[:, outliers], weight.to(x.dtype))
        return out.view(*x.shape[:-1], -1)


class Float8Linear(nn.Linear):
    """A linear layer whose (already rounded) weights meet activations rounded to 8-bit floats per token.

    The products are made in the type of the weights: 8-bit ones, where a device has them, also add up
    in 32 bits.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, kind: str) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)  # type: ignore[assignment]
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """``x[..., in]`` to ``[..., out]``."""
        return linear(round_to_float8(x, self.kind), self.weight, self.bias)
