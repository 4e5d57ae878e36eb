"""Sparsity and dead latents: which latents fire, how often, and which never do."""

from __future__ import annotations

from typing import Any

import torch

from saebench.metrics import sparsity
from saebench.passes import SubjectView
from saebench.record import Measurement


class SparsityEval:
    """Counts firings of one checkpoint with ``d_sae`` latents; needs no logits."""

    needs_predictions = False
    needs_reconstruction = False

    def __init__(self, d_sae: int, device: torch.device) -> None:
        self.sums = sparsity.SparsitySums(d_sae, device=device)

    def update(self, view: SubjectView) -> None:
        """Take in one batch."""
        self.sums.update(view.codes, view.sequence_ids)

    def measurements(self, *, n_sequences: int, seed: int) -> dict[str, Measurement]:
        """Every sparsity metric by metric id."""
        return sparsity.measurements(self.sums, n_sequences=n_sequences, seed=seed)

    def curves(self) -> dict[str, Any]:
        """The alive curve and the density spectrum."""
        return sparsity.curves(self.sums)
