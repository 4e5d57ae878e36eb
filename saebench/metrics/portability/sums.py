"""Sums over the tokens of one model, and over the same tokens of two, per resampling group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saebench.codes import SparseCodes
from saebench.metrics.estimates import RESAMPLE_ROWS, ratio
from saebench.metrics.moments import Moments
from saebench.metrics.portability.latents import LatentSums
from saebench.metrics.portability.pairing import PairedCodes
from saebench.metrics.portability.tokens import correlations, drift, silent, top_agreement
from saebench.metrics.prediction import Losses
from saebench.metrics.reconstruction import DEGENERATE
from saebench.metrics.sums import N_GROUPS, GroupSums, group_of, row_chunks, wide
from saebench.stats import N_RESAMPLES, bootstrap_weights


@dataclass(frozen=True)
class Resampling:
    """The draws of ``n_groups`` groups of sequences that every quantity is resampled with, in pairs."""

    n_groups: int
    n_resamples: int = N_RESAMPLES
    seed: int = 0

    def weights(self) -> Tensor:
        """``[n_resamples, n_groups]``: how often each resample draws each group."""
        return torch.from_numpy(bootstrap_weights(self.n_groups, self.n_resamples, self.seed))


class SpreadSums:
    """The total sum of squares of the activations at one stack of one model, for all checkpoints there."""

    def __init__(self, width: int, n_groups: int = N_GROUPS) -> None:
        self.moments = Moments(n_groups, width)
        self.sums = GroupSums(n_groups, ("square",))
        self._resampled: dict[Resampling, Tensor] = {}

    @torch.inference_mode()
    def update(self, x: Tensor, sequence_ids: Tensor) -> None:
        """Take in tokens ``x[n, width]`` of ``sequence_ids[n]``."""
        groups = group_of(sequence_ids, self.sums.n_groups)
        self.moments.update(x, groups)
        self.sums.count(groups)
        self.sums.add("square", _squares(x), groups)
        self._resampled.clear()

    @torch.inference_mode()
    def merge(self, other: SpreadSums) -> None:
        """Add another shard's sums."""
        self.moments.merge(other.moments)
        self.sums.merge(other.sums)
        self._resampled.clear()

    def total(self, how: Resampling | None = None) -> Tensor:
        """``Σ‖x − x̄‖²`` of all tokens ``[1]``, or of each resample ``[R]``; kept, as it costs most."""
        if how is None:
            return self._total(None)
        if how not in self._resampled:
            parts = [self._total(rows) for rows in how.weights().split(RESAMPLE_ROWS)]
            self._resampled[how] = torch.cat(parts)
        return self._resampled[how]

    def _total(self, weights: Tensor | None) -> Tensor:
        tss = self.moments.pooled(weights)[2].sum(1)
        return torch.where(tss > DEGENERATE * self.sums.total("square", weights), tss, 0)


class ModelSums:
    """What one checkpoint does under one model: ``sse`` ``‖x − x̂‖²`` and ``l0`` of every token."""

    def __init__(self, n_groups: int = N_GROUPS) -> None:
        self.sums = GroupSums(n_groups, ("sse", "l0"))

    @torch.inference_mode()
    def update(
        self, target: Tensor, x_hat: Tensor, codes: SparseCodes, sequence_ids: Tensor
    ) -> None:
        """Take in ``target[n, width]`` with its reconstruction ``x_hat`` and the codes."""
        groups = group_of(sequence_ids, self.sums.n_groups)
        self.sums.count(groups)
        self.sums.add("sse", _squares(target, x_hat), groups)
        self.sums.add("l0", codes.counts(), groups)

    def merge(self, other: ModelSums) -> None:
        """Add another shard's sums."""
        self.sums.merge(other.sums)


class PairSums:
    """What one checkpoint does on the same tokens under the reference and under a variant."""

    NAMES = (
        *("shift", "square", "cosine", "target_shift"),
        *("correlation", "correlated", "silent_on_one", "silent_on_both", "agreement", "agreeing"),
    )

    def __init__(
        self,
        d_sae: int,
        top_k: int,
        *,
        n_groups: int = N_GROUPS,
        device: torch.device | str = "cpu",
    ) -> None:
        self.top_k = top_k
        self.sums = GroupSums(n_groups, self.NAMES)
        self.latents = LatentSums(d_sae, device)

    @torch.inference_mode()
    def update(
        self,
        read: tuple[Tensor, Tensor],
        written: tuple[Tensor, Tensor],
        codes: tuple[SparseCodes, SparseCodes],
        sequence_ids: Tensor,
    ) -> None:
        """Take in what is read ``[n, width_in]``, what should be given ``[n, width_out]``, and the codes.

        Each is a pair of the reference and the variant, token by token.
        """
        groups = group_of(sequence_ids, self.sums.n_groups)
        shift, square, cosine = drift(*read)
        same = read[0] is written[0] and read[1] is written[1]
        paired = PairedCodes.of(*codes)
        r, agreement = correlations(paired), top_agreement(paired, self.top_k)
        silent0, silent1 = silent(paired)
        per_token = {
            "shift": shift,
            "square": square,
            "cosine": cosine,
            "target_shift": shift if same else _squares(*written),
            "correlation": r.nan_to_num(0.0),
            "correlated": ~r.isnan(),
            "silent_on_one": silent0 ^ silent1,
            "silent_on_both": silent0 & silent1,
            "agreement": agreement.nan_to_num(0.0),
            "agreeing": ~agreement.isnan(),
        }
        self.sums.count(groups)
        for name, values in per_token.items():
            self.sums.add(name, values, groups)
        self.latents.update(paired, sequence_ids)

    def merge(self, other: PairSums) -> None:
        """Add another shard's sums."""
        self.sums.merge(other.sums)
        self.latents.merge(other.latents)


class DivergenceSums:
    """How far the clean predictions of a variant are from those of the reference, in nats."""

    def __init__(self, n_groups: int = N_GROUPS) -> None:
        self.sums = GroupSums(n_groups, ("kl", "kl_reverse"))

    @torch.inference_mode()
    def update(self, variant: Losses, sequence_ids: Tensor) -> None:
        """Take in the variant's losses ``[m]`` against the reference at positions of ``sequence_ids[m]``."""
        assert variant.kl_reverse is not None  # asked for
        groups = group_of(sequence_ids, self.sums.n_groups)
        self.sums.count(groups)
        self.sums.add("kl", variant.kl, groups)
        self.sums.add("kl_reverse", variant.kl_reverse, groups)

    def merge(self, other: DivergenceSums) -> None:
        """Add another shard's sums."""
        self.sums.merge(other.sums)


def fve(spread: SpreadSums, model: ModelSums, how: Resampling | None = None) -> Tensor:
    """``1 − Σ‖x − x̂‖² / Σ‖x − x̄‖²``, ``[1]`` or ``[R]``."""
    weights = None if how is None else how.weights()
    return 1 - ratio(model.sums.total("sse", weights), spread.total(how))


def _squares(x: Tensor, other: Tensor | None = None) -> Tensor:
    """``‖x‖²`` or ``‖x − other‖²`` of each row, float64 ``[n]``."""
    parts = []
    for rows in row_chunks(x.shape[0], 8 * x.shape[1], x.device):
        chunk = wide(x[rows])
        if other is not None:
            chunk = chunk - wide(other[rows])
        parts.append(chunk.square().sum(1))
    return torch.cat(parts) if parts else wide(x.new_empty(0))
