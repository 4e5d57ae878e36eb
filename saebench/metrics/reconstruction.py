"""Reconstruction: seven definitions of explained variance, errors, direction and shrinkage.

With ``x[n, d]`` the activations that should be reproduced (for a transcoder: those of the site it
writes), ``x̂`` the reconstruction, ``e = x − x̂``, and ``x̄`` the mean over tokens per dimension:

    fve               1 − Σ‖e‖² / Σ‖x − x̄‖²                    ratio of sums; the primary one
    fve_legacy        mean (1 − ‖e‖² / ‖x − r‖²)                mean of ratios, reference mean r
    fve_mean_square   1 − S_e / (S − (S/d)²), S = mean ‖x‖²     as shipped in SAELens 5.8.0–6.45.0
    fve_var_residual  1 − Σ_d Var(e_d) / Σ_d Var(x_d)           a constant offset is free
    fve_scalar        1 − Var(entries of e) / Var(entries of x) one mean over tokens and dimensions
    fve_uncentred     1 − Σ‖e‖² / Σ‖x‖²
    fve_per_dim       mean_d (1 − Σ e_d² / Σ (x_d − x̄_d)²)

What concerns only ``x`` is accumulated once per site in :class:`SiteSums` and shared by its SAEs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saebench.metrics.estimates import Values, bootstrap, estimate, ratio
from saebench.metrics.moments import Moments
from saebench.metrics.sums import N_GROUPS, GroupSums, check_alike, row_chunks, wide
from saebench.record import Measurement
from saebench.stats import N_RESAMPLES

# Below this share of Σ‖x‖² a "variance" of float32 data is nothing but rounding.
DEGENERATE = 1e-18
# The mean of ratios is not clipped, but tokens below this are counted: a few of them can decide it.
LEGACY_FLOOR = -1.0

CONSTANT = "all counted tokens have the same activation, so there is no variance to explain"


@dataclass(frozen=True)
class Seen:
    """The tokens of one update, ``x[n, d]`` in ``groups[n]``, with what every SAE needs of them.

    ``squares``, ``norms`` and ``from_reference`` (``‖x − r‖²``) are float64 ``[n]``.
    """

    x: Tensor
    groups: Tensor
    squares: Tensor
    norms: Tensor
    from_reference: Tensor


class SiteSums:
    """Sums over the activations of one site: moments, norms, and the distance to ``reference[d]``.

    The reference stands in for the batch mean of the legacy definition: a mean that is known before
    the tokens are seen, so that the result does not depend on how the stream is cut into batches.
    """

    def __init__(self, reference: Tensor, n_groups: int = N_GROUPS) -> None:
        self.reference = wide(reference)
        self.moments = Moments(n_groups, reference.shape[0])
        self.sums = GroupSums(n_groups, ("square", "norm", "not_zero", "referable"))

    @torch.inference_mode()
    def update(self, x: Tensor, groups: Tensor) -> Seen:
        """Take in tokens ``x[n, d]`` with their ``groups[n]``; the result is for the SAEs here."""
        self.moments.update(x, groups)
        parts = []
        for rows in row_chunks(x.shape[0], 8 * x.shape[1], x.device):
            chunk = wide(x[rows])
            offset = chunk - self.reference.to(chunk.device)
            parts.append(torch.stack((_squares(chunk), offset.square_().sum(1))))
        both = torch.cat(parts, 1) if parts else x.new_zeros(2, 0, dtype=torch.float64)
        seen = Seen(x, groups, both[0], both[0].sqrt(), both[1])
        self.sums.count(groups)
        self.sums.add("square", seen.squares, groups)
        self.sums.add("norm", seen.norms, groups)
        self.sums.add("not_zero", seen.norms > 0, groups)
        self.sums.add("referable", seen.from_reference > 0, groups)
        return seen

    @torch.inference_mode()
    def merge(self, other: SiteSums) -> None:
        """Add another shard's sums; raises :class:`ConfigError` where the reference differs."""
        check_alike("reference mean", self.reference.tolist(), other.reference.tolist())
        self.moments.merge(other.moments)
        self.sums.merge(other.sums)


class ReconstructionSums:
    """Sums over the errors of one SAE: moments of ``e``, and scalars per token."""

    NAMES = ("sse", "legacy", "cosine", "dot", "square_out", "norm_out", "norm_ratio")

    def __init__(self, dim: int, n_groups: int = N_GROUPS) -> None:
        self.errors = Moments(n_groups, dim)
        self.sums = GroupSums(n_groups, self.NAMES)
        self.legacy_min = float("inf")
        self.legacy_below = 0
        self.zero_outputs = 0

    @torch.inference_mode()
    def update(self, seen: Seen, x_hat: Tensor) -> None:
        """Take in the reconstruction ``x_hat[n, d]`` of the tokens in ``seen``."""
        parts = []
        for rows in row_chunks(x_hat.shape[0], 8 * x_hat.shape[1], x_hat.device):
            x, out = wide(seen.x[rows]), wide(x_hat[rows])
            error = x - out
            self.errors.update(error, seen.groups[rows])
            parts.append(torch.stack((_squares(error), _squares(out), (x * out).sum(1))))
        if parts:
            self._add(seen, *torch.cat(parts, 1))

    @torch.inference_mode()
    def merge(self, other: ReconstructionSums) -> None:
        """Add another shard's sums."""
        self.errors.merge(other.errors)
        self.sums.merge(other.sums)
        self.legacy_min = min(self.legacy_min, other.legacy_min)
        self.legacy_below += other.legacy_below
        self.zero_outputs += other.zero_outputs

    def _add(self, seen: Seen, sse: Tensor, square_out: Tensor, dot: Tensor) -> None:
        norm_out = square_out.sqrt()
        zero = sse.new_zeros(())
        referable = seen.from_reference > 0
        legacy = torch.where(referable, 1 - sse / seen.from_reference, zero)
        product = seen.norms * norm_out
        per_token = {
            "sse": sse,
            "legacy": legacy,
            "cosine": torch.where(product > 0, dot / product, zero),
            "dot": dot,
            "square_out": square_out,
            "norm_out": norm_out,
            "norm_ratio": torch.where(seen.norms > 0, norm_out / seen.norms, zero),
        }
        self.sums.count(seen.groups)
        for name, values in per_token.items():
            self.sums.add(name, values, seen.groups)
        if referable.any():
            self.legacy_min = min(self.legacy_min, float(legacy[referable].min()))
        self.legacy_below += int((legacy < LEGACY_FLOOR).sum())
        self.zero_outputs += int((square_out == 0).sum())


def values(site: SiteSums, sae: ReconstructionSums, weights: Tensor | None = None) -> Values:
    """Every reconstruction metric, ``[1]``, or ``[R]`` under ``weights[R, groups present]``."""
    d = site.moments.dim
    sums = sae.sums
    n, mean_x, m2_x = site.moments.pooled(weights)
    _, mean_e, m2_e = sae.errors.pooled(weights)
    square, sse = site.sums.total("square", weights), sums.total("sse", weights)
    tss = m2_x.sum(1)
    tss = torch.where(tss > DEGENERATE * square, tss, 0)
    mean_square = square / n
    entries_x, entries_e = _entry_squares(n, mean_x, tss), _entry_squares(n, mean_e, m2_e.sum(1))
    referable = site.sums.total("referable", weights)
    return {
        "fve": 1 - ratio(sse, tss),
        "fve_legacy": ratio(sums.total("legacy", weights), referable),
        "fve_mean_square": 1 - sse / n / (mean_square - (mean_square / d) ** 2),
        "fve_var_residual": 1 - ratio(m2_e.sum(1), tss),
        "fve_scalar": 1 - ratio(entries_e, entries_x),
        "fve_uncentred": 1 - ratio(sse, square),
        "fve_per_dim": _per_dim(m2_x, m2_e + n[:, None] * mean_e.square(), square),
        "mse": sse / n,
        "mse_per_dim": sse / n / d,
        "cosine": sums.mean("cosine", weights),
        "l2_norm_in": site.sums.mean("norm", weights),
        "l2_norm_out": sums.mean("norm_out", weights),
        "l2_ratio": ratio(sums.total("norm_ratio", weights), site.sums.total("not_zero", weights)),
        "relative_reconstruction_bias": sums.total("square_out", weights)
        / sums.total("dot", weights),
    }


def fve_by_reading(
    site: SiteSums, sae: ReconstructionSums, n_readings: int, weights: Tensor | None = None
) -> Tensor:
    """FVE of each of ``n_readings`` equal parts of the width, ``[1 or R, n_readings]``.

    Not a number where a part has no variance. For what writes several activations side by side.
    """
    n, _, m2_x = site.moments.pooled(weights)
    _, mean_e, m2_e = sae.errors.pooled(weights)
    sse = (m2_e + n[:, None] * mean_e.square()).unflatten(1, (n_readings, -1)).sum(2)
    tss = m2_x.unflatten(1, (n_readings, -1)).sum(2)
    return 1 - ratio(sse, tss)


def measurements(
    site: SiteSums,
    sae: ReconstructionSums,
    *,
    n_sequences: int,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
    readings: Sequence[str] = (),
) -> dict[str, Measurement]:
    """Every reconstruction metric with its interval, by metric id.

    ``readings`` name the activations that stand side by side; of more than one, FVE is shown for
    each beside the pooled value, and the lowest is a metric of its own. Raises :class:`ConfigError`
    when the two did not see the same tokens.
    """
    check_alike("tokens in each group", site.sums.n.tolist(), sae.sums.n.tolist())
    n_groups = site.sums.present.shape[0]
    several = len(readings) > 1

    def everything(weights: Tensor | None) -> Values:
        found = values(site, sae, weights)
        if several:
            by_reading = fve_by_reading(site, sae, len(readings), weights)
            found["fve_lowest_reading"] = by_reading.min(1).values
        return found

    points, intervals = bootstrap(everything, n_groups, n_resamples, seed)
    details = _details(site, sae)
    if several:
        each = [
            value if math.isfinite(value) else None
            for value in fve_by_reading(site, sae, len(readings))[0].tolist()
        ]
        details["fve"] = {"by_reading": dict(zip(readings, each, strict=True))}
    found = [
        estimate(
            name,
            value,
            intervals[name],
            n_tokens=site.sums.n_tokens,
            n_sequences=n_sequences,
            reason=CONSTANT if name.startswith("fve") else None,
            detail=details.get(name),
        )
        for name, value in points.items()
    ]
    return {measured.metric: measured for measured in found}


def _details(site: SiteSums, sae: ReconstructionSums) -> dict[str, dict[str, Any]]:
    n_tokens = site.sums.n_tokens
    _, _, m2 = site.moments.pooled()
    constant = m2 <= DEGENERATE * site.sums.total("square")
    return {
        "fve_legacy": {
            "min_token": sae.legacy_min if math.isfinite(sae.legacy_min) else None,
            "tokens_below_minus_1": sae.legacy_below,
            "tokens_at_the_reference": n_tokens - int(site.sums.total("referable")),
        },
        "fve_per_dim": {"constant_dims": int(constant.sum())},
        "cosine": {"zero_outputs": sae.zero_outputs},
        "l2_ratio": {"zero_inputs": n_tokens - int(site.sums.total("not_zero"))},
    }


def _squares(x: Tensor) -> Tensor:
    """``‖x‖²`` of each row."""
    return x.square().sum(1)


def _entry_squares(n: Tensor, mean: Tensor, within: Tensor) -> Tensor:
    """``Σ (entry − mean of all entries)²`` from per-dimension means and the sum of ``M2``."""
    return within + n * (mean - mean.mean(1, keepdim=True)).square().sum(1)


def _per_dim(tss: Tensor, sse: Tensor, square: Tensor) -> Tensor:
    """Mean R² over dimensions; a constant dimension scores 1 if reproduced exactly, else 0.

    That convention is scikit-learn's (``r2_score`` with ``force_finite``).
    """
    constant = tss <= DEGENERATE * square[:, None]
    score = torch.where(constant, (sse == 0).double(), 1 - sse / tss)
    return torch.where(constant.all(1), torch.nan, score.mean(1))
