"""Reconstruction: what the SAE gives back, what the model makes of it, and what baselines give."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from saebench.activations import TopK
from saebench.metrics import baselines, prediction, reconstruction
from saebench.metrics.definitions import definition
from saebench.metrics.estimates import estimate
from saebench.metrics.sums import group_of
from saebench.passes import CALIBRATION_SEQUENCES, Calibration, SiteView, SubjectView
from saebench.record import Measurement
from saebench.sae import SAE, SAEConfig
from saebench.sites import Site


class SiteEval:
    """What all checkpoints at a site share: moments, covariance, clean and ablated losses.

    Keeps the activations of the first sequences (a fixed number, whatever is read) for the random
    baseline.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.floors = prediction.floor_sums()
        self.first: list[tuple[Tensor, Tensor]] = []
        self._eigenvalues: Tensor | None = None
        self._random: dict[tuple[int, int], Measurement] = {}

    def begin(self, calibration: Calibration) -> None:
        """Centre the sums on the mean of the first sequences."""
        self.mean = calibration.means[self.site].cpu()
        self.sums = reconstruction.SiteSums(self.mean)
        self.covariance = baselines.Covariance(self.mean)

    def update(self, view: SiteView) -> None:
        """Take in one batch."""
        self.seen = self.sums.update(view.x, group_of(view.sequence_ids))
        self.covariance.update(view.x)
        first = view.sequence_ids < CALIBRATION_SEQUENCES
        if bool(first.any()):
            self.first.append((view.x[first].cpu(), view.sequence_ids[first].cpu()))
        if view.zero is None or view.mean is None:
            return
        groups = group_of(view.zero.sequence_ids)
        self.floors.count(groups)
        self.floors.add("ce_clean", view.zero.ce_clean, groups)
        prediction.add_floor(self.floors, "zero", view.zero.losses, groups)
        prediction.add_floor(self.floors, "mean", view.mean.losses, groups)

    def baselines(self, l0: float, *, n_sequences: int) -> dict[str, Measurement]:
        """The mean predictor, and PCA with as many components as ``l0``."""
        if self._eigenvalues is None:
            self._eigenvalues = self.covariance.eigenvalues()
        n_tokens = self.sums.sums.n_tokens
        return baselines.measurements(
            self._eigenvalues, l0, n_tokens=n_tokens, n_sequences=n_sequences
        )

    def random_baseline(self, d_sae: int, l0: float, *, seed: int) -> Measurement:
        """FVE of a random-init TopK SAE of this width and L0, on the first sequences."""
        k = min(max(round(l0), 1), d_sae)
        if (d_sae, k) not in self._random:
            self._random[d_sae, k] = self._measure_random(d_sae, k, seed)
        return self._random[d_sae, k]

    def _measure_random(self, d_sae: int, k: int, seed: int) -> Measurement:
        x = torch.cat([x for x, _ in self.first])
        ids = torch.cat([ids for _, ids in self.first])
        mean = self.mean.float()
        given = random_init(mean, d_sae, k, seed).reconstruct(x)[1] - mean
        gain = float(((x - mean) * given).sum() / given.square().sum().clamp_min(1e-30))
        sums = reconstruction.SiteSums(self.mean)
        errors = reconstruction.ReconstructionSums(x.shape[1])
        errors.update(sums.update(x, group_of(ids)), mean + gain * given)
        n_sequences = int(ids.unique().shape[0])
        found = reconstruction.measurements(sums, errors, n_sequences=n_sequences, seed=seed)
        return replace(
            found["fve@1"],
            metric=definition("fve_random_init").metric,
            detail={"k": k, "d_sae": d_sae, "gain": gain, "seed": seed},
        )


class ReconstructionEval:
    """Errors of one checkpoint of width ``d_out``, and the model's losses with it spliced in."""

    def __init__(self, site: SiteEval, d_out: int, *, predictions: bool) -> None:
        self.site = site
        self.needs_predictions = predictions
        self.errors = reconstruction.ReconstructionSums(d_out)
        self.spliced = prediction.spliced_sums()

    def update(self, view: SubjectView) -> None:
        """Take in one batch, which the site's evaluation has just seen."""
        self.errors.update(self.site.seen, view.x_hat)
        if view.spliced is not None:
            groups = group_of(view.spliced.sequence_ids)
            prediction.add_spliced(self.spliced, view.spliced.losses, groups)

    def measurements(self, *, n_sequences: int, seed: int) -> dict[str, Measurement]:
        """Every reconstruction and prediction metric by metric id."""
        found = reconstruction.measurements(
            self.site.sums, self.errors, n_sequences=n_sequences, seed=seed
        )
        if self.needs_predictions:
            found |= prediction.measurements(
                self.site.floors, self.spliced, n_sequences=n_sequences, seed=seed
            )
        return found


def random_init(mean: Tensor, d_sae: int, k: int, seed: int) -> SAE:
    """An untrained TopK SAE: unit Gaussian directions, the encoder their transpose, ``b_dec`` the mean.

    ``mean`` is ``[d_in]``. As the null beside a trained SAE its output is scaled by the one gain that
    fits best: without it, most of what it misses would be the arbitrary length of its directions.
    """
    generator = torch.Generator().manual_seed(seed)
    W_dec = torch.randn(d_sae, mean.shape[0], generator=generator)
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    cfg = SAEConfig("topk", mean.shape[0], d_sae, mean.shape[0], k=k)
    return SAE(cfg, TopK(k), W_enc=W_dec.T.contiguous(), W_dec=W_dec, b_dec=mean, b_in=mean)


def transcoder_baseline(name: str, *, n_tokens: int, n_sequences: int) -> Measurement:
    """A baseline of reconstruction that says nothing about a map from one site to another."""
    reason = "a transcoder predicts another site: this baseline only reconstructs"
    return estimate(name, None, n_tokens=n_tokens, n_sequences=n_sequences, reason=reason)
