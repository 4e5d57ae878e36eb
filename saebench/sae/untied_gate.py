"""Gated dictionaries whose gate has a matrix of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saebench.activations import Activation
from saebench.errors import CheckpointError
from saebench.sae.config import SAEConfig
from saebench.sae.model import SAE


class UntiedGatedSAE(SAE):
    """``f = act(((n(x) − b_in) W_enc + b_enc) · [(n(x) − b_in) W_gate + b_gate > 0])``.

    Parameters
    ----------
    W_gate : ``[width_in, d_sae]``; b_gate : ``[d_sae]``; the others as :class:`SAE` has them.

    Raises
    ------
    CheckpointError : a tensor's shape contradicts the configuration.
    """

    W_gate: Tensor
    b_gate: Tensor

    def __init__(
        self,
        cfg: SAEConfig,
        activation: Activation,
        *,
        W_gate: Tensor,
        b_gate: Tensor,
        **parts: Any,
    ) -> None:
        super().__init__(cfg, activation, **parts)
        for name, tensor, shape in (
            ("W_gate", W_gate, (cfg.width_in, cfg.d_sae)),
            ("b_gate", b_gate, (cfg.d_sae,)),
        ):
            if tuple(tensor.shape) != shape:
                raise CheckpointError(
                    f"{name} of shape {list(shape)}",
                    f"shape {list(tensor.shape)}",
                    "Check that the gate has the orientation of the encoder.",
                )
            self.register_buffer(name, tensor)

    def _pre(self, inputs: Tensor, out: Tensor) -> Tensor:
        shifted = inputs if self.b_in is None else inputs - self.b_in
        gate = torch.addmm(self.b_gate, shifted, self.W_gate)
        return super()._pre(inputs, out).mul_(gate > 0)
