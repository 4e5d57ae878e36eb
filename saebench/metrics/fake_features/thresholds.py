"""Thresholds relative to each latent: a quantile of its own codes that are not zero, on real text.

A threshold in units of codes is not the same demand on two SAEs, or two latents, of different scale.
Codes are counted per latent in 256 bins, eight to each factor of two between 2⁻¹⁶ and 2¹⁶: the counts are
exact, merge exactly, and take 1 kB a latent. Inside the bin that holds the quantile, codes are taken as
spread evenly over its logarithm: the threshold is off by less than a bin (9 %), either way, and on average
by nothing where codes are spread. Codes that are all alike are split at their bin's quantile all the same.
Codes out of range (negative ones too) are in the outermost bins, and their number is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saebench.codes import SparseCodes
from saebench.metrics.sums import check_alike

PER_OCTAVE = 8
LOWEST, HIGHEST = -16, 16  # powers of two
N_BINS = (HIGHEST - LOWEST) * PER_OCTAVE
ROUNDING = 1e-12  # of a share of codes
RESOLUTION = (
    f"{PER_OCTAVE} bins to each factor of two from 2^{LOWEST} to 2^{HIGHEST}, log-linear inside: the "
    f"threshold is less than {2 ** (1 / PER_OCTAVE) - 1:.1%} off the quantile of the codes, either way"
)


class CodeQuantiles:
    """How many codes of each latent are in each bin: ``counts[d_sae, 256]`` int32.

    ``outside[2]`` int64 counts the codes of all latents below the first bin and beyond the last.
    """

    def __init__(self, d_sae: int, device: torch.device | str = "cpu") -> None:
        self.d_sae = d_sae
        self.counts = torch.zeros(d_sae, N_BINS, dtype=torch.int32, device=device)
        self.outside = torch.zeros(2, dtype=torch.int64, device=device)

    @torch.inference_mode()
    def update(self, codes: SparseCodes) -> None:
        """Take in the codes of some tokens."""
        fires = codes.values != 0
        values = codes.values[fires]
        self.outside += torch.stack([(values <= 2.0**LOWEST).sum(), (values > 2.0**HIGHEST).sum()])
        places = codes.indices[fires].long() * N_BINS + bin_of(values)
        ones = torch.ones_like(places, dtype=torch.int32)
        self.counts.view(-1).scatter_add_(0, places, ones)

    @torch.inference_mode()
    def merge(self, other: CodeQuantiles) -> None:
        """Add another shard's counts; raises :class:`ConfigError` where d_sae differs."""
        check_alike("d_sae", self.d_sae, other.d_sae)
        self.counts += other.counts.to(self.counts.device)
        self.outside += other.outside.to(self.outside.device)

    def thresholds(self, quantile: float) -> Tensor:
        """``[d_sae]`` float32: each latent's ``quantile``, which is in (0, 1), interpolated in its bin.

        +inf where a latent never fired: it has no quantile, and nothing is above its threshold.
        """
        counts = self.counts.cpu()
        upto = counts.cumsum(1, dtype=torch.int64)
        n = upto[:, -1:]
        rank = quantile * n.double()
        # the first bin with at least this share of the codes in it or below, but for rounding
        bins = (upto.double() < rank - ROUNDING * n).sum(1, keepdim=True).clamp(max=N_BINS - 1)
        inside = counts.gather(1, bins).double()
        before = upto.gather(1, bins) - inside
        part = ((rank - before) / inside.clamp(min=1)).clamp(0, 1)
        found = torch.exp2(LOWEST + (bins + part) / PER_OCTAVE).squeeze(1).float()
        return torch.where(n[:, 0] > 0, found, torch.inf)

    def describe(self) -> dict[str, Any]:
        """How fine thresholds are, and how many codes were out of range, as JSON values."""
        below, beyond = self.outside.tolist()
        return {"resolution": RESOLUTION, "codes_below": below, "codes_beyond": beyond}


def upper_edges() -> Tensor:
    """The upper edge of each bin, ``[256]`` float32, in units of codes."""
    steps = torch.arange(1, N_BINS + 1, dtype=torch.float64)
    return torch.exp2(LOWEST + steps / PER_OCTAVE).float()


def bin_of(values: Tensor) -> Tensor:
    """The bin of each code, int64: the first whose upper edge is not below it; the last beyond all."""
    edges = upper_edges().to(values.device)
    bins = torch.searchsorted(edges, values.float().contiguous())
    return bins.clamp(max=N_BINS - 1)
