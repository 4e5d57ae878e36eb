"""What is done to activations before the encoder, and undone after the decoder.

Each normalisation maps ``x[n, width]`` to the units the weights were trained in and back. Some need
the activations again to undo it (``needs_input``), some need to be estimated on data first
(``pending``), because the checkpoint's files do not hold them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-5


class Normalization(nn.Module):
    """No normalisation, and the base of all others."""

    name = "none"
    needs_input = False

    @property
    def pending(self) -> bool:
        """Whether it has to be estimated on data before anything can be encoded."""
        return False

    def forward(self, x: Tensor) -> Tensor:
        """``x[n, width_in]`` in the units of the weights."""
        return x

    def undo(self, y: Tensor, x: Tensor | None) -> Tensor:
        """``y[n, width_out]`` back in the units of activations; ``x`` as it was given to forward."""
        return y

    def directions(self, W_dec: Tensor) -> Tensor:
        """Decoder rows ``[d_sae, width_out]`` in the units of activations, where that is fixed."""
        return W_dec

    def estimate(self, x: Tensor) -> None:
        """Estimate on ``x[n, width_in]`` what the files lack; nothing for most."""


class LayerNorm(Normalization):
    """``(x − mean) / (std + ε)`` per token, std unbiased; undone by ``· std + mean`` without ε.

    As SAELens' ``layer_norm``, OpenAI's top-k autoencoders and ``input_unit_norm`` of BatchTopK.
    """

    name = "layer_norm"
    needs_input = True

    def forward(self, x: Tensor) -> Tensor:
        """Standardised tokens."""
        shift = x.mean(-1, keepdim=True)
        return (x - shift) / (x.std(-1, keepdim=True) + LAYER_NORM_EPS)

    def undo(self, y: Tensor, x: Tensor | None) -> Tensor:
        """The token's own mean and spread put back."""
        assert x is not None
        return y * x.std(-1, keepdim=True) + x.mean(-1, keepdim=True)


class ConstantNorm(Normalization):
    """Every token scaled to norm ``√d``: SAELens' ``constant_norm_rescale``.

    Of ``n_sources`` side by side, each is scaled by its own norm.
    """

    name = "constant_norm_rescale"
    needs_input = True

    def __init__(self, n_sources: int = 1) -> None:
        super().__init__()
        self.n_sources = n_sources

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of one norm; a zero vector stays zero."""
        return x / self._scale(x)

    def undo(self, y: Tensor, x: Tensor | None) -> Tensor:
        """The token's own norm put back."""
        assert x is not None
        return y * self._scale(x)

    def _scale(self, x: Tensor) -> Tensor:
        sources = x.reshape(*x.shape[:-1], self.n_sources, -1)
        norm = sources.norm(dim=-1, keepdim=True)
        scale = torch.where(norm > 0, norm, 1) / sources.shape[-1] ** 0.5
        return (
            scale[..., 0, :] if self.n_sources == 1 else scale.expand_as(sources).reshape(x.shape)
        )


class Affine(Normalization):
    """``(x − shift) · scale`` with numbers that the checkpoint stores; undone by ``· scale_out + shift_out``.

    Each is a scalar tensor or as wide as what it meets (``width_in``, ``width_out``); ``scale_out``
    defaults to ``1 / scale`` and ``shift_out`` to ``shift``.
    """

    name = "affine"
    scale: Tensor
    shift: Tensor
    scale_out: Tensor
    shift_out: Tensor

    def __init__(
        self,
        scale: Tensor,
        shift: Tensor | None = None,
        *,
        scale_out: Tensor | None = None,
        shift_out: Tensor | None = None,
    ) -> None:
        super().__init__()
        shift = torch.zeros_like(scale) if shift is None else shift
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.register_buffer("scale_out", 1 / scale if scale_out is None else scale_out)
        self.register_buffer("shift_out", shift if shift_out is None else shift_out)

    def forward(self, x: Tensor) -> Tensor:
        """Shifted and scaled activations."""
        return (x - self.shift) * self.scale

    def undo(self, y: Tensor, x: Tensor | None) -> Tensor:
        """Activations from shifted and scaled ones."""
        return y * self.scale_out + self.shift_out

    def directions(self, W_dec: Tensor) -> Tensor:
        """Decoder rows in the units of activations."""
        return W_dec * self.scale_out


class Whitening(Normalization):
    """``(x − mean) M``, undone by ``y M⁻¹ + mean``: SAELens' ``covariance_whitening``."""

    name = "covariance_whitening"
    mean: Tensor
    matrix: Tensor
    inverse: Tensor

    def __init__(self, mean: Tensor, matrix: Tensor, inverse: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("matrix", matrix)
        self.register_buffer("inverse", inverse)

    def forward(self, x: Tensor) -> Tensor:
        """Whitened activations."""
        return (x - self.mean) @ self.matrix

    def undo(self, y: Tensor, x: Tensor | None) -> Tensor:
        """Activations from whitened ones."""
        return y @ self.inverse + self.mean

    def directions(self, W_dec: Tensor) -> Tensor:
        """Decoder rows in the units of activations."""
        return W_dec @ self.inverse


class AverageNorm(Normalization):
    """Each source scaled so that its mean norm is ``√d``, by factors that the files do not store.

    The factors ``√d / mean ‖x_m‖`` are estimated on data, one for each of ``n_sources``.
    """

    name = "average_norm"
    scale: Tensor | None

    def __init__(self, n_sources: int, scale: Tensor | None = None) -> None:
        super().__init__()
        self.n_sources = n_sources
        self.register_buffer("scale", scale)

    @property
    def pending(self) -> bool:
        """Whether the factors are still unknown."""
        return self.scale is None

    def estimate(self, x: Tensor) -> None:
        """Take the factors from ``x[n, n_sources · d]``."""
        sources = x.reshape(x.shape[0], self.n_sources, -1)
        mean_norm = sources.double().norm(dim=-1).mean(0)
        self.scale = (sources.shape[-1] ** 0.5 / mean_norm).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Scaled activations."""
        return (self._by_source(x) * self._factors()).reshape(x.shape)

    def undo(self, y: Tensor, x: Tensor | None) -> Tensor:
        """Activations from scaled ones."""
        return (self._by_source(y) / self._factors()).reshape(y.shape)

    def directions(self, W_dec: Tensor) -> Tensor:
        """Decoder rows in the units of activations, as far as those are known."""
        return W_dec if self.scale is None else self.undo(W_dec, None)

    def _by_source(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.n_sources, -1)

    def _factors(self) -> Tensor:
        assert self.scale is not None  # the dictionary refuses to encode while it is pending
        return self.scale[:, None]


def by_name(name: str) -> Normalization:
    """The normalisation of a name that needs no numbers from a checkpoint.

    Raises :class:`KeyError` for any other name.
    """
    kinds = {kind.name: kind for kind in (Normalization, LayerNorm, ConstantNorm)}
    return kinds[name]()
