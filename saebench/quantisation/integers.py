"""Rounding to integers with one scale per row, which is an output channel or a token."""

from __future__ import annotations

import torch
from torch import Tensor

_SMALLEST = 1e-36  # of a magnitude that 127 is divided by; rows of zeros become zeros


def round_to_nearest(weight: Tensor, bits: int) -> Tensor:
    """``weight[out, in]`` rounded to multiples of a scale per output channel, in its own type.

    ``scale = max |w| / (2^(bits - 1) - 1)``, symmetric; a value halfway goes to the even multiple.
    """
    w = weight.float()
    scale = w.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    rounded = (w / scale.clamp(min=torch.finfo(torch.float32).tiny)).round() * scale
    return rounded.to(weight.dtype)


def quantise_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Integers -127 to 127 for ``rows[n, d]``, kept as float32, and the largest magnitudes ``[n]``.

    The values are ``integers * largest / 127``. Arithmetic is done in the type of ``rows``, as LLM.int8
    does it in float16. Source: Dettmers et al. 2022, LLM.int8 (arXiv 2208.07339), section 2.
    """
    largest = rows.abs().amax(-1).float()
    factor = 127.0 / largest.clamp(min=_SMALLEST)
    return (rows * factor[:, None]).round().float(), largest
