"""Matching pursuit: latents are picked one after another, each for what the ones before left over.

Source: Costa et al. 2025 (arXiv 2506.03093), with the stopping rules of SAELens.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from saebench.activations import Activation
from saebench.codes import SparseCodes
from saebench.sae.config import SAEConfig
from saebench.sae.model import CHUNK_BYTES, MIN_CHUNK_ROWS
from saebench.sae.normalization import Normalization
from saebench.sae.tied import TiedSAE


class MatchingPursuit(TiedSAE):
    """A dictionary ``W_dec[d_sae, d_in]`` whose codes are found by greedy pursuit.

    The residual of a token starts as ``r = n(x) − b_in``. Each round picks
    ``j = argmax(W_dec r)``, adds ``v = max(W_dec[j] · r, 0)`` to code ``j`` and takes
    ``v W_dec[j]`` off the residual. A token is finished when a round brings it no new latent (with
    ``stop_on_repeat``), when ``‖r‖ < residual_threshold`` after a round (where that is positive), or
    after ``max_rounds``. The threshold is in the units of the normalised input.
    """

    def __init__(
        self,
        cfg: SAEConfig,
        *,
        W_dec: Tensor,
        b_dec: Tensor,
        b_in: Tensor | None = None,
        residual_threshold: float,
        max_rounds: int,
        stop_on_repeat: bool,
        normalization: Normalization | None = None,
    ) -> None:
        super().__init__(
            cfg, Activation(), W_dec=W_dec, b_dec=b_dec, b_in=b_in, normalization=normalization
        )
        self.residual_threshold = residual_threshold
        self.max_rounds = max_rounds
        self.stop_on_repeat = stop_on_repeat

    def encode(self, x: Tensor) -> Tensor:
        """Codes ``f[..., d_sae]`` of activations ``x[..., d_in]``, none negative."""
        flat, lead = self._flatten(x)
        chunks = list(self._pursue_chunks(flat))
        return torch.cat(chunks).reshape(*lead, self.cfg.d_sae)

    def codes(self, x: Tensor) -> SparseCodes:
        """The non-zero codes of ``x[n, d_in]``, found in row chunks."""
        counts, indices, values = [], [], []
        for codes in self._pursue_chunks(self._check_width(x)):
            rows, columns = codes.nonzero(as_tuple=True)
            counts.append(torch.bincount(rows, minlength=codes.shape[0]))
            indices.append(columns.int())
            values.append(codes[rows, columns])
        each = torch.cat(counts)
        offsets = torch.zeros(each.shape[0] + 1, dtype=torch.int32, device=each.device)
        offsets[1:] = each.cumsum(0)
        return SparseCodes(torch.cat(values), torch.cat(indices), offsets, self.cfg.d_sae)

    def _pursue_chunks(self, x: Tensor) -> Iterator[Tensor]:
        """Codes of consecutive row chunks of flat ``x[n, d_in]``."""
        inputs = self._ready().normalization(x)
        rows = max(MIN_CHUNK_ROWS, CHUNK_BYTES // (self.cfg.d_sae * inputs.element_size()))
        for chunk in inputs.split(rows):
            yield self._pursue(chunk if self.b_in is None else chunk - self.b_in)

    def _pursue(self, inputs: Tensor) -> Tensor:
        """Codes ``[n, d_sae]`` of centred ``inputs[n, d_in]``; finished tokens leave the product."""
        codes = inputs.new_zeros(inputs.shape[0], self.cfg.d_sae)
        tokens = torch.arange(inputs.shape[0], device=inputs.device)
        residual = inputs
        for _ in range(self.max_rounds):
            if not tokens.shape[0]:
                break
            picked = (residual @ self.W_enc).argmax(-1)
            directions = self.W_dec[picked]
            gained = (residual * directions).sum(-1).relu_()
            is_new = (codes[tokens, picked] == 0) & (gained != 0)
            codes[tokens, picked] += gained
            residual = residual - gained[:, None] * directions
            going_on = is_new if self.stop_on_repeat else gained != 0  # else nothing changes again
            if self.residual_threshold > 0:
                going_on = going_on & (residual.norm(dim=-1) >= self.residual_threshold)
            if not bool(going_on.all()):
                tokens, residual = tokens[going_on], residual[going_on]
        return codes
