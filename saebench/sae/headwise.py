"""Crosscoders that decide target by target whether an active latent is written there.

All sources together give one pre-activation per latent. Target ``m`` receives it where
``pre · ‖W_dec_m‖`` passes that target's gate, so a latent may be silent in some targets and active in
others. The code of a latent is its value where it is active anywhere; which targets it reaches
follows from the code itself. Source of the formula: crosscoders of llamascopium 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from saebench.activations import Activation, BatchTopK
from saebench.codes import SparseCodes
from saebench.sae.config import SAEConfig
from saebench.sae.model import Crosscoder


class HeadwiseGate(Activation):
    """``f = max(pre, 0)`` where it passes in any target: above a threshold, or among the k largest.

    ``weights[n_targets, d_sae]`` multiply pre-activations target by target before they are compared.
    ``threshold`` (a scalar or ``[d_sae]``) is None for top-k, and until it is estimated.
    """

    weights: Tensor
    threshold: Tensor | None

    def __init__(
        self,
        weights: Tensor,
        *,
        threshold: Tensor | None = None,
        top_k: int | None = None,
        mean_k: int | None = None,
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.mean_k = mean_k
        self.register_buffer("weights", weights)
        self.register_buffer("threshold", threshold)

    @property
    def pending(self) -> bool:
        """Whether the threshold is still unknown."""
        return self.threshold is None and self.top_k is None

    def estimate(self, chunks: Iterable[Tensor], n_tokens: int) -> None:
        """Take the threshold at which ``mean_k`` latents per token and target pass on average."""
        assert self.mean_k is not None
        pooled = BatchTopK(self.mean_k * self.weights.shape[0])
        pooled.estimate((chunk * w for chunk in chunks for w in self.weights), n_tokens)
        self.threshold = pooled.threshold

    def dense(self, pre: Tensor) -> Tensor:
        """Codes ``f[..., d_sae]``."""
        values = pre.relu()
        active = torch.zeros_like(pre, dtype=torch.bool)
        for target in range(self.weights.shape[0]):
            active |= self.passes(values, target)
        return values * active

    def passes(self, values: Tensor, target: int, indices: Tensor | None = None) -> Tensor:
        """Where ``values[..., d_sae]`` reach a target; with ``indices``, values of those latents only."""
        weights, threshold = self.weights[target], self.threshold
        if indices is not None:
            weights = weights[indices]
            threshold = (
                threshold[indices] if threshold is not None and threshold.ndim else threshold
            )
        ranked = values * weights
        if threshold is not None:
            return (ranked > threshold) & (values > 0)
        assert self.top_k is not None  # the dictionary refuses to encode while it is pending
        best = ranked.topk(min(self.top_k, ranked.shape[-1]), dim=-1, sorted=False).indices
        kept = torch.zeros_like(ranked, dtype=torch.bool).scatter_(-1, best, True)
        return kept & (values > 0)


class HeadwiseCrosscoder(Crosscoder):
    """A crosscoder with a :class:`HeadwiseGate`; the weights are those of :class:`Crosscoder`.

    Codes do not say which targets a latent reaches: decoding asks the gate again. Under a threshold
    that is decided latent by latent. Under top-k it is a matter of all codes given, so that taking
    one latent out lets the next into a target's top-k, where the original would not have written it.
    """

    def __init__(self, cfg: SAEConfig, gate: HeadwiseGate, **parts: Any) -> None:
        super().__init__(cfg, gate, **parts)
        self.gate = gate

    def decode(self, f: Tensor, x: Tensor | None = None) -> Tensor:
        """Reconstruction ``[..., n_targets, d_out]`` of codes ``f[..., d_sae]``, gated anew.

        Of a top-k gate, codes that were changed since :meth:`encode` may reach other targets.
        """
        rows = f.reshape(-1, self.cfg.d_sae)
        columns = self.W_dec.split(self.cfg.d_out, -1)
        written = [rows * self.gate.passes(rows, m) @ part for m, part in enumerate(columns)]
        flat = torch.cat(written, -1) + self.b_dec
        inputs = None if x is None else self._flatten(x)[0]
        return self._unflatten(self._denormalize(flat, inputs), tuple(f.shape[:-1]))

    def decode_codes(self, codes: SparseCodes, x: Tensor | None = None) -> Tensor:
        """Reconstruction ``x̂[n, width_out]``, gathering only the directions that codes reach."""
        n_targets, d_out = self.cfg.n_targets, self.cfg.d_out
        values, indices = codes.padded()
        directions = self.W_dec.view(-1, d_out)  # row latent · n_targets + target
        written = [
            F.embedding_bag(
                indices * n_targets + m,
                directions,
                mode="sum",
                per_sample_weights=values * self.gate.passes(values, m, indices),
            )
            for m in range(n_targets)
        ]
        return self._denormalize(torch.cat(written, -1) + self.b_dec, x)
