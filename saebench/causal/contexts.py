"""Where latents fire: for each one a random sample of the sequences, in memory bounded by the sample.

A sequence has a key for each latent, a hash of the seed and both their numbers, and a latent keeps the
sequences with the smallest keys. So the sample is uniform without replacement, and the same whatever
batches the tokens come in. Of the tokens on which a latent fires in a sequence, a second hash takes one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from saebench.causal.probes import Probes
from saebench.codes import SparseCodes

_LAST = 2**63 - 1
_STEP, _FIRST, _SECOND = (
    value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
_MIN_PENDING = 2**18  # entries that wait to be merged, at least
_BLOCKS = 32  # of latents: merged one after another, so that sorting takes little memory beside the sample


class _Entries(NamedTuple):
    """Firings ``[m]``: latent, key, sequence, position (int64) and code."""

    latent: Tensor
    key: Tensor
    sequence: Tensor
    position: Tensor
    code: Tensor

    def at(self, where: Tensor) -> _Entries:
        return _Entries(*(column[where] for column in self))


class ContextIndex:
    """For each of ``d_sae`` latents up to ``n_probes`` tokens on which it fires, one per sequence.

    Feed it the codes of a pass; it lives on ``device``, on that of the first codes by default, and holds
    about ``40 · d_sae · n_probes`` bytes at most, half as much again while it merges, beside what the
    firings of one batch take.
    """

    def __init__(
        self,
        d_sae: int,
        n_probes: int,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        self.d_sae, self.n_probes, self.seed = d_sae, n_probes, seed
        self.device = None if device is None else torch.device(device)
        self._kept: dict[int, _Entries] = {}  # by block of latents
        self._pending: list[_Entries] = []
        self._waiting = 0
        self._last: Tensor | None = None  # the largest key that each latent still takes
        self._counts: Tensor | None = None

    @property
    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """``(sequences[d_sae], tokens[d_sae])`` int64: in how many of each every latent has fired."""
        if self._counts is None:
            return np.zeros(self.d_sae, np.int64), np.zeros(self.d_sae, np.int64)
        sequences, tokens = self._counts.cpu().numpy()
        return sequences, tokens

    @torch.inference_mode()
    def update(self, codes: SparseCodes, sequence_ids: Tensor, positions: Tensor) -> None:
        """Take in the codes of ``n`` tokens: ``sequence_ids[n]`` and ``positions[n]`` (int64) say which.

        All tokens of a sequence must come in one update.
        """
        if self.device is None:
            self.device = codes.values.device
        if self._last is None:
            self._last = torch.full((self.d_sae,), _LAST, device=self.device)
            self._counts = torch.zeros(2, self.d_sae, dtype=torch.int64, device=self.device)
        token = codes.rows().to(self.device)
        latent = codes.indices.to(self.device, torch.int64)
        sequence_ids, positions = sequence_ids.to(self.device), positions.to(self.device)
        self._count(latent, token, sequence_ids)
        sequence = sequence_ids[token]
        key = _mixed(_mixed(sequence ^ _mixed(self._seeded(latent)))) & _LAST
        taken = (key <= self._last[latent]).nonzero().squeeze(1)
        found = _Entries(
            latent[taken],
            key[taken],
            sequence[taken],
            positions[token[taken]],
            codes.values.to(self.device)[taken].float(),
        )
        found = _one_each(found)
        self._pending.append(found)
        self._waiting += found.latent.shape[0]
        if self._waiting >= max(_MIN_PENDING, self.d_sae * self.n_probes // 4):
            self._merge()

    @torch.inference_mode()
    def probes(self, latents: np.ndarray | Tensor | None = None) -> Probes:
        """The contexts of these latents, or of all of them."""
        self._merge()
        if not self._kept:
            return Probes.of([], [], [], [])
        kept = list(self._kept.values())
        if latents is not None:
            wanted = torch.zeros(self.d_sae, dtype=torch.bool, device=self.device)
            wanted[torch.as_tensor(latents, device=self.device, dtype=torch.int64)] = True
            kept = [block.at(wanted[block.latent]) for block in kept]
        columns = zip(*((x.latent, x.sequence, x.position, x.code) for x in kept), strict=True)
        return Probes.of(*(torch.cat(column).cpu().numpy() for column in columns))

    def _seeded(self, latent: Tensor) -> Tensor:
        return latent + (self.seed % 2**31) * 2**32

    def _count(self, latent: Tensor, token: Tensor, sequence_ids: Tensor) -> None:
        assert self._counts is not None
        numbers, local = sequence_ids.unique(return_inverse=True)
        fires = torch.zeros(len(numbers), self.d_sae, dtype=torch.bool, device=sequence_ids.device)
        fires[local[token], latent] = True
        self._counts[0] += fires.sum(0)
        self._counts[1] += torch.bincount(latent, minlength=self.d_sae)

    def _merge(self) -> None:
        """Keep the smallest keys of each latent; those above its last can then be left out early."""
        if not self._pending:
            return
        waiting = _Entries(*(torch.cat(column) for column in zip(*self._pending, strict=True)))
        self._pending, self._waiting = [], 0
        width = -(-self.d_sae // _BLOCKS)
        block = waiting.latent // width
        for number in range(-(-self.d_sae // width)):
            mine = (block == number).nonzero().squeeze(1)
            if len(mine):
                self._merge_block(number, number * width, waiting.at(mine))

    def _merge_block(self, number: int, first: int, new: _Entries) -> None:
        """Merge what is new of the latents of one block, which begins with latent ``first``."""
        if (old := self._kept.pop(number, None)) is not None:
            new = _Entries(*(torch.cat(columns) for columns in zip(old, new, strict=True)))
        del old
        new = new.at(_sorted(new.key, new.latent))
        latent = new.latent - first
        n = latent.shape[0]
        starts = torch.searchsorted(latent, torch.arange(int(latent[-1]) + 1, device=latent.device))
        rank = torch.arange(n, device=latent.device) - starts[latent]
        assert self._last is not None
        final = rank == self.n_probes - 1
        self._last[new.latent[final]] = new.key[final]
        self._kept[number] = new.at(rank < self.n_probes)


def _one_each(found: _Entries) -> _Entries:
    """One firing for every latent and sequence: the one whose position has the smallest hash."""
    second = _mixed(found.key ^ _mixed(found.position)) & _LAST
    found = found.at(_sorted(second, found.key))  # a key is that of one latent in one sequence
    new = torch.ones_like(found.key, dtype=torch.bool)
    new[1:] = found.key[1:] != found.key[:-1]
    return found.at(new)


def _sorted(*columns: Tensor) -> Tensor:
    """The order by the last column, then by the one before it, and so on."""
    order = columns[0].argsort(stable=True)
    for column in columns[1:]:
        order = order[column[order].argsort(stable=True)]
    return order


def _mixed(values: Tensor) -> Tensor:
    """The finaliser of SplitMix64, in signed integers that wrap around."""
    values = values + _STEP
    values = (values ^ _shifted(values, 30)) * _FIRST
    values = (values ^ _shifted(values, 27)) * _SECOND
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, bits: int) -> Tensor:
    """The right shift that fills up with zeros."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
