"""Latent by latent: does it still fire, where it fired, and as strongly, under another model?

Sums are kept for blocks of sequences, so that every number comes with a delete-one-block jackknife: a
bootstrap would lose the latents that fire in few sequences from most of its resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saebench.metrics.portability.pairing import Entries, PairedCodes
from saebench.metrics.portability.tokens import ROUNDING, pearson
from saebench.metrics.sums import check_alike, group_of
from saebench.stats import LEVEL, Interval, jackknife

ALIVE_BLOCKS = 64
BLOCKS = (8, 64)  # of the sums behind correlations: as many as fit into the next
BLOCK_BYTES = 32 * 2**20
LATENT_BYTES = 5 * 8 + 3 * 4
# A latent has to fire this often under the reference before a correlation is asked of it.
MIN_FIRINGS = 10
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
STRATA = 4

SURVIVAL = ("survival", "survival_median", "jaccard", "jaccard_pooled")


class LatentSums:
    """Per block of sequences and latent: sums, squares and products of codes, and firings.

    ``sums[blocks, 5, m]`` (float64) are ``Σf₀ Σf₁ Σf₀² Σf₁² Σf₀f₁``, ``firings[blocks, 3, m]`` (int32)
    tokens on which a latent fires under the reference, under the variant, under both;
    ``fired[64, 2, m]`` whether it did in a finer block; ``peak[m]`` its largest code in magnitude under
    the reference.
    """

    def __init__(self, d_sae: int, device: torch.device | str = "cpu") -> None:
        least, most = BLOCKS
        n_blocks = min(max(BLOCK_BYTES // (LATENT_BYTES * d_sae), least), most)
        self.d_sae, self.n_blocks = d_sae, n_blocks
        device = "cpu" if torch.device(device).type == "mps" else device  # which has no float64
        self.sums = torch.zeros(n_blocks, 5, d_sae, dtype=torch.float64, device=device)
        self.firings = torch.zeros(n_blocks, 3, d_sae, dtype=torch.int32, device=device)
        self.fired = torch.zeros(ALIVE_BLOCKS, 2, d_sae, dtype=torch.bool, device=device)
        self.peak = torch.zeros(d_sae, dtype=torch.float64, device=device)
        self.tokens = torch.zeros(n_blocks, dtype=torch.int64)
        self.present = torch.zeros(ALIVE_BLOCKS, dtype=torch.bool)

    @torch.inference_mode()
    def update(self, codes: PairedCodes, sequence_ids: Tensor) -> None:
        """Take in the codes of tokens in ``sequence_ids[n]``."""
        sequence_ids = sequence_ids.to(codes.reference.rows.device)
        blocks, fine = group_of(sequence_ids, self.n_blocks), group_of(sequence_ids, ALIVE_BLOCKS)
        self.tokens += torch.bincount(blocks, minlength=self.n_blocks).cpu()
        self.present |= torch.bincount(fine, minlength=ALIVE_BLOCKS).cpu() > 0
        for side, entries in enumerate((codes.reference, codes.variant)):
            self._add(
                entries, blocks, {side: entries.values, 2 + side: entries.values.square()}, side
            )
            self.fired[fine[entries.rows], side, entries.latents] = True
        first, rows = codes.reference, codes.reference.rows[codes.shared_reference]
        shared = Entries(rows, first.latents[codes.shared_reference], codes.products)
        self._add(shared, blocks, {4: shared.values}, 2)
        self.peak.scatter_reduce_(0, first.latents, first.values.abs(), "amax")

    def _add(self, at: Entries, blocks: Tensor, values: Mapping[int, Tensor], side: int) -> None:
        """Add ``values[e]`` of the entries to the sums that they are named for, and count the entries."""
        block = blocks[at.rows]
        for number, added in values.items():
            places = (block * 5 + number) * self.d_sae + at.latents
            self.sums.view(-1).index_add_(0, places, added)
        places = (block * 3 + side) * self.d_sae + at.latents
        self.firings.view(-1).index_add_(0, places, torch.ones_like(places, dtype=torch.int32))

    @torch.inference_mode()
    def merge(self, other: LatentSums) -> None:
        """Add another shard's sums; raises :class:`ConfigError` where d_sae differs."""
        check_alike("d_sae", self.d_sae, other.d_sae)
        self.sums += other.sums.to(self.sums)
        self.firings += other.firings.to(self.firings)
        self.fired |= other.fired.to(self.fired.device)
        self.peak = torch.maximum(self.peak, other.peak.to(self.peak))
        self.tokens += other.tokens
        self.present |= other.present

    def totals(self, without: int | None = None) -> Totals:
        """The sums over all blocks, or over all but one."""
        sums, firings, n = self.sums.sum(0), self.firings.sum(0, dtype=torch.int64), self.tokens
        if without is not None:
            sums, firings = sums - self.sums[without], firings - self.firings[without]
        left = int(n.sum()) - (int(n[without]) if without is not None else 0)
        return Totals(sums, firings, left)


class Totals:
    """Correlations and firings of every latent, from sums over ``n_tokens`` tokens."""

    def __init__(self, sums: Tensor, firings: Tensor, n_tokens: int) -> None:
        self.reference, self.variant, self.both = firings
        self.correlation = pearson(max(n_tokens, 1), *sums)
        variance0 = sums[2] - sums[0].square() / max(n_tokens, 1)
        varies = variance0 > ROUNDING * sums[2]
        # what varied under the reference and is constant under the variant has lost all it said
        self.eligible = (self.reference >= MIN_FIRINGS) & varies
        self.correlation = torch.where(
            self.eligible, self.correlation.nan_to_num(0.0), self.correlation
        )

    @property
    def union(self) -> Tensor:
        """Tokens on which a latent fires under either model, ``[m]``."""
        return self.reference + self.variant - self.both

    def values(self, cut: float) -> dict[str, float]:
        """Every number about survival; not a number where no latent is eligible."""
        r = self.correlation[self.eligible]
        jaccard = (self.both / self.union)[self.eligible]
        if not r.numel():
            found = dict.fromkeys(SURVIVAL, math.nan)
        else:
            found = {
                "survival": float((r >= cut).double().mean()),
                "survival_median": float(np.median(r.cpu().numpy())),
                "jaccard": float(jaccard.mean()),
            }
        union = int(self.union.sum())
        found["jaccard_pooled"] = int(self.both.sum()) / union if union else math.nan
        return found


def survival(sums: LatentSums, cut: float) -> tuple[dict[str, float], dict[str, Interval]]:
    """Survival, its median correlation and the Jaccard indices of firing, each with its interval."""
    points = sums.totals().values(cut)
    present = (sums.tokens > 0).nonzero().squeeze(1).tolist()
    without = [sums.totals(block).values(cut) for block in present] if len(present) > 1 else []
    return points, {
        name: jackknife(
            value,
            [one[name] for one in without],
            bounds=(-1.0 if name == "survival_median" else 0.0, 1.0),
        )
        for name, value in points.items()
    }


def describe(sums: LatentSums, cut: float) -> dict[str, Any]:
    """How many latents are counted, how correlations spread, and survival by peak activation."""
    totals = sums.totals()
    eligible = totals.eligible
    r, peak = (item[eligible].cpu().numpy() for item in (totals.correlation, sums.peak))
    jaccard = (totals.both / totals.union)[eligible].cpu().numpy()
    reference, variant = (item.cpu() > 0 for item in (totals.reference, totals.variant))
    return {
        "cut": cut,
        "min_firings": MIN_FIRINGS,
        "eligible": int(eligible.sum()),
        "surviving": int((r >= cut).sum()),
        "silent_on_variant": int((~variant[eligible.cpu()]).sum()),
        "alive_on_both": int((reference & variant).sum()),
        "alive_on_reference_only": int((reference & ~variant).sum()),
        "alive_on_variant_only": int((variant & ~reference).sum()),
        "correlation_quantiles": _quantiles(r),
        "jaccard_quantiles": _quantiles(jaccard),
        "by_peak": _strata(r, peak, cut),
    }


def alive(sums: LatentSums) -> tuple[int, int]:
    """How many latents fired under the reference, and under the variant."""
    first, second = sums.fired.any(0).sum(1).tolist()
    return int(first), int(second)


def alive_shift(sums: LatentSums, level: float = LEVEL) -> tuple[float, Interval]:
    """``(alive₁ − alive₀)/alive₀`` with its jackknife over 64 blocks of sequences.

    A count is not known better than to one latent, unless not a single firing differs.
    """
    before, after = alive(sums)
    if not before:
        return math.nan, Interval(None, None, reason="no latent fires under the reference")
    value = after / before - 1
    present = sums.present.nonzero().squeeze(1).tolist()
    in_blocks = sums.fired.sum(0)  # [2, m]
    without = []
    for block in present if len(present) > 1 else ():
        left, right = (in_blocks > sums.fired[block].long()).sum(1).tolist()
        without.append(right / left - 1 if left else math.nan)
    found = jackknife(value, without, level)
    if found.low is None or found.high is None or _same_firings(sums):
        return value, found
    low, high = min(found.low, value - 1 / before), max(found.high, value + 1 / before)
    return value, Interval(low, high, f"{found.how}, at least one latent either way")


def _same_firings(sums: LatentSums) -> bool:
    reference, variant, both = sums.firings.sum(0)
    return bool(torch.equal(reference, both) and torch.equal(variant, both))


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {str(q): float(np.quantile(values, q)) for q in QUANTILES} if values.size else {}


def _strata(r: np.ndarray, peak: np.ndarray, cut: float) -> list[dict[str, Any]]:
    """Survival in quarters of the eligible latents, from the smallest peak activation to the largest."""
    order = np.argsort(peak, kind="stable")
    return [
        {
            "n": len(part),
            "peak_from": float(peak[part[0]]),
            "peak_to": float(peak[part[-1]]),
            "survival": float((r[part] >= cut).mean()),
            "median": float(np.median(r[part])),
        }
        for part in np.array_split(order, STRATA)
        if len(part)
    ]
