"""Temporal SAEs: what the tokens before predict, and sparse codes for what is new.

Attention over the codes of earlier tokens predicts each token's activation; the latents encode what
the prediction leaves. Source: arXiv 2511.01836, as SAELens computes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saebench.activations import Activation
from saebench.codes import SparseCodes
from saebench.errors import CheckpointError
from saebench.sae.config import SAEConfig
from saebench.sae.model import CHUNK_BYTES
from saebench.sae.normalization import Normalization
from saebench.sae.tied import TiedSAE

PROJECTION_EPS = 1e-6  # added to the norm of a prediction before dividing by its square


class LatentAttention(nn.Module):
    """Causal attention between latent vectors: ``z_target[b, t, d_sae]`` looks at ``z_context``.

    ``weights`` are ``(matrix, bias)`` of four linear maps: to queries ``[d_attn, d_sae]``, to keys
    ``[d_attn, d_sae]``, to values and from their sum, both ``[d_sae, d_sae]``.
    """

    def __init__(self, weights: Sequence[tuple[Tensor, Tensor]], n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        for name, (matrix, bias) in zip(("query", "key", "value", "out"), weights, strict=True):
            self.register_buffer(f"W_{name}", matrix)
            self.register_buffer(f"b_{name}", bias)

    def forward(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        """What ``z_target[b, t, d_sae]`` is predicted to be from ``z_context[b, ≤ t, d_sae]``."""
        mixed = F.scaled_dot_product_attention(
            self._heads("query", z_target),
            self._heads("key", z_context),
            self._heads("value", z_context),
            is_causal=True,
        )
        return self._linear("out", mixed.transpose(1, 2).flatten(2))

    def _linear(self, name: str, z: Tensor) -> Tensor:
        return F.linear(z, getattr(self, f"W_{name}"), getattr(self, f"b_{name}"))

    def _heads(self, name: str, z: Tensor) -> Tensor:
        return self._linear(name, z).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class TemporalSAE(TiedSAE):
    """An SAE of what earlier tokens do not predict; it needs whole sequences ``x[..., t, d_in]``.

    With ``z(r) = relu(λ r W_enc)``, ``λ = 1 / (4 d_in)`` and ``r = n(x) − b_in``, each attention layer
    predicts ``p = relu(attention(z(r) of the tokens before, z(r))) W_dec``, scaled to the projection of
    ``r`` on it, and takes it off ``r``. Codes are ``act(λ r W_enc)`` of what remains. The whole
    reconstruction is ``n⁻¹(f W_dec + Σ p + b_dec)``; :meth:`decode` has the codes only and so lacks
    what was predicted, as in SAELens.
    """

    needs_sequences = True

    def __init__(
        self,
        cfg: SAEConfig,
        activation: Activation,
        *,
        W_dec: Tensor,
        b_dec: Tensor,
        W_enc: Tensor | None = None,
        b_in: Tensor | None = None,
        attention: Sequence[LatentAttention],
        normalization: Normalization | None = None,
    ) -> None:
        super().__init__(
            cfg,
            activation,
            W_dec=W_dec,
            b_dec=b_dec,
            W_enc=W_enc,
            b_in=b_in,
            normalization=normalization,
        )
        self.attention = nn.ModuleList(attention)
        self.input_scale = 1 / (4 * cfg.d_in)

    def encode(self, x: Tensor) -> Tensor:
        """Codes ``f[..., t, d_sae]`` of what is new in each token of sequences ``x[..., t, d_in]``.

        Raises :class:`CheckpointError` for activations that are not a sequence.
        """
        parts = [self.activation.dense(self._new(rest)) for rest, _ in self._split(x)]
        return torch.cat(parts).reshape(*x.shape[:-1], self.cfg.d_sae)

    def forward(self, x: Tensor) -> Tensor:
        """The whole reconstruction of sequences ``x[..., t, d_in]``: predicted and new together."""
        parts = [
            self.activation.dense(self._new(rest)) @ self.W_dec + predicted
            for rest, predicted in self._split(x)
        ]
        flat = torch.cat(parts).reshape(-1, self.cfg.d_in) + self.b_dec
        return self._denormalize(flat, x.reshape(-1, self.cfg.d_in)).reshape(x.shape)

    def reconstruct_sequences(self, x: Tensor, counted: Tensor) -> tuple[SparseCodes, Tensor]:
        """``(codes, x̂[n, d_in])`` of the counted positions of ``x[b, t, d_in]``, all being context.

        ``counted[b, t]`` is bool; ``x̂`` is predicted and new together.
        """
        rests, predictions = [], []
        for chosen, (rest, predicted) in zip(
            counted.split(self._sequences_at_once(x.shape[1])), self._split(x), strict=True
        ):
            rests.append(rest[chosen])
            predictions.append(predicted[chosen])
        rows = max(1, CHUNK_BYTES // (self.cfg.d_sae * self.W_dec.element_size()))
        selected = [self.activation.select(self._new(r)) for r in torch.cat(rests).split(rows)]
        counts = torch.cat([part.counts for part in selected])
        offsets = torch.zeros(counts.shape[0] + 1, dtype=torch.int32, device=counts.device)
        offsets[1:] = counts.cumsum(0)
        indices = torch.cat([part.indices for part in selected]).int()
        values = torch.cat([part.values for part in selected])
        codes = SparseCodes(values, indices, offsets, self.cfg.d_sae)
        new = F.embedding_bag(
            codes.indices,
            self.W_dec,
            codes.offsets,
            mode="sum",
            per_sample_weights=codes.values,
            include_last_offset=True,
        )
        whole = new.add_(torch.cat(predictions)).add_(self.b_dec)
        return codes, self._denormalize(whole, x[counted])

    def codes(self, x: Tensor) -> NoReturn:
        """Raises :class:`CheckpointError`: rows do not say which sequence they are of."""
        raise CheckpointError(
            "codes of rows of activations",
            "this dictionary predicts each token from those before it",
            "Give whole sequences: encode(x[..., t, d_in]) or reconstruct_sequences(x, counted).",
        )

    def reconstruct(self, x: Tensor) -> NoReturn:
        """Raises :class:`CheckpointError`: rows do not say which sequence they are of."""
        self.codes(x)

    def _new(self, rest: Tensor) -> Tensor:
        """Pre-activations ``[..., d_sae]`` of what was not predicted, ``rest[..., d_in]``."""
        return (rest * self.input_scale) @ self.W_enc

    def _sequences_at_once(self, length: int) -> int:
        return max(1, CHUNK_BYTES // (length * self.cfg.d_sae * self.W_dec.element_size()))

    def _split(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """``(what was not predicted, what was)``, each ``[b, t, d_in]``, for chunks of sequences."""
        if x.ndim < 2:
            self.codes(x)
        sequences = self._check_width(x).reshape(-1, x.shape[-2], self.cfg.d_in)
        for chunk in sequences.split(self._sequences_at_once(x.shape[-2])):
            inputs = self._ready().normalization(chunk)
            yield self._predict(inputs if self.b_in is None else inputs - self.b_in)

    def _predict(self, rest: Tensor) -> tuple[Tensor, Tensor]:
        predicted = torch.zeros_like(rest)
        for layer in self.attention:
            z = self._new(rest).relu_()
            before = F.pad(z[:, :-1], (0, 0, 1, 0))  # the first token has a context of zeros
            directions = layer(before, z).relu_() @ self.W_dec
            norms = directions.norm(dim=-1, keepdim=True) + PROJECTION_EPS
            share = (directions * rest).sum(-1, keepdim=True) / norms**2
            step = share * directions
            predicted, rest = predicted + step, rest - step
        return rest, predicted
