"""From the sums over a crosscoder to its metrics and the tables of its report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from saebench.metrics.catalogue import CROSSCODER
from saebench.metrics.crosscoder.geometry import Geometry
from saebench.metrics.crosscoder.ratios import (
    CANDIDATES,
    COMPARED,
    ERROR,
    RECONSTRUCTION,
    Ratios,
)
from saebench.metrics.crosscoder.shares import METRICS, shares
from saebench.metrics.crosscoder.sources import SourceErrors, explained
from saebench.metrics.crosscoder.taxonomy import (
    CLASSES,
    DEAD,
    RULES,
    SHARED,
    Floats,
    Names,
    classify,
    counts,
    delta_norm,
    relative_norm,
)
from saebench.metrics.definitions import definition
from saebench.metrics.estimates import bootstrap, estimate
from saebench.metrics.moments import Moments
from saebench.metrics.reconstruction import CONSTANT
from saebench.metrics.sparsity import SparsitySums
from saebench.record import Measurement
from saebench.stats import N_RESAMPLES, Interval, rule_of_three

STORED_LATENTS = 131_072  # above it no column of every latent is kept
COSINES = (0.7, 0.9)
COSINE_EDGES = np.linspace(-1, 1, 11)
NORM_EDGES = np.linspace(0, 1, 51)
QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Found:
    """What a pass found of one crosscoder: moments and errors of its models, firings, rows and scaling.

    ``ratios`` is None where ``unscaled`` says why there is no scaling.
    """

    moments: Moments
    errors: SourceErrors
    firing: SparsitySums
    geometry: Geometry
    ratios: Ratios | None
    unscaled: str = ""

    @property
    def names(self) -> Names:
        """The class of each latent by Δ_norm."""
        return classify(self.geometry.norms, self.firing.fired > 0)

    def measurements(
        self, *, n_sequences: int, n_resamples: int = N_RESAMPLES, seed: int = 0
    ) -> dict[str, Measurement]:
        """Every metric of the suite by metric id."""
        n_tokens = self.firing.sums.n_tokens

        def made(
            name: str,
            value: float | None,
            bounds: Interval | None,
            reason: str | None = None,
            **detail: Any,
        ) -> Measurement:
            return estimate(
                name,
                value,
                bounds,
                n_tokens=n_tokens,
                n_sequences=n_sequences,
                reason=reason,
                detail=detail,
            )

        n_groups = self.moments.present.shape[0]
        points, intervals = bootstrap(
            lambda weights: explained(self.moments, self.errors, weights),
            n_groups,
            n_resamples,
            seed,
        )
        found = [made(name, value, intervals[name], CONSTANT) for name, value in points.items()]
        for name, share in shares(self.geometry.norms, self.firing).items():
            window = self.window if name == DEAD else {"n": share.count, "of": share.total}
            found.append(
                made(METRICS[name], share.value, share.bounds, share.bounds.reason, **window)
            )
        cosine = _cosines(self.geometry.cosine[self.names == SHARED])
        reason = None if cosine["n"] else "no shared latent fired"
        found.append(made("cc_cosine_shared", cosine["median"], None, reason, **cosine))
        if self.ratios is None:
            scaled = [m for item in CROSSCODER if (m := _unscaled(item.id, self.unscaled))]
        else:
            scaled = [
                made(name, ratio.value, ratio.bounds, ratio.reason, **ratio.detail)
                for name, ratio in self.ratios.measured().items()
            ]
        return {measured.metric: measured for measured in [*found, *scaled]}

    @property
    def window(self) -> dict[str, Any]:
        """What death is relative to."""
        fired, rise = self.firing.fired, self.firing.rise()
        return {
            "n_latents": self.firing.d_sae,
            "dead": int((fired == 0).sum()),
            "n_tokens": self.firing.sums.n_tokens,
            "density_upper_bound": rule_of_three(self.firing.sums.n_tokens),
            "alive_rise_last_doubling": rise,
        }

    def details(self) -> dict[str, Any]:
        """The tables of the report, as plain JSON."""
        fired, names = self.firing.fired > 0, self.names
        norms, cosine = self.geometry.norms, self.geometry.cosine
        relative = relative_norm(norms)
        by_class = {name: names == name for name in CLASSES}
        l0 = float(self.firing.sums.mean("l0")[0])
        found = {
            "l0": l0 if math.isfinite(l0) else None,
            "window": self.window,
            "rules": dict(RULES),
            "counts": {rule: counts(classify(norms, fired, rule)) for rule in RULES},  # type: ignore[arg-type]
            "counts_stored_units": {
                rule: counts(classify(self.geometry.stored_norms, fired, rule))  # type: ignore[arg-type]
                for rule in RULES
            },
            "classes": {
                name: {
                    "n": int(own.sum()),
                    "cosine": _cosines(cosine[own]),
                    "norms": _norms(norms[own]),
                    "firings": int(self.firing.fired.numpy()[own].sum()),
                }
                for name, own in by_class.items()
            },
            "histograms": {
                "relative_norm": _histogram(relative, by_class, NORM_EDGES),
                "cosine": _histogram(cosine, by_class, COSINE_EDGES),
            },
            "scaling": {"reason": self.unscaled} if self.ratios is None else self.ratios.details(),
        }
        if self.firing.d_sae <= STORED_LATENTS:
            found["latents"] = self._columns(names)
        return found

    def _columns(self, names: Names) -> dict[str, Any]:
        """One entry per latent in each column, rounded; None where undefined."""
        columns: dict[str, Floats] = {
            "delta_norm": delta_norm(self.geometry.norms),
            "cosine": self.geometry.cosine,
        }
        if self.ratios is not None:
            columns |= {f"nu_{name}": self.ratios.nu[name] for name in (ERROR, RECONSTRUCTION)}
        found: dict[str, Any] = {name: _rounded(values) for name, values in columns.items()}
        return {"class": names.tolist(), **found, "firings": self.firing.fired.tolist()}


def unmeasured(reason: str) -> dict[str, Measurement]:
    """Every metric of the suite without a value, for one reason."""
    return {item.metric: Measurement(item.metric, None, reason=reason) for item in CROSSCODER}


def _unscaled(name: str, reason: str) -> Measurement | None:
    """A metric of scaling without a value; None for the other metrics."""
    scaled = name.startswith("cc_nu") or name in (COMPARED, *CANDIDATES)
    return Measurement(definition(name).metric, None, reason=reason) if scaled else None


def _cosines(cosine: Floats) -> dict[str, Any]:
    """Median, quartiles, and shares above fixed cosines of those latents that have one."""
    known = cosine[np.isfinite(cosine)]
    if not known.size:
        return {"n": 0, "median": None}
    low, median, high = (float(q) for q in np.quantile(known, QUARTILES))
    above = {
        f"above_{str(limit).replace('.', '_')}": float((known > limit).mean()) for limit in COSINES
    }
    return {"n": int(known.size), "median": median, "quartiles": [low, high], **above}


def _norms(norms: Floats) -> dict[str, Any]:
    """Median norm in each model."""
    if not len(norms):
        return {"base": None, "chat": None}
    base, chat = np.median(norms, axis=0)
    return {"base": float(base), "chat": float(chat)}


def _histogram(values: Floats, by_class: Mapping[str, Any], edges: Floats) -> dict[str, Any]:
    """Counts of the latents of each class between ``edges``, without those that have no value."""
    clipped = np.clip(values, edges[0], edges[-1])
    per_class = {
        name: [int(n) for n in np.histogram(clipped[own & np.isfinite(clipped)], edges)[0]]
        for name, own in by_class.items()
    }
    return {"edges": edges.round(6).tolist(), "counts": per_class}


def _rounded(values: Floats) -> list[float | None]:
    return [round(value, 4) if math.isfinite(value) else None for value in values.tolist()]
