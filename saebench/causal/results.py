"""From equivalence per latent to the columns, class summaries and gaps that a record holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from saebench.causal import summary
from saebench.causal.correlations import Floats
from saebench.causal.equivalence import (
    BASE,
    CHAT,
    LATENT,
    NULLS,
    RANDOM,
    STATISTICS,
    Correlated,
    Equivalence,
)
from saebench.causal.summary import Estimate
from saebench.causal.table import Ints

SHARED = "shared"
DIGITS = 6
HALF, HIGH = 0.5, 0.9
COMPARED = ("pearson", "spearman", "log", "partial_log")  # statistics that nulls have columns of
SURE_BY = ("pearson", "spearman")  # whose whole intervals have to be below the limit in a sure gap
DIFFERENCES = ("pearson", "partial_log")  # those that are set against the nulls latent by latent


@dataclass(frozen=True)
class Latents:
    """The latents tested, one row each, as the tables have them.

    ``names[L]`` are their classes, ``norms[L, M]`` those of the decoder rows in each model, ``cosine[L]``
    that of the two rows (NaN where one is 0), ``partner[L]`` the latent of the mismatch (-1 for none),
    ``n_sequences[L]`` in how many sequences they fire.
    """

    latent: Ints
    names: npt.NDArray[np.str_]
    norms: Floats
    cosine: Floats
    partner: Ints
    n_sequences: Ints


@dataclass(frozen=True)
class PairResult:
    """Everything a record says of latents ablated in two models; made once for tables and measurements."""

    latents: Latents
    found: Equivalence
    min_probes: int
    gap_cosine: float
    gap_equivalence: float
    n_resamples: int
    seed: int

    @cached_property
    def columns(self) -> dict[str, list[Any]]:
        """A list per column, a place per latent; None where something is undefined."""
        who, found = self.latents, self.found
        bounds = {
            f"{name}_{edge}": pair[place]
            for name, pair in found.bounds.items()
            for place, edge in enumerate(("low", "high"))
        }
        numbers: dict[str, npt.NDArray[Any]] = {
            "latent": who.latent,
            "cosine": who.cosine,
            "norm_base": who.norms[:, BASE],
            "norm_chat": who.norms[:, CHAT],
            "n_sequences": who.n_sequences,
            "n_probes": found.n_probes,
            "n_log": found.forward.n_log,
            **self._statistics,
            **bounds,
        }
        plain = {name: rounded(values) for name, values in numbers.items()}
        plain["class"] = [str(name) for name in who.names]
        plain["mismatched_with"] = [int(k) if k >= 0 else None for k in who.partner]
        plain["reason"] = list(found.reasons)
        return plain

    @cached_property
    def _statistics(self) -> dict[str, Floats]:
        """Every statistic per latent that classes are summed up by, by the name of its column."""
        found = self.found
        values = {name: found.forward.values[name] for name in STATISTICS}
        values |= {f"reverse_{name}": found.reverse.values[name] for name in STATISTICS}
        for arm in NULLS:
            if arm in found.nulls:
                values |= _columns_of(arm, found.nulls[arm])
        values |= {
            "effect_base": found.effect[LATENT][BASE],
            "effect_chat": found.effect[LATENT][CHAT],
        }
        if RANDOM in found.effect:
            values["random_effect_base"] = found.effect[RANDOM][BASE]
            values["random_effect_chat"] = found.effect[RANDOM][CHAT]
        for arm, name in ((LATENT, "logit_cosine"), (RANDOM, "random_logit_cosine")):
            if arm in found.logit_cosine:
                values[name] = found.logit_cosine[arm]
        return values

    @cached_property
    def differences(self) -> dict[str, Floats]:
        """Each statistic less that under a null, ``[L]``, by ``pearson_over_random`` and so on."""
        found = self.found
        return {
            f"{name}_over_{arm}": found.forward.values[name] - null.values[name]
            for arm, null in found.nulls.items()
            for name in DIFFERENCES
        }

    @cached_property
    def effects(self) -> Effects:
        """The size of the shifts, averaged over both models, beside that of random directions."""
        effect, random = self.found.effect[LATENT], self.found.effect.get(RANDOM)
        own = (effect[BASE] + effect[CHAT]) / 2
        return Effects(own, None if random is None else (random[BASE] + random[CHAT]) / 2)

    def of_class(self, name: str) -> dict[str, Estimate]:
        """The median of every statistic over a class, by column, with shares above .5 and .9."""
        mine = self.latents.names == name
        options = {"n_resamples": self.n_resamples, "seed": self.seed}
        every = {**self._statistics, **self.differences, "effect_ratio": self.effects.ratio}
        found = {key: summary.median(values[mine], **options) for key, values in every.items()}
        r = self.found.forward.values["pearson"][mine]
        for limit in (HALF, HIGH):
            found[f"above_{limit}"] = summary.share(summary.above(r, limit))
        found["above_random_effect"] = summary.share(self.effects.above[mine])
        return found

    @cached_property
    def classes(self) -> dict[str, dict[str, Estimate]]:
        """:meth:`of_class` of each class that has latents here."""
        return {str(name): self.of_class(str(name)) for name in sorted(set(self.latents.names))}

    def undefined(self, name: str) -> dict[str, int]:
        """Why latents of a class have no correlation, and how many."""
        mine = self.latents.names == name
        return summary.reasons_counted(
            [reason for reason, own in zip(self.found.reasons, mine, strict=True) if own]
        )

    @cached_property
    def gap_point(self) -> Floats:
        """1 for shared latents whose cosine is high and whose r is low, 0 for others, ``[L]``.

        NaN where one of them is not known. Noise of the probes makes some of a latent that is no gap.
        """
        r, cosine = self.found.forward.values["pearson"], self.latents.cosine
        known = np.isfinite(r) & np.isfinite(cosine) & (self.latents.names == SHARED)
        with np.errstate(invalid="ignore"):
            gap = (cosine > self.gap_cosine) & (r < self.gap_equivalence)
        return np.where(known, gap.astype(np.float64), np.nan)

    @cached_property
    def gap(self) -> Floats:
        """1 where the intervals of r and of ρ lie below the limit, too, so that noise is no explanation.

        Both, since Pearson's alone covers too little where shifts have heavy tails; an interval that is not
        defined shows nothing. ``[L]``, as :attr:`gap_point`.
        """
        below = np.ones(len(self.gap_point), dtype=bool)
        for name in SURE_BY:
            high = self.found.bounds[name][1]
            with np.errstate(invalid="ignore"):
                below &= high < self.gap_equivalence
        return np.where(np.isfinite(self.gap_point), self.gap_point * below, np.nan)

    @property
    def gap_share(self) -> Estimate:
        """The share of shared latents that are gaps for sure: whole intervals are below the limit."""
        return summary.share(self.gap)

    @property
    def gap_share_point(self) -> Estimate:
        """The share of shared latents whose r is below the limit, noise included."""
        return summary.share(self.gap_point)

    @property
    def cosine_correlation(self) -> Estimate:
        """Spearman's ρ of decoder cosine and Pearson's r over the shared latents."""
        mine = self.latents.names == SHARED
        return summary.rank_correlation(
            self.latents.cosine[mine],
            self.found.forward.values["pearson"][mine],
            n_resamples=self.n_resamples,
            seed=self.seed,
        )

    def gaps(self) -> dict[str, Any]:
        """Latents whose r is below the limit, the sure gaps first and lowest r first, and which are sure.

        ``n_random_below`` of them, out of the ``n_random_known`` that have a null, have a random direction
        below the limit on the same probes: their contexts differ for any direction. Plain JSON.
        """
        r = self.found.forward.values["pearson"]
        rows = np.flatnonzero(self.gap_point == 1)
        rows = rows[np.lexsort((self.latents.latent[rows], r[rows], self.gap[rows] != 1))]
        sure = rows[self.gap[rows] == 1]
        with np.errstate(invalid="ignore"):
            candidates = np.isfinite(self.gap_point) & (self.latents.cosine > self.gap_cosine)
        null = self.found.nulls.get(RANDOM)
        random = np.zeros(0) if null is None else null.values["pearson"][rows]
        random = random[np.isfinite(random)]
        return {
            "latents": self.latents.latent[rows].tolist(),
            "sure": self.latents.latent[sure].tolist(),
            "n_random_below": int((random < self.gap_equivalence).sum()),
            "n_random_known": len(random),
            "n_candidates": int(candidates.sum()),
            "n_known": int(np.isfinite(self.gap_point).sum()),
            "cosine": self.gap_cosine,
            "equivalence": self.gap_equivalence,
        }


@dataclass(frozen=True)
class Effects:
    """Mean shifts ``own[L]`` of latents, and ``random[L]`` of random directions of equal norm (or None)."""

    own: Floats
    random: Floats | None

    @cached_property
    def ratio(self) -> Floats:
        """Own over random, ``[L]``; NaN where a random direction does nothing."""
        if self.random is None:
            return np.full(len(self.own), np.nan)
        out = np.full(len(self.own), np.nan)
        return np.divide(self.own, self.random, out=out, where=self.random > 0)

    @cached_property
    def above(self) -> Floats:
        """1 where the latent's own mean shift is the larger, 0 where not, NaN where one is not known."""
        random = np.full(len(self.own), np.nan) if self.random is None else self.random
        known = np.isfinite(self.own) & np.isfinite(random)
        with np.errstate(invalid="ignore"):
            return np.where(known, (self.own > random).astype(np.float64), np.nan)


def rounded(values: npt.NDArray[Any]) -> list[Any]:
    """Plain numbers of six significant digits; None for what is not a number, integers as they are."""
    if np.issubdtype(values.dtype, np.integer):
        return [int(value) for value in values]
    return [
        float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in values.tolist()
    ]


def summaries(found: Mapping[str, Estimate]) -> dict[str, Any]:
    """Estimates as plain JSON values, numbers rounded."""
    return {name: _rounded(item.to_json()) for name, item in found.items()}


def _rounded(item: Mapping[str, Any]) -> dict[str, Any]:
    def one(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.{DIGITS}g}")
        return [one(part) for part in value] if isinstance(value, list) else value

    return {name: one(value) for name, value in item.items()}


def _columns_of(arm: str, null: Correlated) -> dict[str, Floats]:
    return {f"{arm}_{name}": null.values[name] for name in COMPARED}
