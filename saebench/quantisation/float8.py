"""Rounding to 8-bit floats with one scale per row, which is an output channel or a token."""

from __future__ import annotations

import torch
from torch import Tensor

TYPES = {"e4m3fn": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


def round_to_float8(rows: Tensor, kind: str = "e4m3fn") -> Tensor:
    """``rows[..., d]`` rounded to 8-bit floats, each row scaled so that its largest value is theirs.

    A scale per row keeps small channels clear of the subnormal numbers, which a plain cast or one scale
    per tensor does not. Returned in the type of ``rows``; rows of zeros stay zero.
    """
    dtype = TYPES[kind]
    x = rows.float()
    scale = x.abs().amax(-1, keepdim=True) / torch.finfo(dtype).max
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny)
    return ((x / scale).to(dtype).float() * scale).to(rows.dtype)
