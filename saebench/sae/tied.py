"""Dictionaries whose encoder is the transposed decoder, which is held once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from saebench.activations import Activation
from saebench.sae.config import SAEConfig
from saebench.sae.model import SAE
from saebench.sae.normalization import Normalization


class TiedSAE(SAE):
    """An :class:`SAE` that may have no encoder of its own: ``W_enc`` is then a view of ``W_decᵀ``.

    Parameters are those of :class:`SAE`; ``W_enc`` is None where the encoder is tied.
    """

    def __init__(
        self,
        cfg: SAEConfig,
        activation: Activation,
        *,
        W_dec: Tensor,
        b_dec: Tensor,
        W_enc: Tensor | None = None,
        b_in: Tensor | None = None,
        normalization: Normalization | None = None,
    ) -> None:
        super().__init__(
            cfg,
            activation,
            W_enc=W_dec.T if W_enc is None else W_enc,
            W_dec=W_dec,
            b_dec=b_dec,
            b_in=b_in,
            normalization=normalization,
        )
        self.is_tied = W_enc is None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move or cast everything; a tied encoder follows the decoder instead of being copied."""
        if not self.is_tied:
            return super()._apply(fn, recurse)
        self._buffers["W_enc"] = None
        super()._apply(fn, recurse)
        self._buffers["W_enc"] = self.W_dec.T
        return self
