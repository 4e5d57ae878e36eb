"""From a sweep to measurements and to the tables of a card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from saebench.metrics.catalogue.steering import STEERING
from saebench.metrics.definitions import definition
from saebench.record import Measurement
from saebench.steering.directions import Cosine
from saebench.steering.dose_response import (
    Estimate,
    homogeneity,
    homogeneity_within,
    rate_trend,
    slope,
    spearman,
)
from saebench.steering.intervals import of_share, over_prompts
from saebench.steering.permutation import DRAWS
from saebench.steering.sweep import Against, Sweep, mean
from saebench.steering.undecided import Undecided

OUTCOMES = {"": "label", "logit_": "logit_difference"}  # by their prefix in names of metrics


@dataclass(frozen=True)
class Found:
    """The statistics of a sweep, made once for measurements and for tables."""

    sweep: Sweep
    trends: Mapping[str, Estimate]
    slopes: Mapping[str, Estimate]
    rates: Estimate
    chi2: Estimate
    chi2_within: Estimate
    undecided: Undecided
    against: Mapping[tuple[str, str], Against]

    @classmethod
    def of(cls, sweep: Sweep, *, draws: int = DRAWS, seed: int = 0) -> Found:
        """Everything that is computed from the outcomes."""
        options = {"draws": draws, "seed": seed}
        trends, slopes = {}, {}
        for name in OUTCOMES.values():
            values = getattr(sweep.steered, name)
            reason = sweep.missing.get(name)
            trends[name] = (
                Estimate(None, reason) if reason else spearman(sweep.alphas, values, **options)
            )
            slopes[name] = Estimate(None, reason) if reason else slope(sweep.alphas, values)
        labels = sweep.steered.label
        reason = sweep.missing.get("label")
        rates = chi2 = within = Estimate(None, reason)
        undecided = Undecided(Estimate(None, reason))
        if reason is None:
            rates = rate_trend(sweep.alphas, [mean(column) for column in labels.T], **options)
            chi2 = homogeneity(np.nansum(labels, 0), (~np.isnan(labels)).sum(0))
            within = homogeneity_within(labels, **options)
            undecided = Undecided.of(sweep.alphas, labels, **options)
        against = {
            (name, kind): Against.of(sweep, name, kind)
            for name in (*OUTCOMES.values(), "kl")
            for kind in ("random", "latent")
        }
        return cls(sweep, trends, slopes, rates, chi2, within, undecided, against)

    def to_json(self) -> dict[str, Any]:
        """The tables, as plain JSON values."""
        return {
            "rows": self.sweep.rows(),
            "trends": {name: item.to_json() for name, item in self.trends.items()},
            "slopes": {name: item.to_json() for name, item in self.slopes.items()},
            "rates": self.rates.to_json(),
            "homogeneity": {
                "independent": self.chi2.to_json(),
                "within_prompts": self.chi2_within.to_json(),
            },
            "undecided": self.undecided.to_json(),
            "controls": {
                f"{name}/{kind}": item.to_json() for (name, kind), item in self.against.items()
            },
            "not_measured": dict(self.sweep.missing),
            "same_at_zero": self.sweep.same_at_zero,
        }


def measurements(
    found: Found, cosine: Cosine, *, n_tokens: int, seed: int = 0
) -> dict[str, Measurement]:
    """Every steering metric by metric id; ``n_tokens`` were generated in the sweep.

    ``seed`` has no effect: no interval is drawn.
    """
    sweep = found.sweep
    kl = found.against["kl", "random"]
    at_one, worse, dropped = (make(sweep) for make in (_at_one, _incoherence, _dropped))
    within = found.chi2_within
    values: dict[str, _Value] = {
        **_of_outcome(found, "", "label"),
        **_of_outcome(found, "logit_", "logit_difference"),
        "rate_spearman": _Value(found.rates),
        "rate_spearman_p": _Value.p_of(found.rates),
        "homogeneity": _Value(found.chi2),
        "homogeneity_p": _Value.p_of(within, p_if_independent=found.chi2.p),
        "kl_at_1": _Value(at_one),
        "kl_p_random": _Value(Estimate(kl.p, kl.reason), _beside(kl)),
        "ce_increase": _Value(worse),
        "drop_rate": _Value(dropped, {"trend": found.undecided.trend.to_json()}),
        "cosine_mean_difference": _Value(
            Estimate(cosine.value, "one of the two has no length"), cosine.to_json()
        ),
        "neutral_at_zero": _Value(
            Estimate(
                None if sweep.same_at_zero is None else float(sweep.same_at_zero),
                "the sweep has no α that adds nothing",
            )
        ),
    }
    made = [
        value.measurement(f"steer_{name}", sweep.n_prompts, n_tokens)
        for name, value in values.items()
    ]
    assert {item.name for item in made} == {item.id for item in STEERING}
    return {item.metric: item for item in made}


def _of_outcome(found: Found, prefix: str, outcome: str) -> dict[str, _Value]:
    """Trend, slope and the ranks among controls for one outcome, by the names of metrics."""
    random, latent = (found.against[outcome, kind] for kind in ("random", "latent"))
    beside = _beside(random)
    of_trend, of_slope = (
        found.undecided.beside(name) if outcome == "label" else {} for name in ("trend", "slope")
    )
    return {
        f"{prefix}spearman": _Value(found.trends[outcome], of_trend),
        f"{prefix}spearman_p": _Value.p_of(found.trends[outcome], **of_trend),
        f"{prefix}slope": _Value(found.slopes[outcome], of_slope),
        f"{prefix}slope_over_random": _Value(
            Estimate(random.ratio, random.reason or "random directions have no effect"), beside
        ),
        f"{prefix}p_random": _Value(Estimate(random.p, random.reason), beside),
        f"{prefix}p_latents": _Value(
            Estimate(latent.p, latent.reason),
            _beside(latent),
        ),
    }


def _beside(against: Against) -> dict[str, Any]:
    """The effect, how many controls there are, unread ones included, and the least p they allow."""
    return {
        "effect": against.effect,
        "n_controls": against.n,
        "n_unread": against.n_unread,
        "smallest_p": against.smallest_p,
    }


@dataclass(frozen=True)
class _Value:
    """An estimate on its way to a measurement, with the detail that goes along."""

    estimate: Estimate
    detail: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def p_of(cls, tested: Estimate, **detail: Any) -> _Value:
        """The p of a test, with how it was made."""
        if tested.test is None:
            return cls(Estimate(None, tested.reason))
        how = {"how": tested.test.how, "smallest_p": tested.test.smallest}
        return cls(Estimate(tested.test.p), {**how, **detail})

    def measurement(self, name: str, n_prompts: int, n_tokens: int) -> Measurement:
        found = self.estimate
        bounds = found.bounds if found.value is not None else None
        reason = found.reason if found.value is None else None
        if bounds is not None and bounds.reason:
            reason = f"no interval: {bounds.reason}"
        return Measurement(
            definition(name).metric,
            found.value,
            low=bounds.low if bounds else None,
            high=bounds.high if bounds else None,
            n_tokens=n_tokens,
            n_sequences=n_prompts,
            interval=bounds.how if bounds else "",
            reason=reason,
            detail=dict(self.detail),
        )


def _at_one(sweep: Sweep) -> Estimate:
    if 1.0 not in sweep.alphas:
        return Estimate(None, "α = 1 is not among the strengths")
    return _mean_over_prompts(sweep.steered.kl[:, sweep.alphas.index(1.0)], least=0.0)


def _incoherence(sweep: Sweep) -> Estimate:
    if sweep.missing.get("ce"):
        return Estimate(None, sweep.missing["ce"])
    return _mean_over_prompts(sweep.at_ends("ce").mean(1) - sweep.unsteered.ce[:, 0])


def _dropped(sweep: Sweep) -> Estimate:
    if "label" in sweep.missing:
        return Estimate(None, sweep.missing["label"])
    shares = np.isnan(sweep.steered.label).mean(1)
    return Estimate(float(shares.mean()), bounds=of_share(shares))


def _mean_over_prompts(values: np.ndarray, least: float = -math.inf) -> Estimate:
    """The mean of ``values[n]`` that are there, with its interval; no value can be below ``least``."""
    there = values[~np.isnan(values)]
    if not len(there):
        return Estimate(None, "no completion has a token")
    return Estimate(float(there.mean()), bounds=over_prompts(there, bounds=(least, math.inf)))
