"""How many latents each class has, and how far that depends on the text read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saebench.metrics.crosscoder.taxonomy import CLASSES, DEAD, Floats, Names, classify, counts
from saebench.metrics.sparsity import SparsitySums
from saebench.stats import Interval, jackknife

METRICS = {name: f"cc_{name}" for name in CLASSES}


@dataclass(frozen=True)
class Share:
    """``count`` of ``total`` latents, and the bounds of that share."""

    count: int
    total: int
    bounds: Interval

    @property
    def value(self) -> float | None:
        """The share, None of nothing."""
        return self.count / self.total if self.total else None


def shares(norms: Floats, firing: SparsitySums) -> dict[str, Share]:
    """Each class by Δ_norm as a share of the alive latents; the dead as one of all.

    Bounds are the jackknife over blocks of sequences: classes as they would be had one block not been read.
    They are rounded outwards to whole latents, at least one either way.
    """
    fired, firings = firing.fired, firing.firings.cpu()
    here = counts(classify(norms, fired > 0))
    by_norm = classify(norms, np.ones(len(norms), dtype=bool))
    present = (firing.block_tokens > 0).nonzero().squeeze(1).tolist()
    without = [_without(by_norm, (fired > firings[block]).numpy()) for block in present]
    return {name: _share(name, here, without if len(present) > 1 else []) for name in CLASSES}


def _without(by_norm: Names, alive: npt.NDArray[np.bool_]) -> dict[str, int]:
    return counts(np.where(alive, by_norm, DEAD))


def _total(name: str, found: dict[str, int]) -> int:
    everything = sum(found.values())
    return everything if name == DEAD else everything - found[DEAD]


def _share(name: str, here: dict[str, int], without: list[dict[str, int]]) -> Share:
    n, total = here[name], _total(name, here)
    if not total:
        return Share(n, total, Interval(None, None, reason="no latent fired"))
    left = [one[name] / of if (of := _total(name, one)) else math.nan for one in without]
    return Share(n, total, in_whole_latents(n, total, jackknife(n / total, left)))


def in_whole_latents(n: int, total: int, found: Interval) -> Interval:
    """The bounds of ``n / total`` rounded outwards to whole latents, at least one either way."""
    if found.low is None or found.high is None:
        return found
    low = max(min(math.floor(found.low * total), n - 1), 0) / total
    high = min(max(math.ceil(found.high * total), n + 1), total) / total
    return Interval(low, high, f"{found.how}, in whole latents")
