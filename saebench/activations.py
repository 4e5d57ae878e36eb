"""Activation functions of SAE encoders, as small modules that select which latents fire.

Each maps pre-activations ``pre[n, d_sae]`` to codes in two equivalent forms: ``dense`` gives
``f[n, d_sae]``, ``select`` gives only the entries that are not zero. A latent is *active* on a token
when its code is not zero (``f != 0``), which is the one rule that also counts signed codes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Selected(NamedTuple):
    """The non-zero codes of some rows: ``counts[n]`` per row, then ``indices`` and ``values``."""

    counts: Tensor
    indices: Tensor
    values: Tensor


def _select_where(active: Tensor, codes: Tensor) -> Selected:
    """Read the entries of ``codes[n, d_sae]`` where ``active[n, d_sae]``, row by row."""
    rows, columns = active.nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=active.shape[0])
    return Selected(counts, columns, codes[rows, columns])


class Activation(nn.Module):
    """Base of all activation functions; ``k`` is the number kept per token where that is fixed."""

    k: int | None = None

    def dense(self, pre: Tensor) -> Tensor:
        """Codes ``f[..., d_sae]`` of pre-activations ``pre[..., d_sae]``."""
        raise TypeError(f"{type(self).__name__} must define dense")

    def select(self, pre: Tensor) -> Selected:
        """The non-zero codes of ``pre[n, d_sae]``; the same numbers as :meth:`dense`."""
        codes = self.dense(pre)
        return _select_where(codes != 0, codes)


class ReLU(Activation):
    """``f = max(pre, 0)``."""

    def dense(self, pre: Tensor) -> Tensor:
        """Codes ``f[..., d_sae]``."""
        return pre.relu()

    def select(self, pre: Tensor) -> Selected:
        """The positive entries, without a rectified copy."""
        return _select_where(pre > 0, pre)


class JumpReLU(Activation):
    """``f = pre · [pre > threshold] · [pre > 0]``, strict on both sides.

    ``threshold`` is a scalar or ``[d_sae]``. BatchTopK and Matryoshka BatchTopK checkpoints use it
    at inference with the scalar threshold estimated during training, so that a token's codes do not
    depend on the batch it is in. Source: Rajamanoharan et al. 2024 (arXiv 2407.14435).
    """

    threshold: Tensor

    def __init__(self, threshold: Tensor) -> None:
        super().__init__()
        self.register_buffer("threshold", threshold)

    def dense(self, pre: Tensor) -> Tensor:
        """Codes ``f[..., d_sae]``."""
        return pre.relu() * (pre > self.threshold)

    def select(self, pre: Tensor) -> Selected:
        """The entries above both the threshold and zero."""
        return _select_where(pre > self.threshold.clamp_min(0), pre)


class TopK(Activation):
    """``f`` keeps the ``k`` largest of ``pre`` per token and rectifies them.

    Rectifying before or after the selection gives the same codes: an entry that is not positive is
    zero either way. Source: Gao et al. 2024 (arXiv 2406.04093).
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k: int = k

    def dense(self, pre: Tensor) -> Tensor:
        """Codes ``f[..., d_sae]``."""
        values, indices = pre.topk(self.k, dim=-1, sorted=False)
        return torch.zeros_like(pre).scatter_(-1, indices, values.relu_())

    def select(self, pre: Tensor) -> Selected:
        """The kept entries that are positive: at most ``k`` a row."""
        values, indices = pre.topk(self.k, dim=-1, sorted=False)
        active = values > 0
        if bool(active.all()):
            counts = torch.full((pre.shape[0],), self.k, device=pre.device)
            return Selected(counts, indices.reshape(-1), values.reshape(-1))
        return Selected(active.sum(-1), indices[active], values[active])


class Gated(Activation):
    """``f = [pre + b_gate > 0] · max(pre · exp(r_mag) + b_mag, 0)``.

    Here ``pre`` has no bias: the gate and the magnitude each add their own. Source: Rajamanoharan
    et al. 2024 (arXiv 2404.16014).
    """

    b_gate: Tensor
    r_mag: Tensor
    b_mag: Tensor

    def __init__(self, b_gate: Tensor, r_mag: Tensor, b_mag: Tensor) -> None:
        super().__init__()
        self.register_buffer("b_gate", b_gate)
        self.register_buffer("r_mag", r_mag)
        self.register_buffer("b_mag", b_mag)

    def dense(self, pre: Tensor) -> Tensor:
        """Codes ``f[..., d_sae]``."""
        magnitude = torch.addcmul(self.b_mag, pre, self.r_mag.exp()).relu_()
        return magnitude * (pre + self.b_gate > 0)
