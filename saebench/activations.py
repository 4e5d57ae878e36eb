"""Activation functions of SAE encoders, as small modules that select which latents fire.

Each maps pre-activations ``pre[n, d_sae]`` to codes in two equivalent forms: ``dense`` gives
``f[n, d_sae]``, ``select`` gives only the entries that are not zero. A latent is *active* on a token
when its code is not zero (``f != 0``), which is the one rule that also counts signed codes.
"""

from __future__ import annotations

from collections.abc import Iterable
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

    @property
    def pending(self) -> bool:
        """Whether a number of it has to be estimated on data before it can select."""
        return False

    def estimate(self, chunks: Iterable[Tensor], n_tokens: int) -> None:
        """Estimate what is pending on all pre-activations ``[rows, d_sae]`` of ``n_tokens`` tokens."""

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


class Identity(Activation):
    """``f = pre``: of dictionaries that decide what fires before, as one with a gate matrix does."""

    def dense(self, pre: Tensor) -> Tensor:
        """Codes ``f[..., d_sae]``."""
        return pre


class TanhReLU(Activation):
    """``f = tanh(max(pre, 0))``: the ``tanh-relu`` of SAELens before version 6."""

    def dense(self, pre: Tensor) -> Tensor:
        """Codes ``f[..., d_sae]``, all below one."""
        return pre.relu().tanh_()


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


class BatchTopK(Activation):
    """BatchTopK at inference: the threshold at which ``k`` latents per token pass on average.

    ``f = pre · [pre > 0] · [pre · weight > threshold]``. Until :meth:`estimate` has seen data the
    threshold is unknown and nothing can be selected; files that store one use :class:`JumpReLU`.
    ``weight[d_sae]`` are the decoder norms where latents were ranked by them. Source: Bussmann et
    al. 2024 (arXiv 2412.06410), with the threshold taken once over all tokens instead of averaged
    over training batches.
    """

    threshold: Tensor | None
    weight: Tensor | None

    def __init__(self, k: int, weight: Tensor | None = None) -> None:
        super().__init__()
        self.mean_k = k
        self.register_buffer("weight", weight)
        self.register_buffer("threshold", None)

    @property
    def pending(self) -> bool:
        """Whether the threshold is still unknown."""
        return self.threshold is None

    def estimate(self, chunks: Iterable[Tensor], n_tokens: int) -> None:
        """Take the threshold from pre-activations ``[rows, d_sae]``: exactly, in one reading."""
        kept = self.mean_k * n_tokens + 1  # the largest value that must not pass comes after k · n
        best = torch.empty(0)
        for chunk in chunks:
            ranked = self._ranked(chunk).flatten()
            largest = ranked.topk(min(kept, ranked.shape[0]), sorted=False).values
            both = torch.cat((best.to(largest), largest))
            best = both.topk(min(kept, both.shape[0]), sorted=False).values
        none_left = best.shape[0] < kept  # k · n is no fewer than all there are
        self.threshold = (best.new_zeros(()) if none_left else best.min()).clamp_min(0)

    def dense(self, pre: Tensor) -> Tensor:
        """Codes ``f[..., d_sae]``."""
        return pre.relu() * (self._ranked(pre) > self._known())

    def select(self, pre: Tensor) -> Selected:
        """The entries above the threshold and above zero."""
        if self.weight is None:
            return _select_where(pre > self._known(), pre)
        return _select_where((self._ranked(pre) > self._known()) & (pre > 0), pre)

    def _ranked(self, pre: Tensor) -> Tensor:
        return pre if self.weight is None else pre * self.weight

    def _known(self) -> Tensor:
        assert self.threshold is not None  # the dictionary refuses to encode while it is pending
        return self.threshold


class TopK(Activation):
    """``f`` keeps the ``k`` largest of ``pre · weight`` per token and rectifies them.

    Rectifying before or after the selection gives the same codes: an entry that is not positive is
    zero either way. ``rectify=False`` keeps negative values that were selected. ``weight[d_sae]``
    (positive) ranks latents in other units than their values, such as those of decoder norms.
    Source: Gao et al. 2024 (arXiv 2406.04093).
    """

    weight: Tensor | None

    def __init__(self, k: int, *, rectify: bool = True, weight: Tensor | None = None) -> None:
        super().__init__()
        self.k: int = k
        self.rectify = rectify
        self.register_buffer("weight", weight)

    def dense(self, pre: Tensor) -> Tensor:
        """Codes ``f[..., d_sae]``."""
        values, indices = self._top(pre)
        return torch.zeros_like(pre).scatter_(-1, indices, values)

    def select(self, pre: Tensor) -> Selected:
        """The kept entries that are not zero: at most ``k`` a row."""
        values, indices = self._top(pre)
        active = values != 0
        if bool(active.all()):
            counts = torch.full((pre.shape[0],), self.k, device=pre.device)
            return Selected(counts, indices.reshape(-1), values.reshape(-1))
        return Selected(active.sum(-1), indices[active], values[active])

    def _top(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        """Values and indices of the entries kept, ``[..., k]``."""
        ranked = pre if self.weight is None else pre * self.weight
        values, indices = ranked.topk(self.k, dim=-1, sorted=False)
        if self.weight is not None:
            values = pre.gather(-1, indices)
        return (values.relu_() if self.rectify else values), indices


class AbsTopK(TopK):
    """``f`` keeps the ``k`` entries of ``pre`` that are largest in absolute value, with their sign."""

    def __init__(self, k: int) -> None:
        super().__init__(k, rectify=False)

    def _top(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        indices = pre.abs().topk(self.k, dim=-1, sorted=False).indices
        return pre.gather(-1, indices), indices


class GroupMax(TopK):
    """``f`` keeps the largest entry of each of ``k`` contiguous groups, rectified if ``rectify``."""

    def _top(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        size = pre.shape[-1] // self.k
        values, places = pre.unflatten(-1, (self.k, size)).max(-1)
        starts = torch.arange(self.k, device=pre.device) * size
        return (values.relu() if self.rectify else values), places + starts


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
