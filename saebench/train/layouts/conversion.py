"""From the canonical SAE to the tensors of a layout: the same function, with other biases and units.

Every layout has its own rule for what is subtracted before the encoder, and for how inputs are
normalised. Each conversion here is exact up to the rounding of float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saebench.activations import Activation, JumpReLU, ReLU, TopK
from saebench.sae import SAE, Crosscoder
from saebench.sae.normalization import Affine, AverageNorm, ConstantNorm, LayerNorm, Normalization

LARGEST = torch.finfo(torch.float32).max
NEVER = 1e30  # no code is above it: a latent with such a threshold never fires
CHUNK = 4096  # latents whose encoder columns are held in float64 at once


@dataclass(frozen=True)
class Affinity:
    """``(x − shift) · scale`` on the way in and ``· scale_out + shift_out`` on the way out, [width]."""

    scale: Tensor
    shift: Tensor
    scale_out: Tensor
    shift_out: Tensor

    @property
    def is_inverted(self) -> bool:
        """Whether the way out undoes the way in, up to rounding."""
        product = self.scale.double() * self.scale_out.double()
        same = torch.allclose(product, torch.ones_like(product), rtol=0, atol=1e-6)
        return same and torch.equal(self.shift, self.shift_out)

    def by_source(self, n_sources: int) -> Tensor | None:
        """One scale for each source ``[n_sources]``; None where it differs between dimensions."""
        rows = self.scale.reshape(n_sources, -1)
        return rows[:, 0].clone() if bool((rows == rows[:, :1]).all()) else None


def affinity(sae: SAE) -> Affinity | None:
    """The numbers of a normalisation by shift and scale, [width]; None for any other, and for none."""
    n = sae.normalization
    width = sae.cfg.width_in
    if isinstance(n, Affine):
        parts = (n.scale, n.shift, n.scale_out, n.shift_out)
        wide = [part.detach().cpu().float().expand(width).clone() for part in parts]
        return Affinity(*wide)
    if isinstance(n, AverageNorm) and n.scale is not None:
        scale = n.scale.detach().cpu().float().repeat_interleave(width // n.n_sources)
        zero = torch.zeros(width)
        return Affinity(scale, zero, 1 / scale, zero)
    return None


def unsupported(
    sae: SAE, activations: tuple[type[Activation], ...], normalizations: tuple[type, ...]
) -> list[str]:
    """What of a dictionary has no place in a layout of these activations and normalisations.

    Sums by shift and scale count as normalisations by the class :class:`Affine`.
    """
    found = [name for name in ("latent_scale", "W_skip") if getattr(sae, name) is not None]
    if type(sae) not in (SAE, Crosscoder):
        found.append(type(sae).__name__)
    if sae.cfg.is_transcoder:
        found.append("a transcoder")
    if sae.b_enc is None or not _is_plain(sae.activation) or sae.pending:
        found.append(type(sae.activation).__name__)
    elif type(sae.activation) not in activations:
        found.append(f"the activation {type(sae.activation).__name__}")
    kind = Affine if affinity(sae) is not None else type(sae.normalization)
    if kind not in normalizations or not sae.cfg.undo_normalization:
        found.append(f"{sae.normalization.name} inputs")
    return found


def _is_plain(activation: Activation) -> bool:
    if isinstance(activation, TopK):
        return type(activation) is TopK and activation.weight is None and activation.rectify
    return type(activation) in (JumpReLU, ReLU)


BY_TOKEN = (Normalization, LayerNorm, ConstantNorm)  # of which no number is stored


def encoder_bias(sae: SAE, subtracted: Tensor | None) -> Tensor:
    """``b_enc[d_sae]`` of the same encoder where ``subtracted[width]`` is taken from its inputs.

    Both are in the units after normalisation: ``b_enc + (subtracted − b_in) W_enc``, in float64.
    """
    assert sae.b_enc is not None  # all layouts refuse encoders without one
    bias = sae.b_enc.detach().cpu().float()
    mine = torch.zeros(sae.cfg.width_in) if sae.b_in is None else sae.b_in.detach().cpu()
    theirs = torch.zeros(sae.cfg.width_in) if subtracted is None else subtracted
    return plus_product(bias, theirs.double() - mine.double(), sae.W_enc)


def plus_product(bias: Tensor, shift: Tensor, W_enc: Tensor) -> Tensor:
    """``bias[d_sae] + shift[width] W_enc``, the product in float64; ``bias`` itself where shift is 0."""
    if not bool(shift.any()):
        return bias
    W = W_enc.detach().cpu()
    added = torch.cat([shift.double() @ part.double() for part in W.split(CHUNK, dim=1)])
    return (bias.double() + added).float()


def thresholds(activation: JumpReLU, d_sae: int) -> Tensor:
    """Thresholds ``[d_sae]`` that are finite and not negative, of the same function."""
    values = activation.threshold.detach().cpu().float().expand(d_sae)
    return values.clamp(0, LARGEST).clone()


def in_dtype(values: Tensor, original: Tensor, dtype: str) -> Tensor:
    """A matrix as it is stored: in ``dtype``, or in float32 where that would change converted values.

    ``original`` is what it was converted from: a matrix that is the same is rounded as asked.
    """
    rounded = values.to(getattr(torch, dtype))
    if values is original or torch.equal(rounded.float(), values.float()):
        return rounded
    return values.float()


def apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the host, each contiguous and in memory of its own, as safetensors asks."""
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }


def numbers(values: Tensor) -> float | list[float]:
    """Values as plain JSON: one number where all are the same."""
    flat = values.reshape(-1)
    return float(flat[0]) if bool((flat == flat[0]).all()) else [float(v) for v in flat]
