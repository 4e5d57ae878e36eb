"""From sums to the metrics of portability, each with its interval, and to the verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from torch import nan, where

from saebench.metrics import prediction
from saebench.metrics.definitions import definition
from saebench.metrics.estimates import ONE_GROUP, Values, estimate, ratio
from saebench.metrics.portability.latents import (
    alive,
    alive_shift,
    describe,
    survival,
)
from saebench.metrics.portability.sums import (
    DivergenceSums,
    ModelSums,
    PairSums,
    Resampling,
    SpreadSums,
    fve,
)
from saebench.metrics.portability.verdict import (
    TOST_LEVEL,
    equivalence,
    exceeded,
    overall,
    plain,
)
from saebench.metrics.sums import GroupSums, check_alike
from saebench.protocols import PortabilityProtocol
from saebench.record import Measurement
from saebench.stats import LEVEL, N_RESAMPLES, Interval, interval

PREFIX = "port_"
WORTHLESS = (
    "the FVE under the reference is not positive, so that a share of it has no meaning: check that the "
    "reference is the model that the checkpoint was trained on"
)
SAME = "the activations are the same under both"
EMPTY = "no token has codes that vary"
LEAST_GROUPS = 20  # of sequences; quantiles of fewer are no bounds to claim equivalence by
REASONS = {"fve_drop": WORTHLESS, "error_over_drift": SAME, "sample_correlation": EMPTY}
REASONS["survival"] = "no latent fires often enough under the reference to be followed"
REASONS |= dict.fromkeys(("survival_median", "jaccard"), REASONS["survival"])
REASONS |= dict.fromkeys(("jaccard_pooled", "top_k_agreement"), "no latent fires")


@dataclass(frozen=True)
class Both:
    """What was summed of one checkpoint under the reference and under a variant.

    ``native`` is another checkpoint, trained on the variant, on the variant's activations.
    """

    spreads: tuple[SpreadSums, SpreadSums]
    models: tuple[ModelSums, ModelSums]
    pair: PairSums
    native: ModelSums | None = None


@dataclass
class Found:
    """Measurements by metric id, and the details that belong to none of them."""

    measurements: dict[str, Measurement] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def values(sums: Both, how: Resampling | None = None) -> Values:
    """What follows from sums over tokens, ``[1]``, or ``[R]`` in each resample."""
    weights = None if how is None else how.weights()
    before, after = (
        fve(spread, model, how) for spread, model in zip(sums.spreads, sums.models, strict=True)
    )
    l0 = [model.sums.mean("l0", weights) for model in sums.models]
    total = partial(sums.pair.sums.total, weights=weights)
    found = {
        "fve_reference": before,
        "fve_variant": after,
        "fve_shift": after - before,
        "fve_drop": where(before > 0, (before - after) / before, nan),
        "l0_reference": l0[0],
        "l0_variant": l0[1],
        "l0_ratio": ratio(l0[1], l0[0]),
        "drift": ratio(total("shift"), total("square")).sqrt(),
        "drift_cosine": sums.pair.sums.mean("cosine", weights),
        "error_over_drift": ratio(
            sums.models[1].sums.total("sse", weights), total("target_shift")
        ).sqrt(),
        "sample_correlation": ratio(total("correlation"), total("correlated")),
        "top_k_agreement": ratio(total("agreement"), total("agreeing")),
    }
    if sums.native is not None:
        native = fve(sums.spreads[1], sums.native, how)
        found |= {"fve_native": native, "transfer_gap": after - native}
    return found


def measurements(
    sums: Both,
    protocol: PortabilityProtocol,
    *,
    n_sequences: int,
    fixed_k: int | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Found:
    """Every metric on codes, reconstructions and activations, and both verdicts.

    ``fixed_k`` is how many latents fire by construction, where the activation function says so. Raises
    :class:`ConfigError` when the sums are not of the same tokens.
    """
    native = () if sums.native is None else (sums.native,)
    counts = [one.sums.n.tolist() for one in (*sums.spreads, *sums.models, sums.pair, *native)]
    for other in counts[1:]:
        check_alike("tokens in each group", counts[0], other)
    how = Resampling(sums.pair.sums.present.shape[0], n_resamples, seed)
    points, intervals, samples = resampled(partial(values, sums), how)
    latent_points, latent_intervals = survival(sums.pair.latents, protocol.survival)
    points, intervals = points | latent_points, intervals | latent_intervals
    before, after = alive(sums.pair.latents)
    points["alive_reference"], points["alive_variant"] = float(before), float(after)
    points["alive_shift"], intervals["alive_shift"] = alive_shift(sums.pair.latents)
    n_tokens = sums.pair.sums.n_tokens
    made = partial(estimate, n_tokens=n_tokens, n_sequences=n_sequences)
    detail: dict[str, dict[str, Any]] = {
        "l0_ratio": {"fixed_by_k": fixed_k},
        "top_k_agreement": {"k": protocol.top_k},
        "sample_correlation": _counted(sums.pair.sums),
    }
    found = Found(details={"latents": describe(sums.pair.latents, protocol.survival)})
    for name, value in points.items():
        reason = REASONS.get(name) or intervals.get(name, Interval(None, None)).reason
        add(
            found,
            made(PREFIX + name, value, intervals.get(name), reason=reason, detail=detail.get(name)),
        )
    shown = tost_intervals(sums, samples, how)
    for item in verdicts(points, shown, protocol, made):
        add(found, item)
    found.details["equivalence_intervals"] = plain(shown)
    return found


def _counted(sums: GroupSums) -> dict[str, Any]:
    """How many tokens have a correlation, and the shares silent on one side (0) and on both (left out)."""
    n = max(sums.n_tokens, 1)
    return {
        "tokens": int(sums.total("correlated")),
        "share_silent_on_one": float(sums.total("silent_on_one")) / n,
        "share_silent_on_both": float(sums.total("silent_on_both")) / n,
    }


def resampled(
    quantities: Any, how: Resampling
) -> tuple[dict[str, float], dict[str, Interval], dict[str, np.ndarray]]:
    """Points, 95 % intervals and the resamples of ``quantities(how)``; no interval of a single group."""
    points = {name: float(value[0]) for name, value in quantities(None).items()}
    if how.n_groups < 2:
        return points, dict.fromkeys(points, Interval(None, None, reason=ONE_GROUP)), {}
    samples = {name: value.numpy() for name, value in quantities(how).items()}
    return points, {name: interval(sample, LEVEL) for name, sample in samples.items()}, samples


def tost_intervals(
    sums: Both, samples: Mapping[str, np.ndarray], how: Resampling
) -> dict[str, Interval]:
    """The 90 % intervals of the relative FVE drop and of the alive shift; none of few sequences."""
    if (n := how.n_groups) < LEAST_GROUPS:
        reason = (
            f"{n} sequence{'s are' if n != 1 else ' is'} too few: equivalence takes {LEAST_GROUPS}"
        )
        return dict.fromkeys(("fve_drop", "alive_shift"), Interval(None, None, reason=reason))
    drop = interval(samples["fve_drop"], TOST_LEVEL)
    return {"fve_drop": drop, "alive_shift": alive_shift(sums.pair.latents, TOST_LEVEL)[1]}


def verdicts(
    points: Mapping[str, float],
    bounds: Mapping[str, Interval],
    protocol: PortabilityProtocol,
    made: Any,
) -> list[Measurement]:
    """The verdict of the rule, and whether equivalence was shown."""
    drop, shift = points["fve_drop"], points["alive_shift"]
    if not (math.isfinite(drop) and math.isfinite(shift)):
        reason = WORTHLESS if not math.isfinite(drop) else "no latent fires under the reference"
        names = ("portable", "equivalent")
        return [made(PREFIX + name, None, reason=reason) for name in names]
    over = exceeded(drop, shift, protocol)
    rule = {
        "verdict": "retrain" if over else "portable",
        "exceeded": list(over),
        "limits": {"fve_drop": protocol.fve_drop, "alive_shift": protocol.alive_shift},
    }
    margins = {"fve_drop": protocol.fve_margin, "alive_shift": protocol.alive_margin}
    parts = {name: equivalence(bounds[name], margin) for name, margin in margins.items()}
    whole = overall(list(parts.values()))
    tested = {
        "verdict": whole,
        "parts": parts,
        "margins": margins,
        "level": TOST_LEVEL,
        "test": "two one-sided tests at 5 %",
    }
    if why := next((one.reason for one in bounds.values() if one.low is None), None):
        tested["reason"] = why
    return [
        made(PREFIX + "portable", float(not over), detail=rule),
        made(PREFIX + "equivalent", float(whole == "equivalent"), detail=tested),
    ]


def predictions(
    reference: GroupSums,
    variant: GroupSums,
    divergence: DivergenceSums | None,
    *,
    n_sequences: int,
    n_readings: int = 1,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> dict[str, Measurement]:
    """CE of both models with nothing spliced in, its shift, and both divergences of the variant.

    The first two hold ``ce_clean``, once for each of ``n_readings``. Without a ``divergence`` there are
    none. Raises :class:`ConfigError` when the sums are not of the same positions.
    """
    check_alike("tokens in each group", reference.n.tolist(), variant.n.tolist())

    def quantities(how: Resampling | None) -> Values:
        weights = None if how is None else how.weights()
        before, after = (sums.mean("ce_clean", weights) for sums in (reference, variant))
        found = {"ce_reference": before, "ce_variant": after, "ce_shift": after - before}
        for name in divergence.sums.sums if divergence is not None else ():
            assert divergence is not None
            found[name] = divergence.sums.mean(name, weights)
        return found

    how = Resampling(reference.present.shape[0], n_resamples, seed)
    points, intervals, _ = resampled(quantities, how)
    found = Found()
    for name, value in points.items():
        one = estimate(
            PREFIX + name,
            value,
            intervals[name],
            n_tokens=reference.n_tokens // n_readings,
            n_sequences=n_sequences,
        )
        add(found, one)
    return found.measurements


def spliced(
    floors: GroupSums,
    sums: GroupSums,
    *,
    on_variant: bool,
    n_sequences: int,
    n_readings: int = 1,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> dict[str, Measurement]:
    """CE recovered and KL of one model with the reconstruction spliced in, as the main pass has them."""
    measured = prediction.measurements(
        floors,
        sums,
        n_sequences=n_sequences,
        n_readings=n_readings,
        n_resamples=n_resamples,
        seed=seed,
    )
    suffix = "" if on_variant else "_reference"
    found = Found()
    for name, ours in (("ce_recovered", "ce_recovered"), ("kl", "kl_spliced")):
        metric = definition(f"{PREFIX}{ours}{suffix}").metric
        add(found, replace(measured[definition(name).metric], metric=metric))
    return found.measurements


def add(found: Found, measured: Measurement) -> None:
    """Put a measurement under its metric id."""
    found.measurements[measured.metric] = measured
