"""The values that 4-bit and 8-bit codes stand for, in units of their block's scale."""

from __future__ import annotations

import torch
from torch import Tensor

OFFSET = 0.9677083  # of the outermost quantile of NF4, as published with QLoRA
_FP4_EXPONENTS = (1, 2, 3)


def code_book(name: str) -> Tensor:
    """The values ``[16]`` of ``nf4`` or ``fp4`` in ascending order, float32, from -1 to 1."""
    return nf4() if name == "nf4" else fp4()


def nf4() -> Tensor:
    """The 16 values of NormalFloat, in ascending order: quantiles of the normal distribution.

    Eight steps of equal probability above zero and seven below, zero itself, divided by the largest.
    Source: Dettmers et al. 2023, QLoRA (arXiv 2305.14314), section 3 and appendix E.
    """
    above, below = (
        torch.special.ndtri(torch.linspace(OFFSET, 0.5, n)[:-1].double()).float() for n in (9, 8)
    )
    values = torch.cat([above, above.new_zeros(1), -below]).sort().values
    return values / values.max()


def fp4() -> Tensor:
    """The 15 different values of the 4-bit float of bitsandbytes, in ascending order, over the largest.

    A sign, two bits of exponent and one of mantissa: 1 and 1.5 times 2, 4 and 8, and below them zero and
    a single subnormal number of 1/16.
    """
    normal = [2.0**exponent * mantissa for exponent in _FP4_EXPONENTS for mantissa in (1, 1.5)]
    positive = torch.tensor([1 / 16, *normal])
    return torch.cat([-positive.flip(0), positive.new_zeros(1), positive]) / positive.max()


def dynamic_map() -> Tensor:
    """The 256 values of the signed dynamic 8-bit type, in ascending order.

    In each of seven decades below 1 lie twice as many values as in the one below, each in the middle
    of an equal piece of it; zero and 1 are added. Source: Dettmers 2016, 8-Bit Approximations for
    Parallelism in Deep Learning (arXiv 1511.04561), section 2.
    """
    pieces = []
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1)
        pieces.append(10.0 ** (decade - 6) * ((edges[:-1] + edges[1:]) / 2))
    positive = torch.cat(pieces)
    return torch.cat([-positive, positive, torch.tensor([0.0, 1.0])]).sort().values
