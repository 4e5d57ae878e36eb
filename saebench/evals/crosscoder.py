"""What a crosscoder over two models is measured by in a pass: errors of each model, firings, scaling."""

from __future__ import annotations

import torch

from saebench.metrics.crosscoder.geometry import Geometry, LatentDirections
from saebench.metrics.crosscoder.ratios import Ratios
from saebench.metrics.crosscoder.results import Found
from saebench.metrics.crosscoder.scaling_sums import ScalingSums
from saebench.metrics.crosscoder.sources import SourceErrors
from saebench.metrics.crosscoder.taxonomy import classify
from saebench.metrics.moments import Moments
from saebench.metrics.sparsity import SparsitySums
from saebench.metrics.sums import N_GROUPS, group_of
from saebench.passes import Calibration, SiteView, SubjectView
from saebench.protocols import CrosscoderProtocol
from saebench.sae import SAE

NO_UNIT = (
    "each token is scaled by its own statistics: latents have no fixed length in activation units"
)


MIXED = "its normalisation mixes dimensions, for which latent scaling is not made"


class SourcesEval:
    """Moments of two models' activations side by side, ``width`` in all: shared by their crosscoders."""

    def __init__(self, width: int) -> None:
        self.moments = Moments(N_GROUPS, width)

    def begin(self, calibration: Calibration) -> None:
        """Nothing depends on the calibration."""

    def update(self, view: SiteView) -> None:
        """Take in one batch."""
        self.moments.update(view.x, group_of(view.sequence_ids))


class CrosscoderEval:
    """Sums over one crosscoder, on activations whose moments ``sources`` keeps."""

    needs_predictions = False
    needs_reconstruction = True

    def __init__(
        self,
        sae: SAE,
        sources: SourcesEval,
        protocol: CrosscoderProtocol,
        device: torch.device | str = "cpu",
    ) -> None:
        self.sources, self.protocol = sources, protocol
        self.errors = SourceErrors()
        self.firing = SparsitySums(sae.cfg.d_sae, device=device)
        self.directions = LatentDirections(sae, protocol.seed)
        self.unscaled = _why_unscaled(self.directions)
        self.scaling = None if self.unscaled else ScalingSums(self.directions, device)

    def update(self, view: SubjectView) -> None:
        """Take in one batch."""
        assert view.x_hat is not None  # asked for
        self.errors.update(view.target, view.x_hat, group_of(view.sequence_ids))
        self.firing.update(view.codes, view.sequence_ids)
        if self.scaling is not None:
            self.scaling.update(view.codes, view.target, view.x_hat, view.sequence_ids)

    def found(self) -> Found:
        """What the pass found."""
        geometry, ratios, asked = Geometry.of(self.directions), None, self.protocol
        if self.scaling is not None:
            ratios = Ratios(
                self.scaling,
                geometry,
                classify(geometry.norms, self.firing.fired > 0),
                min_firings=asked.min_firings,
                n_compared=asked.n_compared,
                seed=asked.seed,
            )
        return Found(
            self.sources.moments, self.errors, self.firing, geometry, ratios, self.unscaled
        )


def _why_unscaled(directions: LatentDirections) -> str:
    """Why a crosscoder's latents have no scaling; empty where they have."""
    if directions.sae.normalization.needs_input:
        return NO_UNIT
    return "" if directions.is_scaled else MIXED
