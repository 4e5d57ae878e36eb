"""Reconstruction: what the SAE gives back, what the model makes of it, and what baselines give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from saebench.activations import TopK
from saebench.metrics import baselines, prediction, reconstruction
from saebench.metrics.definitions import definition
from saebench.metrics.estimates import estimate
from saebench.metrics.sums import GroupSums, group_of
from saebench.passes import (
    CALIBRATION_SEQUENCES,
    Calibration,
    Reading,
    SiteView,
    Stack,
    SubjectView,
    as_stack,
)
from saebench.record import Measurement
from saebench.sae import SAE, SAEConfig
from saebench.sites import Site

PCA_MAX_WIDTH = (
    16_384  # above it the covariance alone is gigabytes and its eigenvalues take minutes
)
RANDOM_MAX_WEIGHTS = 2**30  # the random baseline holds that many float32 weights twice


class SiteEval:
    """What all checkpoints at a stack share: moments, covariance, clean and ablated losses.

    Keeps the activations of the first sequences (a fixed number, whatever is read) for the random
    baseline.
    """

    def __init__(self, where: Site | Reading | Stack) -> None:
        self.stack = as_stack(where)
        self.floors_by_reading = [prediction.floor_sums() for _ in self.stack]
        self.first: list[tuple[Tensor, Tensor]] = []
        self._eigenvalues: Tensor | None = None
        self._random: dict[tuple[int, int], Measurement] = {}

    def begin(self, calibration: Calibration) -> None:
        """Centre the sums on the mean of the first sequences."""
        self.mean = calibration.mean(self.stack).cpu()
        self.sums = reconstruction.SiteSums(self.mean)
        self.covariance = None
        if self.mean.shape[0] <= PCA_MAX_WIDTH:
            self.covariance = baselines.Covariance(self.mean)

    def update(self, view: SiteView) -> None:
        """Take in one batch."""
        self.seen = self.sums.update(view.x, group_of(view.sequence_ids))
        if self.covariance is not None:
            self.covariance.update(view.x)
        first = view.sequence_ids < CALIBRATION_SEQUENCES
        if bool(first.any()):
            self.first.append((view.x[first].cpu(), view.sequence_ids[first].cpu()))
        add_floors(self.floors_by_reading, view)

    @property
    def floors(self) -> GroupSums:
        """The clean and ablated losses of all readings together."""
        return pooled(self.floors_by_reading)

    def baselines(self, l0: float, *, n_sequences: int) -> dict[str, Measurement]:
        """The mean predictor, and PCA with as many components as ``l0``."""
        n_tokens = self.sums.sums.n_tokens
        if self.covariance is None:
            reason = f"{self.mean.shape[0]:,} dimensions side by side are too many for a covariance"
            measure = partial(estimate, n_tokens=n_tokens, n_sequences=n_sequences)
            pca = measure("fve_pca", None, reason=reason)
            mean = measure("fve_mean_predictor", 0.0)
            return {item.metric: item for item in (pca, mean)}
        if self._eigenvalues is None:
            self._eigenvalues = self.covariance.eigenvalues()
        return baselines.measurements(
            self._eigenvalues, l0, n_tokens=n_tokens, n_sequences=n_sequences
        )

    def random_baseline(self, d_sae: int, l0: float, *, seed: int) -> Measurement:
        """FVE of a random-init TopK SAE of this width and L0, on the first sequences."""
        if d_sae * self.mean.shape[0] > RANDOM_MAX_WEIGHTS:
            n_tokens = self.sums.sums.n_tokens
            reason = f"a random dictionary of {d_sae:,} × {self.mean.shape[0]:,} is not made"
            return estimate(
                "fve_random_init", None, n_tokens=n_tokens, n_sequences=0, reason=reason
            )
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
    """Errors of one checkpoint of width ``width_out``, and the model's losses with it spliced in.

    What writes several readings is spliced into one at a time; the losses of all are pooled, and the
    readings are shown apart beside the pooled value.
    """

    needs_reconstruction = True

    def __init__(self, site: SiteEval, width_out: int, *, predictions: bool) -> None:
        self.site = site
        self.needs_predictions = predictions
        self.errors = reconstruction.ReconstructionSums(width_out)
        self.spliced_by_reading = [prediction.spliced_sums() for _ in site.stack]

    def update(self, view: SubjectView) -> None:
        """Take in one batch, which the site's evaluation has just seen."""
        assert view.x_hat is not None  # asked for
        self.errors.update(self.site.seen, view.x_hat)
        for sums, found in zip(self.spliced_by_reading, view.spliced, strict=False):
            prediction.add_spliced(sums, found.losses, group_of(found.sequence_ids))

    @property
    def spliced(self) -> GroupSums:
        """The losses of all readings together."""
        return pooled(self.spliced_by_reading)

    def measurements(self, *, n_sequences: int, seed: int) -> dict[str, Measurement]:
        """Every reconstruction and prediction metric by metric id."""
        names = [str(reading) for reading in self.site.stack]
        found = reconstruction.measurements(
            self.site.sums, self.errors, n_sequences=n_sequences, seed=seed, readings=names
        )
        if self.needs_predictions:
            found |= prediction.measurements(
                self.site.floors,
                self.spliced,
                n_sequences=n_sequences,
                seed=seed,
                n_readings=len(names),
            )
            if len(names) > 1:
                _add_by_reading(found, names, self.site.floors_by_reading, self.spliced_by_reading)
        return found


def add_floors(floors_by_reading: Sequence[GroupSums], view: SiteView) -> None:
    """Take in the clean and ablated losses of one batch, reading by reading."""
    for floors, zero, mean in zip(floors_by_reading, view.zero, view.mean, strict=False):
        groups = group_of(zero.sequence_ids)
        floors.count(groups)
        floors.add("ce_clean", zero.ce_clean, groups)
        prediction.add_floor(floors, "zero", zero.losses, groups)
        prediction.add_floor(floors, "mean", mean.losses, groups)


def pooled(parts: Sequence[GroupSums]) -> GroupSums:
    """The sums of all parts together; one part is itself."""
    if len(parts) == 1:
        return parts[0]
    total = GroupSums(parts[0].n_groups, parts[0].sums)
    for part in parts:
        total.merge(part)
    return total


def _add_by_reading(
    found: dict[str, Measurement],
    names: Sequence[str],
    floors: Sequence[GroupSums],
    spliced: Sequence[GroupSums],
) -> None:
    """Show beside each pooled prediction metric its value at every reading written."""
    points = [
        {
            name: float(value[0]) if bool(value[0].isfinite()) else None
            for name, value in prediction.values(floor, splice).items()
        }
        for floor, splice in zip(floors, spliced, strict=True)
    ]
    for key, measured in found.items():
        if measured.name in points[0]:
            by_reading = {
                name: value[measured.name] for name, value in zip(names, points, strict=True)
            }
            found[key] = replace(measured, detail={**measured.detail, "by_reading": by_reading})


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
