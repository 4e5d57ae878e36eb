"""Latent scaling by class: medians, candidates for two artefacts of training, and controls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from saebench.metrics.crosscoder.geometry import CHAT, Geometry
from saebench.metrics.crosscoder.scaling import (
    REASONS,
    TARGETS,
    Scalings,
    scalings,
    without_each_block,
)
from saebench.metrics.crosscoder.scaling_sums import ScalingSums
from saebench.metrics.crosscoder.shares import in_whole_latents
from saebench.metrics.crosscoder.taxonomy import CHAT_ONLY, DEAD, SHARED, Floats, Names
from saebench.stats import Interval, jackknife

ERROR, RECONSTRUCTION = "error", "reconstruction"
Flags = npt.NDArray[np.bool_]

# A chat-only latent whose |ν| is below both is specific to the chat model: a base model that holds the
# latent the other way round holds it too. Source of the limits: Minder et al. 2025, 2504.02922.
LIMITS = {ERROR: 0.2, RECONSTRUCTION: 0.5}
EDGES = np.linspace(-0.5, 1.5, 21)
COMPARED = "cc_chat_only_compared"
CANDIDATES = ("cc_chat_specific", "cc_complete_shrinkage", "cc_latent_decoupling")
NONE = "no {} latent has a scaling"
NONE_ABOVE = "no chat-only latent has scalings above 0 in the chat model"


@dataclass(frozen=True)
class Ratio:
    """A quantity over a class of latents with its bounds; None where ``reason`` says why.

    ``detail`` says how many latents it is over.
    """

    value: float | None
    bounds: Interval | None
    reason: str | None = None
    detail: Mapping[str, int] = field(default_factory=dict)


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
        chat = [self.found.beta[target][CHAT] for target in (ERROR, RECONSTRUCTION)]
        self.upright = self.known & (chat[0] > 0) & (chat[1] > 0)
        self.members = {name: self.draw(name, n_compared) for name in (CHAT_ONLY, SHARED)}

    def draw(self, name: str, most: int) -> npt.NDArray[np.int64]:
        """The latents of a class that have both ratios, ascending; ``most`` of them at random if more."""
        every = np.flatnonzero((self.names == name) & self.known)
        if len(every) <= most:
            return every
        return np.sort(np.random.default_rng(self.seed).choice(every, most, replace=False))

    def measured(self) -> dict[str, Ratio]:
        """The metrics of scaling, by name; bounds are the jackknife over blocks of sequences."""
        found: dict[str, Ratio] = {}
        for name, latents in self.members.items():
            left = without_each_block(self.sums, self.geometry, latents)
            none = None if len(latents) else NONE.format(name.replace("_", "-"))
            here, without = _medians_of(self._nu(latents)), _medians_of(left[:2])
            for target in here:
                found[f"cc_nu_{target}_{name}"] = _bounded(
                    float(here[target][0]), without[target], none, {"n": len(latents)}
                )
        return found | self._shares()

    def _nu(self, latents: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
        """``ν^ε`` and ``ν^r`` on all blocks, ``[1, n]`` each."""
        return self.nu[ERROR][None, latents], self.nu[RECONSTRUCTION][None, latents]

    def _shares(self) -> dict[str, Ratio]:
        """Candidates among the chat-only latents whose scalings in the chat model are above 0."""
        latents = self.members[CHAT_ONLY]
        upright = self.upright[latents]
        n, left_out = int(upright.sum()), int((~upright).sum())
        none = None if n else NONE_ABOVE if len(latents) else NONE.format("chat-only")
        here = _told_apart(*self._nu(latents), upright[None])
        without = _told_apart(*without_each_block(self.sums, self.geometry, latents))
        found = {COMPARED: Ratio(float(n), None, detail={"left_out": left_out})}
        for metric in CANDIDATES:
            count = int(here[metric].sum())
            share = _bounded(
                count / n if n else math.nan,
                _share(without[metric], without[COMPARED]),
                none,
                {"n": count, "of": n, "left_out": left_out},
            )
            whole = in_whole_latents(count, n, share.bounds) if n and share.bounds else share.bounds
            found[metric] = replace(share, bounds=whole)
        return found

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
        """Of the chat-only latents: how many scaling confirms, and how many look like an artefact.

        Without those ``left_out``, whose scaling in the chat model is below 0 for one of the targets.
        """
        own = np.flatnonzero((self.names == CHAT_ONLY) & self.known)
        found = _told_apart(*self._nu(own), self.upright[None, own])
        specific, shrunk, decoupled = (found[metric] for metric in CANDIDATES)
        return {
            "n": int(found[COMPARED].sum()),
            "left_out": int((~found[COMPARED]).sum()),
            "chat_specific": int(specific.sum()),
            "complete_shrinkage": int(shrunk.sum()),
            "latent_decoupling": int(decoupled.sum()),
            "both": int((shrunk & decoupled).sum()),
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


def _told_apart(error: Floats, written: Floats, upright: Flags) -> dict[str, Flags]:
    """Which latents are candidates by ``ν^ε`` and ``ν^r``, and which could be, ``[R, n]`` each."""
    compared = upright & np.isfinite(error) & np.isfinite(written)
    shrunk = np.abs(error) >= LIMITS[ERROR]
    decoupled = np.abs(written) >= LIMITS[RECONSTRUCTION]
    specific, *artefacts = CANDIDATES
    found = {specific: compared & ~shrunk & ~decoupled, COMPARED: compared}
    return found | dict(zip(artefacts, (compared & shrunk, compared & decoupled), strict=True))


def _bounded(value: float, without: Floats, reason: str | None, detail: Mapping[str, int]) -> Ratio:
    """A value with the jackknife's bounds of it ``without[present]`` each block."""
    point = value if math.isfinite(value) else None
    return Ratio(point, jackknife(value, without), reason, detail)


def _medians_of(ratios: tuple[Floats, Floats]) -> dict[str, Floats]:
    """The median of the finite entries of each row of ``ν^ε`` and ``ν^r``, not a number without any."""
    found = {}
    for target, x in zip((ERROR, RECONSTRUCTION), ratios, strict=True):
        some: Flags = np.isfinite(x).sum(1) > 0
        filled = np.where(some[:, None], x, 0.0)
        medians = np.nanmedian(filled, axis=1) if x.shape[1] else np.full(len(x), np.nan)
        found[target] = np.where(some, medians, np.nan)
    return found


def _share(part: Flags, whole: Flags) -> Floats:
    total = whole.sum(1)
    return np.where(total > 0, part.sum(1) / np.maximum(total, 1), np.nan)


def _median(x: Floats) -> float | None:
    found = x[np.isfinite(x)]
    return float(np.median(found)) if found.size else None


def _histogram(x: Floats) -> list[int]:
    """Counts between :data:`EDGES`; what lies outside is counted at the end that it lies beyond."""
    return [int(n) for n in np.histogram(np.clip(x, EDGES[0], EDGES[-1]), EDGES)[0]]
