"""Thresholds relative to each latent: a quantile of its own codes that are not zero, on real text.

A threshold in units of codes is not the same demand on two SAEs, or two latents, of different scale.
Codes are counted per latent in 256 bins, eight to each factor of two between 2⁻¹⁶ and 2¹⁶: the counts are
exact, merge exactly, and take 1 kB a latent. The threshold is the upper edge of the bin that holds the
quantile, so at most the factor 2^(1/8) (9 %) above it, and no more than the share ``1 − q`` of the latent's
own codes is above it. Codes below 2⁻¹⁶ (negative ones too) are in the lowest bin.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saebench.codes import SparseCodes
from saebench.metrics.sums import check_alike

PER_OCTAVE = 8
LOWEST, HIGHEST = -16, 16  # powers of two
N_BINS = (HIGHEST - LOWEST) * PER_OCTAVE
RESOLUTION = (
    f"{PER_OCTAVE} bins to each factor of two from 2^{LOWEST} to 2^{HIGHEST}: the threshold is the upper "
    f"edge of the bin of the quantile, at most {2 ** (1 / PER_OCTAVE) - 1:.1%} above it"
)


class CodeQuantiles:
    """How many codes of each latent are in each bin: ``counts[d_sae, 256]`` int32."""

    def __init__(self, d_sae: int, device: torch.device | str = "cpu") -> None:
        self.d_sae = d_sae
        self.counts = torch.zeros(d_sae, N_BINS, dtype=torch.int32, device=device)

    @torch.inference_mode()
    def update(self, codes: SparseCodes) -> None:
        """Take in the codes of some tokens."""
        fires = codes.values != 0
        places = codes.indices[fires].long() * N_BINS + bin_of(codes.values[fires])
        ones = torch.ones_like(places, dtype=torch.int32)
        self.counts.view(-1).scatter_add_(0, places, ones)

    @torch.inference_mode()
    def merge(self, other: CodeQuantiles) -> None:
        """Add another shard's counts; raises :class:`ConfigError` where d_sae differs."""
        check_alike("d_sae", self.d_sae, other.d_sae)
        self.counts += other.counts.to(self.counts.device)

    def thresholds(self, quantile: float) -> Tensor:
        """``[d_sae]`` float32: the upper edge of each latent's ``quantile``, which is in (0, 1).

        +inf where a latent never fired: it has no quantile, and nothing is above its threshold.
        """
        below = self.counts.cpu().cumsum(1, dtype=torch.int64)
        n = below[:, -1:]
        # the smallest bin with at least this share of the codes in it or below
        bins = (below.double() < quantile * n.double()).sum(1)
        edges = upper_edges()[bins.clamp(max=N_BINS - 1)]
        return torch.where(n[:, 0] > 0, edges, torch.inf)


def upper_edges() -> Tensor:
    """The upper edge of each bin, ``[256]`` float32, in units of codes."""
    steps = torch.arange(1, N_BINS + 1, dtype=torch.float64)
    return torch.exp2(LOWEST + steps / PER_OCTAVE).float()


def bin_of(values: Tensor) -> Tensor:
    """The bin of each code, int64: the first whose upper edge is not below it; the last beyond all."""
    edges = upper_edges().to(values.device)
    bins = torch.searchsorted(edges, values.float().contiguous())
    return bins.clamp(max=N_BINS - 1)
