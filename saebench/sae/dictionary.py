"""What every canonical model can do, whatever it reads: the surface that the pass and metrics use.

*Flat* activations are ``x[n, width_in]``: one row per token, the sources side by side where there are
several. Everything downstream works on those. ``encode``, ``decode`` and ``forward`` take and give
what a user expects: ``[..., d]`` for one source, ``[..., M, d]`` for several.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from saebench.codes import SparseCodes
from saebench.errors import CheckpointError
from saebench.sae.config import SAEConfig
from saebench.sae.normalization import Normalization


class Dictionary(nn.Module):
    """An SAE, transcoder, crosscoder or cross-layer transcoder, ready to encode and decode.

    ``needs_sequences`` is true where a token's codes depend on the tokens before it, so that
    :meth:`reconstruct_sequences` has to be used instead of :meth:`reconstruct`.
    """

    cfg: SAEConfig
    normalization: Normalization
    needs_sequences: bool = False

    @property
    def device(self) -> torch.device:
        """The device the weights are on."""
        raise TypeError(f"{type(self).__name__} must define device")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the products are computed in."""
        raise TypeError(f"{type(self).__name__} must define dtype")

    @property
    def pending(self) -> tuple[str, ...]:
        """What :meth:`calibrate` has to estimate on data because the files lack it."""
        return ()

    def calibrate(self, x: Tensor) -> dict[str, Any]:
        """Estimate on flat ``x[n, width_in]`` what is pending; returns the values by name."""
        return {}

    def encode(self, x: Tensor) -> Tensor:
        """Codes ``f[..., d_sae]`` of activations ``x[..., d_in]``, or ``x[..., n_sources, d_in]``."""
        raise TypeError(f"{type(self).__name__} must define encode")

    def decode(self, f: Tensor, x: Tensor | None = None) -> Tensor:
        """Reconstruction ``[..., d_out]``, or ``[..., n_targets, d_out]``, of codes ``f[..., d_sae]``."""
        raise TypeError(f"{type(self).__name__} must define decode")

    def codes(self, x: Tensor) -> SparseCodes:
        """The non-zero codes of flat ``x[n, width_in]``."""
        raise TypeError(f"{type(self).__name__} must define codes")

    def decode_codes(self, codes: SparseCodes, x: Tensor | None = None) -> Tensor:
        """Flat reconstruction ``x̂[n, width_out]`` of sparse codes."""
        raise TypeError(f"{type(self).__name__} must define decode_codes")

    def reconstruct(self, x: Tensor) -> tuple[SparseCodes, Tensor]:
        """``(codes, x̂[n, width_out])`` of flat ``x[n, width_in]``, with each product made once."""
        raise TypeError(f"{type(self).__name__} must define reconstruct")

    def reconstruct_sequences(self, x: Tensor, counted: Tensor) -> tuple[SparseCodes, Tensor]:
        """:meth:`reconstruct` of the counted positions of whole sequences ``x[b, t, width_in]``.

        ``counted[b, t]`` (bool) selects positions; the others are context where that matters.
        """
        return self.reconstruct(x[counted])

    def decoder_norms(self) -> Tensor:
        """Norm of each latent's direction in each target, ``[d_sae, n_targets]``, activation units.

        Where tokens are normalised one by one there is no fixed unit; then it is that of the file.
        """
        raise TypeError(f"{type(self).__name__} must define decoder_norms")

    def _ready(self) -> Self:
        """Itself; raises :class:`CheckpointError` while something has to be estimated on data."""
        if self.pending:
            raise CheckpointError(
                f"codes of a checkpoint whose files hold the {' and the '.join(self.pending)}",
                "they do not, and nothing was estimated yet",
                "Call calibrate(x) with some thousand activations, or give the value as a setting.",
            )
        return self

    def _denormalize(self, reconstruction: Tensor, x: Tensor | None) -> Tensor:
        """Flat outputs in the units of activations; ``x`` is what was encoded, where it is needed."""
        if not self.cfg.undo_normalization:
            return reconstruction
        if x is None and self.normalization.needs_input:
            raise CheckpointError(
                f"decoding codes of an SAE with {self.cfg.normalization} inputs",
                "codes without the activations they came from",
                "Pass them as x: their statistics, taken before encoding, have to be undone.",
            )
        return self.normalization.undo(reconstruction, None if x is None else x.to(self.dtype))

    def _check_width(self, x: Tensor) -> Tensor:
        """Flat activations in the dtype of the weights; raises where the width is another."""
        if x.shape[-1] != self.cfg.width_in:
            sources = f" ({self.cfg.n_sources} sources)" if self.cfg.n_sources > 1 else ""
            raise CheckpointError(
                f"activations of width d_in = {self.cfg.width_in}{sources}",
                f"width {x.shape[-1]} (shape {list(x.shape)})",
                "Check the hook point and the model this SAE was trained on.",
            )
        return x.to(self.dtype)

    def _flatten(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """``x`` as flat rows, and the leading shape that they had."""
        if self.cfg.n_sources == 1:
            return self._check_width(x).reshape(-1, self.cfg.d_in), tuple(x.shape[:-1])
        if x.ndim < 2 or tuple(x.shape[-2:]) != (self.cfg.n_sources, self.cfg.d_in):
            raise CheckpointError(
                f"activations of shape [..., {self.cfg.n_sources}, {self.cfg.d_in}] "
                "(sources, width)",
                f"shape {list(x.shape)}",
                "Stack the activations of the sources in the order of the checkpoint's config.",
            )
        return x.to(self.dtype).reshape(-1, self.cfg.width_in), tuple(x.shape[:-2])

    def _unflatten(self, y: Tensor, lead: tuple[int, ...]) -> Tensor:
        """Flat outputs ``[n, width_out]`` in the shape that belongs to ``lead``."""
        if self.cfg.n_targets == 1:
            return y.reshape(*lead, self.cfg.d_out)
        return y.reshape(*lead, self.cfg.n_targets, self.cfg.d_out)
