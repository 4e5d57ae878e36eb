"""From what was found on a concept to the measurements of a case."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from saebench.concepts import behaviour_minus_control
from saebench.measure.concepts.findings import CONTROL, HELD_OUT, TOO_FEW, TRAIN, CaseFindings
from saebench.metrics.definitions import definition
from saebench.metrics.estimates import estimate
from saebench.record import Measurement
from saebench.stats import Interval


@dataclass
class _Measured:
    """Collects measurements of one case."""

    found: CaseFindings
    by_metric: dict[str, Measurement] = field(default_factory=dict)

    def put(
        self,
        name: str,
        value: float | None,
        bounds: Interval | None = None,
        *,
        split: str = TRAIN,
        reason: str | None = None,
        **detail: Any,
    ) -> None:
        """One measurement on the texts of a split; counts are 0 where it has none that serve."""
        side = self.found.latents.sides.get(split)
        chosen = self.found.latents.chosen.get(split)
        where = side.separation if side is not None else chosen
        n_texts = 0 if where is None else where.n1 + where.n0
        if value is None or not np.isfinite(value):
            reason = reason or "s = 0: each class is constant, and they differ"
            metric = definition(f"concept_{name}").metric
            item = Measurement(metric, None, reason=reason, detail=detail)
        else:
            item = estimate(
                f"concept_{name}",
                value,
                bounds,
                n_tokens=self.found.n_tokens[split],
                n_sequences=n_texts,
                detail=detail,
            )
        self.by_metric[item.metric] = item


def measurements(found: CaseFindings) -> dict[str, Measurement]:
    """Every metric of the family by metric id."""
    into = _Measured(found)
    _of_training_texts(into)
    _of_the_chosen_latent(into)
    _of_other_splits(into)
    _of_halves(into)
    _of_activations(into)
    return into.by_metric


def _of_training_texts(into: _Measured) -> None:
    side = into.found.latents.train
    nulls = side.nulls
    best: dict[str, Any] = {
        "latent": side.best,
        "sign": side.sign,
        "n_infinite": side.separation.n_infinite,
    }
    null: dict[str, Any] = {"smallest_p": nulls.smallest_p, "n_permutations": nulls.n_permutations}
    into.put("d_max", nulls.d_max.observed, **best)
    into.put("d_max_null", nulls.d_max.quantiles[1], **_range(nulls.d_max.quantiles))
    into.put("d_max_p", nulls.d_max.p, **null)
    into.put("auroc_max", 0.5 + nulls.auroc_max.observed)
    into.put("auroc_max_p", nulls.auroc_max.p, **null)
    into.put("n_over_1", nulls.n_over_1.observed, n_eligible=int(side.eligible.sum()))
    into.put("n_over_1_null", nulls.n_over_1.quantiles[1], **_range(nulls.n_over_1.quantiles))
    into.put("n_over_1_p", nulls.n_over_1.p, **null)


def _of_the_chosen_latent(into: _Measured) -> None:
    latents = into.found.latents
    held, control = (latents.chosen.get(name) for name in (HELD_OUT, CONTROL))
    which: dict[str, Any] = {"latent": latents.train.best, "sign": latents.train.sign}
    reasons = latents.reasons
    for score in ("d", "g", "auroc"):
        value = None if held is None else getattr(held, score)
        bounds = None if held is None else held.intervals[score]
        into.put(
            f"{score}_held_out",
            value,
            bounds,
            split=HELD_OUT,
            reason=reasons.get(HELD_OUT),
            **which,
        )
    into.put(
        "held_out_p",
        None if held is None else held.p,
        split=HELD_OUT,
        reason=reasons.get(HELD_OUT),
        **which,
        smallest_p=None if held is None else held.smallest_p,
    )
    into.put(
        "d_control",
        None if control is None else control.d,
        None if control is None else control.intervals["d"],
        split=CONTROL,
        reason=reasons.get(CONTROL),
        **which,
    )
    if held is None or control is None:
        reason = reasons.get(CONTROL) or reasons.get(HELD_OUT)
        into.put("behaviour_minus_control", None, reason=reason)
        return
    value, bounds = behaviour_minus_control(held, control)
    into.put("behaviour_minus_control", value, bounds, split=HELD_OUT, **which)


def _of_other_splits(into: _Measured) -> None:
    latents = into.found.latents
    for name in (HELD_OUT, CONTROL):
        side, reason = latents.sides.get(name), latents.reasons.get(name)
        if side is None:
            into.put(f"d_max_{name}", None, reason=reason)
            into.put(f"d_max_{name}_p", None, reason=reason)
            continue
        null = side.nulls.d_max
        into.put(
            f"d_max_{name}", null.observed, split=name, latent=side.best, **_range(null.quantiles)
        )
        into.put(f"d_max_{name}_p", null.p, split=name, smallest_p=side.nulls.smallest_p)


def _of_halves(into: _Measured) -> None:
    halves = into.found.halves
    if halves is None:
        for name in ("top_k_overlap", "top_k_overlap_chance", "same_best"):
            into.put(name, None, reason=TOO_FEW)
        return
    found = halves.to_json()
    into.put(
        "top_k_overlap",
        found["overlap"]["mean"],
        k=halves.k,
        n_splits=found["n_splits"],
        shuffled=found["overlap_of_shuffled"],
    )
    into.put("top_k_overlap_chance", halves.chance, k=halves.k, m=halves.m)
    into.put("same_best", halves.agreement)


def _of_activations(into: _Measured) -> None:
    found = into.found.activations
    names = ("d_max_activations", "d_max_activations_p", "d_held_out_activations")
    if found.dimensions is None:
        for name in (*names, "d_held_out_mean_difference"):
            into.put(name, None, reason=found.reason)
        return
    side = found.dimensions.train
    into.put(names[0], side.nulls.d_max.observed, dimension=side.best)
    into.put(names[1], side.nulls.d_max.p, null=side.nulls.d_max.quantiles[1])
    for name, held in (
        (names[2], found.dimensions.chosen.get(HELD_OUT)),
        ("d_held_out_mean_difference", found.along.get(HELD_OUT)),
    ):
        into.put(
            name,
            None if held is None else held.d,
            None if held is None else held.intervals["d"],
            split=HELD_OUT,
            reason=found.dimensions.reasons.get(HELD_OUT),
        )


def _range(quantiles: tuple[float, float, float]) -> dict[str, Any]:
    return {"null_low": quantiles[0], "null_median": quantiles[1], "null_high": quantiles[2]}
