"""Fake features: latents that fire on random text, on more than a share of its tokens or sequences.

A latent *fires* on a token when its code ``f`` is above a threshold τ, and on a sequence when the sum of its
codes over the counted tokens is (or the largest of them, which is the same as any of them). Its share is of
the units counted: BOS is none, so that it is not a share of the tokens that were asked for.

Firings are counted per latent in 128 groups of sequences (``sequence_id % 128``), for the bootstrap in
:mod:`saebench.metrics.fake_features.intervals`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saebench.codes import SparseCodes
from saebench.errors import ConfigError
from saebench.metrics.fake_features.intervals import Counts
from saebench.metrics.sums import check_alike, group_of
from saebench.protocols import FakeProtocol

# Fewer than the groups of other metrics: here a group keeps counts of every latent, not one row of sums.
RESAMPLING_GROUPS = 128
# Entries of the [sequences, d_sae] table in which codes of a sequence are summed.
TABLE_ENTRIES = 2**22

# The two definitions in use: that of the code released with FaithfulSAE (arXiv 2506.17673), and the one that
# looks at whole sequences.
TOKEN = FakeProtocol(threshold=1.0, unit="token", share=0.1)
SEQUENCE = FakeProtocol(threshold=1.0, unit="sequence", aggregate="sum", share=0.05)


def same_rule(a: FakeProtocol, b: FakeProtocol) -> bool:
    """Whether two protocols call the same latents fake on the same text."""
    return _rule(a) == _rule(b)


def normalised(protocol: FakeProtocol) -> FakeProtocol:
    """The protocol in the one spelling of its rule: tokens have nothing to aggregate, any means max."""
    if protocol.unit == "token":
        return replace(protocol, aggregate="sum")
    return replace(protocol, aggregate="sum" if protocol.aggregate == "sum" else "max")


def _rule(protocol: FakeProtocol) -> tuple[object, ...]:
    own = normalised(protocol)
    return own.unit, own.aggregate, own.threshold, own.relative, own.share


def check_protocol(protocol: FakeProtocol) -> None:
    """Raise :class:`ConfigError` for a protocol under which nothing could be counted."""
    tau, share = protocol.threshold, protocol.share
    if not (0 < tau < 1 if protocol.relative else 0 <= tau < math.inf):
        raise ConfigError(
            f"threshold = {tau}",
            "it is relative, and a quantile lies between 0 and 1"
            if protocol.relative
            else "codes that do not fire are above it, or none is",
            "Give a quantile such as 0.5, or a threshold of 0 or more in units of codes.",
        )
    if not 0 <= share < 1:
        raise ConfigError(
            f"share = {share}",
            "no latent, or every latent, fires on more than that share",
            "Give a share in [0, 1), such as 0.1 of tokens or 0.05 of sequences.",
        )


@dataclass(frozen=True)
class Entries:
    """What all rules need of a batch: each code's latent, and the sequence that its token is of.

    ``latents[nnz]`` and ``rows[nnz]`` int64, ``rows`` an index into ``sequences[s]``, the ids there.
    """

    values: Tensor
    latents: Tensor
    rows: Tensor
    sequences: Tensor
    tokens: Tensor

    @classmethod
    def of(cls, codes: SparseCodes, sequence_ids: Tensor) -> Entries:
        """The entries of ``codes`` of tokens in ``sequence_ids[n]``."""
        sequences, places = torch.unique(sequence_ids.to(codes.values.device), return_inverse=True)
        rows = places.repeat_interleave(codes.counts())
        tokens = torch.bincount(places, minlength=len(sequences))
        return cls(codes.values, codes.indices.long(), rows, sequences, tokens)

    def above(self, threshold: float | Tensor) -> Tensor:
        """``[nnz]`` bool: which codes are above a threshold, or each above that of its latent."""
        if isinstance(threshold, Tensor):
            threshold = threshold[self.latents].to(self.values.dtype)
        return self.values > threshold

    def pieces(self, d_sae: int) -> Iterator[tuple[slice, slice | Tensor]]:
        """Sequences that fit one table, with the entries that are theirs."""
        step = max(1, TABLE_ENTRIES // d_sae)
        if len(self.sequences) <= step:
            yield slice(0, len(self.sequences)), slice(None)
            return
        for start in range(0, len(self.sequences), step):
            stop = min(start + step, len(self.sequences))
            yield slice(start, stop), (self.rows >= start) & (self.rows < stop)


class UnitCounts:
    """On how many tokens or sequences of each group every latent fires: ``counts[n_groups, d_sae]``."""

    def __init__(
        self,
        protocol: FakeProtocol,
        d_sae: int,
        *,
        n_groups: int = RESAMPLING_GROUPS,
        thresholds: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if protocol.relative and thresholds is None:
            raise TypeError("a relative threshold needs the latents' own: thresholds[d_sae]")
        self.protocol = protocol
        self.d_sae = d_sae
        self.n_groups = n_groups
        self.threshold: float | Tensor = protocol.threshold
        if protocol.relative and thresholds is not None:
            self.threshold = thresholds.to(device)
        self.counts = torch.zeros(n_groups, d_sae, dtype=torch.int32, device=device)
        self.units = torch.zeros(n_groups, dtype=torch.int64)

    def update(self, entries: Entries) -> None:
        """Take in a batch that holds the whole of every sequence in it."""
        groups = group_of(entries.sequences, self.n_groups)
        if self.protocol.unit == "token":
            self._add_tokens(entries, groups)
            units = torch.zeros(self.n_groups, dtype=torch.int64, device=groups.device)
            self.units += units.index_add_(0, groups, entries.tokens).cpu()
        else:
            self._add_sequences(entries, groups)
            self.units += torch.bincount(groups, minlength=self.n_groups).cpu()

    def merge(self, other: UnitCounts) -> None:
        """Add another shard's counts."""
        ours, theirs = (
            (c.protocol, c.d_sae, c.n_groups, _plain(c.threshold)) for c in (self, other)
        )
        check_alike("protocol, d_sae and groups", ours, theirs)
        self.counts += other.counts.to(self.counts.device)
        self.units += other.units

    def of_groups(self) -> Counts:
        """The counts of the groups that hold anything, on the CPU."""
        present = self.units > 0
        return Counts(self.counts.cpu()[present], self.units[present], self.protocol.share)

    def _add_tokens(self, entries: Entries, groups: Tensor) -> None:
        over = entries.above(self.threshold)
        places = groups[entries.rows[over]] * self.d_sae + entries.latents[over]
        self.counts.view(-1).scatter_add_(0, places, torch.ones_like(places, dtype=torch.int32))

    def _add_sequences(self, entries: Entries, groups: Tensor) -> None:
        for sequences, mine in entries.pieces(self.d_sae):
            rows, latents = entries.rows[mine] - sequences.start, entries.latents[mine]
            places = rows * self.d_sae + latents
            shape = (sequences.stop - sequences.start, self.d_sae)
            if self.protocol.aggregate == "sum":
                active = _sums(entries.values[mine], places, shape) > self.threshold
            else:  # the largest code is above the threshold where any is
                active = torch.zeros(shape, dtype=torch.bool, device=places.device)
                active.view(-1)[places[entries.above(self.threshold)[mine]]] = True
            self.counts.index_add_(0, groups[sequences], active.int())


class FiringSums:
    """Firings on one text under every protocol of ``protocols``, and without a threshold.

    Those named in ``grouped`` are counted per group of sequences, so that they can be resampled; the others
    in one. ``thresholds[d_sae]`` are the latents' own, for protocols with a relative threshold.
    ``fired[d_sae]`` counts the tokens on which the code is not zero.
    """

    def __init__(
        self,
        protocols: Mapping[str, FakeProtocol],
        d_sae: int,
        *,
        grouped: Collection[str] | None = None,
        thresholds: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        grouped = protocols if grouped is None else grouped
        self.d_sae = d_sae
        self.counts = {
            name: UnitCounts(
                protocol,
                d_sae,
                n_groups=RESAMPLING_GROUPS if name in grouped else 1,
                thresholds=thresholds,
                device=device,
            )
            for name, protocol in protocols.items()
        }
        self.fired = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self.n_tokens = self.n_sequences = 0

    @torch.inference_mode()
    def update(self, codes: SparseCodes, sequence_ids: Tensor) -> None:
        """Take in the codes of tokens in ``sequence_ids[n]``: all counted tokens of each sequence."""
        if codes.n_tokens == 0:
            return
        entries = Entries.of(codes, sequence_ids)
        self.n_tokens += codes.n_tokens
        self.n_sequences += len(entries.sequences)
        fired = entries.latents[entries.values != 0]
        self.fired += torch.bincount(fired, minlength=self.d_sae)
        for counts in self.counts.values():
            counts.update(entries)

    @torch.inference_mode()
    def merge(self, other: FiringSums) -> None:
        """Add a shard of other sequences; raises :class:`ConfigError` where protocols or sizes differ."""
        check_alike("protocols", list(self.counts), list(other.counts))
        for name, counts in self.counts.items():
            counts.merge(other.counts[name])
        self.fired += other.fired.to(self.fired.device)
        self.n_tokens += other.n_tokens
        self.n_sequences += other.n_sequences


def _sums(values: Tensor, places: Tensor, shape: tuple[int, int]) -> Tensor:
    """Codes summed by place, float64 where the device has it: the sum is compared with a threshold."""
    dtype = torch.float32 if values.device.type == "mps" else torch.float64
    table = torch.zeros(shape, dtype=dtype, device=values.device)
    table.view(-1).scatter_add_(0, places, values.to(dtype))
    return table


def _plain(threshold: float | Tensor) -> object:
    return threshold.tolist() if isinstance(threshold, Tensor) else threshold
