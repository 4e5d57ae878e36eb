"""Sparsity: how many latents fire, how often each does, and which never do.

A latent *fires* on a token when its code is not zero. Firings are counted per latent in 64 blocks
of sequences (``sequence_id % 64``). Resampling the blocks gives the intervals of densities. The dead
fraction takes the delete-one-block jackknife: a resample holds only 63 % of the distinct sequences,
latents that fire in few of them drop out of it, and the share of dead latents comes out too high.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saebench.codes import SparseCodes
from saebench.metrics.estimates import Values, bootstrap, estimate, ratio
from saebench.metrics.sums import N_GROUPS, GroupSums, check_alike, group_of
from saebench.record import Measurement
from saebench.stats import N_RESAMPLES, Interval, jackknife, rule_of_three

N_BLOCKS = 64
NEVER = torch.iinfo(torch.int64).max
OCTAVES = 64
# Fired at least this often: a density known to about a third of its value.
OFTEN = 10
# A window whose last doubling wakes more than this share of latents is too short to call any dead.
RISE_LIMIT = 0.01

DENSITY_EDGES = np.linspace(-8.0, 0.0, 41)
DENSITY_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class SparsitySums:
    """Firings per block ``[64, d_sae]``, first sequence of each latent ``[d_sae]``, L0 and L1."""

    def __init__(
        self, d_sae: int, n_groups: int = N_GROUPS, device: torch.device | str = "cpu"
    ) -> None:
        self.d_sae = d_sae
        self.sums = GroupSums(n_groups, ("l0", "l1"))
        self.firings = torch.zeros(N_BLOCKS, d_sae, dtype=torch.int32, device=device)
        self.block_tokens = torch.zeros(N_BLOCKS, dtype=torch.int64)
        self.first = torch.full((d_sae,), NEVER, dtype=torch.int64, device=device)
        self.octave_tokens = torch.zeros(OCTAVES, dtype=torch.int64)
        self.last_sequence = -1
        self.l0_min, self.l0_max = d_sae, 0

    @torch.inference_mode()
    def update(self, codes: SparseCodes, sequence_ids: Tensor) -> None:
        """Take in the codes of tokens in ``sequence_ids[n]`` (int64, not negative)."""
        if codes.n_tokens == 0:
            return
        groups, blocks = (
            group_of(sequence_ids, self.sums.n_groups),
            group_of(sequence_ids, N_BLOCKS),
        )
        counts, rows = codes.counts(), codes.rows()
        self.sums.count(groups)
        self.sums.add("l0", counts, groups)
        self.sums.add("l1", codes.values.abs(), groups[rows])
        self.l0_min = min(self.l0_min, int(counts.min()))
        self.l0_max = max(self.l0_max, int(counts.max()))
        self.block_tokens += torch.bincount(blocks, minlength=N_BLOCKS).cpu()
        self.octave_tokens += torch.bincount(_octave(sequence_ids), minlength=OCTAVES).cpu()
        self.last_sequence = max(self.last_sequence, int(sequence_ids.max()))
        latents = codes.indices.to(self.first.device, torch.int64)
        places = blocks[rows].to(latents.device) * self.d_sae + latents
        once = torch.ones_like(places, dtype=torch.int32)
        self.firings.view(-1).scatter_add_(0, places, once)
        sequences = sequence_ids[rows].to(latents.device)
        self.first.scatter_reduce_(0, latents, sequences, "amin")

    @torch.inference_mode()
    def merge(self, other: SparsitySums) -> None:
        """Add another shard's counts; raises :class:`ConfigError` where d_sae differs."""
        check_alike("d_sae", self.d_sae, other.d_sae)
        self.sums.merge(other.sums)
        self.firings += other.firings.to(self.firings.device)
        self.first = torch.minimum(self.first, other.first.to(self.first.device))
        self.block_tokens += other.block_tokens
        self.octave_tokens += other.octave_tokens
        self.last_sequence = max(self.last_sequence, other.last_sequence)
        self.l0_min = min(self.l0_min, other.l0_min)
        self.l0_max = max(self.l0_max, other.l0_max)

    @property
    def fired(self) -> Tensor:
        """On how many tokens each latent fired, ``[d_sae]`` int64 on the CPU."""
        return self.firings.sum(0, dtype=torch.int64).cpu()

    def alive_curve(self) -> list[dict[str, int]]:
        """Latents that fired within the first 1, 2, 4, … sequences, in whatever order they came."""
        n_sequences = self.last_sequence + 1
        tokens = self.octave_tokens.cumsum(0)
        powers = range((n_sequences - 1).bit_length()) if n_sequences else range(0)
        points = [(1 << power, int(tokens[power])) for power in powers]
        if n_sequences:
            points.append((n_sequences, self.sums.n_tokens))
        return [
            {"n_sequences": n, "n_tokens": n_tokens, "alive": self._alive_within(n)}
            for n, n_tokens in points
        ]

    def rise(self) -> float | None:
        """Growth of the alive latents over the last doubling of sequences, None where unknown."""
        half = self._alive_within((self.last_sequence + 1) // 2)
        return self._alive_within(self.last_sequence + 1) / half - 1 if half else None

    def _alive_within(self, n_sequences: int) -> int:
        return int((self.first < n_sequences).sum())


def dense_latents(sums: SparsitySums, weights: Tensor | None = None) -> Values:
    """The share of dense latents, and their share of all firings, ``[1]`` or ``[R]``.

    ``weights[R, blocks present]`` resample the blocks of sequences.
    """
    present = sums.block_tokens > 0
    tokens = sums.block_tokens[present].double()
    weights = tokens.new_ones(1, len(tokens)) if weights is None else weights
    density = (weights @ sums.firings.cpu()[present].double()) / (weights @ tokens)[:, None]
    mass = density.sum(1)
    found = {}
    for percent in (1, 10):
        dense = density > percent / 100
        found[f"freq_over_{percent}_percent"] = dense.double().mean(1)
        found[f"normalized_freq_over_{percent}_percent"] = ratio((density * dense).sum(1), mass)
    return found


def density_spectrum(sums: SparsitySums) -> dict[str, Any]:
    """Histogram of log10 density with fixed edges, and quantiles over the latents that fired."""
    fired = sums.fired
    alive = fired[fired > 0].double().numpy() / max(sums.sums.n_tokens, 1)
    logs = np.clip(np.log10(alive), DENSITY_EDGES[0], DENSITY_EDGES[-1])
    known = DENSITY_QUANTILES if alive.size else ()
    quantiles = {str(q): float(np.quantile(alive, q)) for q in known}
    return {
        "log10_edges": DENSITY_EDGES.round(6).tolist(),
        "counts": np.histogram(logs, DENSITY_EDGES)[0].tolist(),
        "dead": int((fired == 0).sum()),
        "n_tokens": sums.sums.n_tokens,
        "quantiles": quantiles,
    }


def curves(sums: SparsitySums) -> dict[str, Any]:
    """The series behind the plots: ``alive`` over nested prefixes, and the ``density`` spectrum."""
    return {"alive": sums.alive_curve(), "density": density_spectrum(sums)}


def values(sums: SparsitySums, weights: Tensor | None = None) -> Values:
    """Mean L0 and L1 per token, ``[1]``, or ``[R]`` under ``weights[R, groups present]``."""
    return {name: sums.sums.mean(name, weights) for name in ("l0", "l1")}


def measurements(
    sums: SparsitySums, *, n_sequences: int, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> dict[str, Measurement]:
    """Every sparsity metric with its interval, by metric id."""
    n_tokens = sums.sums.n_tokens
    n_groups = sums.sums.present.shape[0]
    points, intervals = bootstrap(partial(values, sums), n_groups, n_resamples, seed)
    n_blocks = int((sums.block_tokens > 0).sum())
    dense, bounds = bootstrap(
        partial(dense_latents, sums), n_blocks, n_resamples, seed, f"{n_blocks} blocks of sequences"
    )
    points, intervals = points | dense, intervals | bounds
    points["dead_fraction"] = float((sums.fired == 0).double().mean())
    intervals["dead_fraction"] = _death_interval(sums, points["dead_fraction"])
    details: dict[str, dict[str, Any]] = {"l0": {"min": sums.l0_min, "max": sums.l0_max}}
    if n_tokens:
        details["dead_fraction"] = _death(sums)
    points["alive"] = float((sums.fired > 0).sum())
    points["alive_10"] = float((sums.fired >= OFTEN).sum())
    found = [
        estimate(
            name,
            value,
            intervals.get(name),
            n_tokens=n_tokens,
            n_sequences=n_sequences,
            reason="no latent fired" if name.startswith("normalized") else None,
            detail=details.get(name),
        )
        for name, value in points.items()
    ]
    return {measured.metric: measured for measured in found}


def _death_interval(sums: SparsitySums, dead_fraction: float) -> Interval:
    """The jackknife over blocks, rounded outwards to whole latents and at least one either way.

    It asks what would have died had one block not been read. Where no block matters its error is zero;
    a count of latents is not known better than to one.
    """
    fired, firings, m = sums.fired, sums.firings.cpu(), sums.d_sae
    present = (sums.block_tokens > 0).nonzero().squeeze(1).tolist()
    without = [float((fired == firings[block]).double().mean()) for block in present]
    found = jackknife(dead_fraction, without if len(present) > 1 else [])
    if found.low is None or found.high is None:
        return found
    dead = round(dead_fraction * m)
    low = max(min(math.floor(found.low * m), dead - 1), 0) / m
    high = min(max(math.ceil(found.high * m), dead + 1), m) / m
    return Interval(low, high, f"{found.how}, in whole latents")


def _death(sums: SparsitySums) -> dict[str, Any]:
    """What a dead fraction is relative to: the window, its density bound, and if it was enough."""
    fired, rise = sums.fired, sums.rise()
    alive = int((fired > 0).sum())
    return {
        "n_latents": sums.d_sae,
        "dead": sums.d_sae - alive,
        "alive": alive,
        "fired_at_least_10": int((fired >= OFTEN).sum()),
        "density_upper_bound": rule_of_three(sums.sums.n_tokens),
        "alive_rise_last_doubling": rise,
        "window_too_short": alive > 0 and (rise is None or rise > RISE_LIMIT),
    }


def _octave(sequence_ids: Tensor) -> Tensor:
    """The bit length of each id: the smallest power ``p`` such that ``id < 2^p`` (0 for id 0)."""
    bounds = 2 ** torch.arange(OCTAVES - 1, dtype=torch.int64, device=sequence_ids.device)
    return torch.searchsorted(bounds, sequence_ids, right=True)
