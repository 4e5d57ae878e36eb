"""Latent scaling by class: medians, candidates for two artefacts of training, and controls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saebench.metrics.crosscoder.geometry import CHAT, Geometry
from saebench.metrics.crosscoder.scaling import (
    REASONS,
    TARGETS,
    Scalings,
    present_blocks,
    resampled_ratios,
    scalings,
)
from saebench.metrics.crosscoder.scaling_sums import ScalingSums
from saebench.metrics.crosscoder.taxonomy import CHAT_ONLY, DEAD, SHARED, Floats, Names
from saebench.stats import N_RESAMPLES, Interval, bootstrap_weights, interval

ERROR, RECONSTRUCTION = "error", "reconstruction"
# A chat-only latent below both is specific to the chat model. Source: Minder et al. 2025, 2504.02922.
LIMITS = {ERROR: 0.2, RECONSTRUCTION: 0.5}
EDGES = np.linspace(-0.5, 1.5, 21)
RESAMPLE_ROWS = 64  # resamples computed together: bounds [rows, latents] temporaries
NONE = "no {} latent has a scaling"


@dataclass(frozen=True)
class Ratio:
    """A quantity over a class of latents with its bounds; None where ``reason`` says why."""

    value: float | None
    bounds: Interval
    reason: str | None = None


class Ratios:
    """``ν^ε`` and ``ν^r`` of the latents of a crosscoder, by class.

    At most ``n_compared`` latents of a class are summed up, drawn with ``seed``.
    """

    def __init__(
        self,
        sums: ScalingSums,
        geometry: Geometry,
        names: Names,
        *,
        min_firings: int,
        n_compared: int,
        seed: int,
    ) -> None:
        self.sums, self.geometry, self.names = sums, geometry, names
        self.n_compared, self.seed, self.min_firings = n_compared, seed, min_firings
        self.found: Scalings = scalings(sums, geometry, min_firings)
        self.nu = {target: self.found.ratio(target) for target in (ERROR, RECONSTRUCTION)}
        self.known = np.isfinite(self.nu[ERROR]) & np.isfinite(self.nu[RECONSTRUCTION])
        self.members = {name: self.draw(name, n_compared) for name in (CHAT_ONLY, SHARED)}

    def draw(self, name: str, most: int) -> npt.NDArray[np.int64]:
        """The latents of a class that have both ratios, ascending; ``most`` of them at random if more."""
        every = np.flatnonzero((self.names == name) & self.known)
        if len(every) <= most:
            return every
        return np.sort(np.random.default_rng(self.seed).choice(every, most, replace=False))

    def measured(self, *, n_resamples: int = N_RESAMPLES, seed: int = 0) -> dict[str, Ratio]:
        """The metrics of scaling, by name, with bounds from resampled blocks of sequences."""
        n_blocks = len(present_blocks(self.sums))
        weights = bootstrap_weights(n_blocks, n_resamples, seed) if n_blocks > 1 else None
        found: dict[str, Ratio] = {}
        for name, latents in self.members.items():
            points = _summary(
                name, self.nu[ERROR][None, latents], self.nu[RECONSTRUCTION][None, latents]
            )
            bounds = self._bounds(name, latents, weights, f"{n_blocks} blocks of sequences")
            for metric, value in points.items():
                reason = None if len(latents) else NONE.format(name.replace("_", "-"))
                point = float(value[0]) if math.isfinite(value[0]) else None
                found[metric] = Ratio(point, bounds[metric], reason)
        return found

    def _bounds(
        self, name: str, latents: npt.NDArray[np.int64], weights: Floats | None, unit: str
    ) -> dict[str, Interval]:
        if weights is None or not len(latents):
            lone = Interval(None, None, reason="an interval needs sequences in at least two blocks")
            return dict.fromkeys(_summary(name, np.zeros((1, 0)), np.zeros((1, 0))), lone)
        rows = np.array_split(weights, math.ceil(len(weights) / RESAMPLE_ROWS))
        drawn = resampled_ratios(self.sums, self.geometry, latents, rows)
        parts = [_summary(name, *ratios) for ratios in drawn]
        return {
            metric: interval(np.concatenate([part[metric] for part in parts]), unit=unit)
            for metric in parts[0]
        }

    def details(self) -> dict[str, Any]:
        """Why latents have no scaling, medians of every ``β``, candidates, and what they are set beside."""
        chat = self.members[CHAT_ONLY]
        matched = self.draw(SHARED, len(chat))
        return {
            "min_firings": self.min_firings,
            "undefined": self._undefined(),
            "limits": dict(LIMITS),
            "candidates": self._candidates(),
            "classes": {name: self._medians(latents) for name, latents in self.members.items()},
            "matched_shared": {"seed": self.seed, **self._medians(matched)},
            "histograms": {
                "edges": EDGES.round(6).tolist(),
                **{
                    target: {
                        name: _histogram(nu[latents]) for name, latents in self.members.items()
                    }
                    for target, nu in self.nu.items()
                },
            },
            "control": self._control(),
        }

    def _undefined(self) -> dict[str, Any]:
        """How many latents have no ratio, by reason and, of those that fired, by class."""
        why = np.where((self.found.why == "") & ~self.known, "no_chat_scaling", self.found.why)
        reasons = {**REASONS, "no_chat_scaling": "its scaling in the chat model is 0"}
        alive = self.names != DEAD
        return {
            name: {
                "words": words,
                "n": int((why == name).sum()),
                "by_class": {
                    one: int(((why == name) & (self.names == one)).sum())
                    for one in sorted(set(self.names[alive].tolist()))
                },
            }
            for name, words in reasons.items()
        }

    def _candidates(self) -> dict[str, int]:
        """Of the chat-only latents: how many scaling confirms, and how many look like an artefact."""
        own = (self.names == CHAT_ONLY) & self.known
        error, written = (self.nu[target][own] >= limit for target, limit in LIMITS.items())
        return {
            "n": int(own.sum()),
            "chat_specific": int((~error & ~written).sum()),
            "complete_shrinkage": int(error.sum()),
            "latent_decoupling": int(written.sum()),
            "both": int((error & written).sum()),
        }

    def _medians(self, latents: npt.NDArray[np.int64]) -> dict[str, Any]:
        found: dict[str, Any] = {"n": len(latents)}
        for target, nu in self.nu.items():
            found[f"nu_{target}"] = _median(nu[latents])
        for target in TARGETS:
            base, chat = self.found.beta[target][:, latents]
            found[f"beta_{target}"] = {"base": _median(base), "chat": _median(chat)}
        return found

    def _control(self) -> dict[str, Any]:
        """The same error along a random direction of equal length: what one of no meaning scales to."""
        known = np.isfinite(self.found.random).all(0) & self.known
        own = np.abs(self.found.beta[ERROR][CHAT, known])
        other = np.abs(self.found.random[CHAT, known])
        return {
            "what": "median |β| of the chat error along the latent's own direction, and a random one",
            "n": int(known.sum()),
            "own": _median(own),
            "random": _median(other),
        }


def _summary(name: str, error: Floats, written: Floats) -> dict[str, Floats]:
    """The metrics of a class from ``ν^ε`` and ``ν^r``, ``[R, n]``: ``[R]`` each."""
    found = {
        f"cc_nu_error_{name}": _medians_of(error),
        f"cc_nu_reconstruction_{name}": _medians_of(written),
    }
    if name == CHAT_ONLY:
        both = np.isfinite(error) & np.isfinite(written)
        shrunk, decoupled = error >= LIMITS[ERROR], written >= LIMITS[RECONSTRUCTION]
        found["cc_chat_specific"] = _share(both & ~shrunk & ~decoupled, both)
        found["cc_complete_shrinkage"] = _share(both & shrunk, both)
        found["cc_latent_decoupling"] = _share(both & decoupled, both)
    return found


def _medians_of(x: Floats) -> Floats:
    """The median of the finite entries of each row, not a number where there are none."""
    some = np.isfinite(x).sum(1) > 0
    if not some.any():
        return np.full(len(x), np.nan)
    found = np.nanmedian(np.where(some[:, None], x, 0.0), axis=1)
    return np.where(some, found, np.nan)


def _share(part: npt.NDArray[np.bool_], whole: npt.NDArray[np.bool_]) -> Floats:
    total = whole.sum(1)
    return np.where(total > 0, part.sum(1) / np.maximum(total, 1), np.nan)


def _median(x: Floats) -> float | None:
    found = x[np.isfinite(x)]
    return float(np.median(found)) if found.size else None


def _histogram(x: Floats) -> list[int]:
    """Counts between :data:`EDGES`; what lies outside is counted at the end that it lies beyond."""
    return [int(n) for n in np.histogram(np.clip(x, EDGES[0], EDGES[-1]), EDGES)[0]]
