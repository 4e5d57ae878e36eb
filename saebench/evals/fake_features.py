"""Fake features: which latents fire on a text, and how often; the same for random and for real text."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from saebench.metrics.fake_features.counting import FiringSums
from saebench.metrics.fake_features.thresholds import CodeQuantiles
from saebench.passes import SubjectView
from saebench.protocols import FakeProtocol


class FakeFeaturesEval:
    """Counts the firings of one checkpoint on one text under ``protocols``, by name.

    Needs no logits and no reconstruction. Those in ``grouped`` are counted so that they can be resampled.
    With ``quantiles``, the distribution of each latent's codes is kept too, for relative thresholds.
    """

    needs_predictions = False
    needs_reconstruction = False

    def __init__(
        self,
        protocols: Mapping[str, FakeProtocol],
        d_sae: int,
        device: torch.device,
        *,
        grouped: Collection[str] | None = None,
        thresholds: Tensor | None = None,
        quantiles: bool = False,
    ) -> None:
        self.sums = FiringSums(
            protocols, d_sae, grouped=grouped, thresholds=thresholds, device=device
        )
        self.quantiles = CodeQuantiles(d_sae, device) if quantiles else None

    def update(self, view: SubjectView) -> None:
        """Take in one batch."""
        self.sums.update(view.codes, view.sequence_ids)
        if self.quantiles is not None:
            self.quantiles.update(view.codes)
