"""Encoding and decoding through the active latents only, with gradients to match.

For ``pre = x W_encᵀ + b`` of which a few entries per token are kept, the gradient of ``W_enc[j]`` is a
sum over the tokens on which latent ``j`` is active. Sums over the active entries of a token, and over
those of a latent, are both ``embedding_bag``: no ``[tokens, d_sae]`` gradient is ever formed.
Matrices are ``[d_sae, d]`` here, one row per latent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class ByLatent(NamedTuple):
    """Active entries sorted by latent: ``order[nnz]`` into the entries, ``tokens[nnz]``, ``offsets``."""

    order: Tensor
    tokens: Tensor
    offsets: Tensor


@dataclass(frozen=True)
class Active:
    """Which latents are active on which of ``n`` tokens: ``indices[nnz]``, token after token (int32).

    Token ``i`` owns the entries ``offsets[i]:offsets[i + 1]`` (``offsets[n + 1]``, int32).
    """

    indices: Tensor
    offsets: Tensor
    d_sae: int

    @cached_property
    def by_latent(self) -> ByLatent:
        """The same entries latent after latent, for the gradients of matrices."""
        latents, order = self.indices.sort(stable=True)
        tokens = torch.arange(len(self.offsets) - 1, device=order.device, dtype=torch.int32)
        tokens = tokens.repeat_interleave(self.offsets.diff(), output_size=len(order))
        offsets = self.offsets.new_zeros(self.d_sae + 1)
        offsets[1:] = torch.bincount(latents, minlength=self.d_sae).cumsum(0)
        return ByLatent(order, tokens[order], offsets)


def encode_active(x: Tensor, W_enc: Tensor, b_enc: Tensor, pre: Tensor, active: Active) -> Tensor:
    """Pre-activations ``[nnz]`` of the active entries, differentiable in ``x``, ``W_enc`` and ``b_enc``.

    ``pre[n, d_sae]`` are all pre-activations ``x W_encᵀ + b_enc``, computed without gradient.
    """
    return _Encode.apply(x, W_enc, b_enc, pre, active)


def decode_active(values: Tensor, W_dec: Tensor, active: Active) -> Tensor:
    """``Σ_j values_ij W_dec[j]``, ``[n, d]``, over the active entries; differentiable in both."""
    return _Decode.apply(values, W_dec, active)


def _sum_rows(table: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """``Σ weights_e table[rows_e]`` over the entries ``e`` of each bag."""
    return F.embedding_bag(
        rows, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, pre: Tensor, active: Active
    ) -> Tensor:
        ctx.save_for_backward(x, W_enc)
        ctx.active = active
        tokens = torch.arange(x.shape[0], device=x.device)
        tokens = tokens.repeat_interleave(active.offsets.diff(), output_size=len(active.indices))
        return pre[tokens, active.indices.long()]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, W_enc = ctx.saved_tensors
        active: Active = ctx.active
        grad = grads[0]
        d_x = d_W = d_b = None
        if ctx.needs_input_grad[0]:
            d_x = _sum_rows(W_enc, active.indices, active.offsets, grad)
        if ctx.needs_input_grad[1]:
            order, tokens, offsets = active.by_latent
            d_W = _sum_rows(x, tokens, offsets, grad[order])
        if ctx.needs_input_grad[2]:
            d_b = torch.bincount(active.indices, weights=grad, minlength=active.d_sae).to(
                grad.dtype
            )
        return d_x, d_W, d_b, None, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, active: Active) -> Tensor:
        ctx.active = active
        if ctx.needs_input_grad[
            0
        ]:  # torch has the kernel for this gradient, reachable by autograd only
            with torch.enable_grad():
                ctx.values = values.detach().requires_grad_()
                ctx.out = _sum_rows(W_dec.detach(), active.indices, active.offsets, ctx.values)
            return ctx.out.detach()
        ctx.values = values
        return _sum_rows(W_dec, active.indices, active.offsets, values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        active: Active = ctx.active
        grad = grads[0].contiguous()
        d_values = d_W = None
        if ctx.needs_input_grad[0]:
            (d_values,) = torch.autograd.grad(ctx.out, ctx.values, grad, retain_graph=True)
        if ctx.needs_input_grad[1]:
            order, tokens, offsets = active.by_latent
            d_W = _sum_rows(grad, tokens, offsets, ctx.values.detach()[order])
        return d_values, d_W, None
