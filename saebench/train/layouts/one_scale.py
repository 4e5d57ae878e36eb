"""A dictionary in the units of a normaliser with one scale for each source, as some layouts have it.

With ``h = (x − m) · s`` here and ``h' = (x − m) · g`` there, ``r = s / g``: ``W_enc' = r W_enc``, ``W_dec' =
W_dec / r``, ``b_dec' = b_dec / r``. Codes stay as they are; decoder norms are those in units of ``h'``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from saebench.sae import SAE
from saebench.train.layouts.conversion import Affinity, affinity, in_dtype, plus_product


@dataclass(frozen=True)
class Rescaled:
    """Weights behind ``h' = (x − mean) · scale``: sources side by side, ``W_enc`` and ``W_dec`` as stored.

    ``scale[M]`` (None: inputs as they are), ``mean[width]`` and ``spread[width]``: the standard deviations
    that belong to inputs scaled to a root mean squared norm of √d, as far as the scales tell them.
    ``unit`` is the power of two that all scales were multiplied by. ``left[width]`` is ``r`` above.
    """

    sae: SAE
    W_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    scale: Tensor | None
    mean: Tensor | None
    spread: Tensor | None
    unit: float
    left: Tensor

    def encoder_bias(self, *, subtracts: bool) -> Tensor:
        """``b_enc[d_sae]`` where ``b_dec`` is taken from the normalised inputs, or is not."""
        sae = self.sae
        assert sae.b_enc is not None  # all layouts refuse encoders without one
        offset = torch.zeros(sae.cfg.width_in, dtype=torch.float64)
        if subtracts:
            offset += self.b_dec.double() * self.left
        if sae.b_in is not None:
            offset -= sae.b_in.detach().cpu().double()
        return plus_product(sae.b_enc.detach().cpu().float(), offset, sae.W_enc)


def rescaled(sae: SAE, smallest: float) -> Rescaled:
    """The dictionary with one scale for each source, none of them below ``smallest``.

    Where scales differ between the dimensions of the one source, the common one keeps the total
    variance of inputs. Raises nothing: what cannot be is refused by whoever asks.
    """
    by, cfg = affinity(sae), sae.cfg
    W_enc, W_dec = sae.W_enc, sae.W_dec
    b_dec = sae.b_dec.detach().cpu().float()
    ones = torch.ones(cfg.width_in)
    if by is None:
        W_enc, W_dec = (in_dtype(W, W, cfg.dtype) for W in (W_enc, W_dec))
        return Rescaled(sae, W_enc, W_dec, b_dec, None, None, None, 1.0, ones)
    scale = _common(by, cfg.n_sources)
    unit = 2.0 ** max(0, math.ceil(math.log2(smallest / float(scale.min()))))
    scale = scale * unit
    left = by.scale / scale.repeat_interleave(cfg.d_in)
    inner_enc, inner_dec = W_enc, W_dec
    if not torch.equal(left, ones):
        inner_enc = W_enc.detach().cpu().float() * left[:, None]
        inner_dec = W_dec.detach().cpu().float() / left
    return Rescaled(
        sae,
        in_dtype(inner_enc, W_enc, cfg.dtype),
        in_dtype(inner_dec, W_dec, cfg.dtype),
        b_dec / left,
        scale,
        by.shift,
        1 / by.scale,
        unit,
        left,
    )


def _common(by: Affinity, n_sources: int) -> Tensor:
    """One scale for each source ``[n_sources]``: that of all its dimensions, or the one of their variance."""
    same = by.by_source(n_sources)
    if same is not None:
        return same
    variance = by.scale.double().reshape(n_sources, -1).pow(-2).mean(1)
    return variance.rsqrt().float()
