"""The sequences that hold probes: picked from a stream, cut after their last probe, grouped by length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from saebench.causal.probes import Probes
from saebench.errors import DataError

TEXT_TOKENS = {"cpu": 2**13}  # that go through a model together
ACCELERATOR_TEXT_TOKENS = 2**16
_HELD = 4  # groups that are held to be sorted by length


class Sequences(Protocol):
    """A batch of a token stream: ``ids[b, t]``, ``attention_mask[b, t]`` and ``sequence_ids[b]``."""

    @property
    def ids(self) -> Tensor: ...  # noqa: D102

    @property
    def attention_mask(self) -> Tensor: ...  # noqa: D102

    @property
    def sequence_ids(self) -> Tensor: ...  # noqa: D102


@dataclass(frozen=True)
class Texts:
    """Sequences and their probes: ``ids[b, t]``, ``mask[b, t]`` (None: all are tokens).

    ``probes[n]`` are places among all probes, ``rows[n]`` the row of the sequence that each is in.
    """

    ids: Tensor
    mask: Tensor | None
    probes: np.ndarray
    rows: np.ndarray

    @property
    def n_rows(self) -> int:
        """How many sequences there are."""
        return self.ids.shape[0]

    def halves(self) -> Iterator[Texts]:
        """The first half of the sequences, and the others."""
        half = self.n_rows // 2
        for start, stop in ((0, half), (half, self.n_rows)):
            inside = (self.rows >= start) & (self.rows < stop)
            mask = None if self.mask is None else self.mask[start:stop]
            yield Texts(self.ids[start:stop], mask, self.probes[inside], self.rows[inside] - start)


class _Cut(NamedTuple):
    ids: Tensor
    mask: Tensor
    start: int
    stop: int


def read_texts(
    batches: Iterable[Sequences], probes: Probes, device: torch.device
) -> Iterator[Texts]:
    """The texts of the probes, each sequence once; reads no further than to the last of them.

    Raises
    ------
    DataError : a probe is in a sequence, or at a position, that the batches do not have.
    """
    wanted, starts = np.unique(probes.sequence, return_index=True)
    stops = np.r_[starts[1:], len(probes)]
    left = np.ones(len(wanted), bool)
    budget = TEXT_TOKENS.get(device.type, ACCELERATOR_TEXT_TOKENS)
    held: list[_Cut] = []
    for batch in batches if left.any() else ():
        numbers = batch.sequence_ids.cpu().numpy()
        place = np.searchsorted(wanted, numbers).clip(max=len(wanted) - 1)
        for row in np.flatnonzero((wanted[place] == numbers) & left[place]).tolist():
            at = int(place[row])
            left[at] = False
            held.append(_cut(batch, row, probes, int(starts[at]), int(stops[at])))
        if sum(cut.ids.shape[0] for cut in held) >= _HELD * budget:
            yield from _grouped(held, budget)
            held = []
        if not left.any():
            break
    if left.any():
        raise DataError(
            f"sequence {wanted[left][0]}, which holds probes",
            f"the stream ends without it ({int(left.sum())} of {len(wanted)} are missing)",
            "Give the stream that the probes were taken from",
        )
    yield from _grouped(held, budget)


def _cut(batch: Sequences, row: int, probes: Probes, start: int, stop: int) -> _Cut:
    """One sequence up to its last probe."""
    positions = probes.position[start:stop]
    length = int(positions[-1]) + 1
    mask = batch.attention_mask[row, :length].bool().cpu()
    if mask.shape[0] < length or not bool(mask[torch.from_numpy(positions)].all()):
        raise DataError(
            f"a probe at position {length - 1} of sequence {probes.sequence[start]}",
            f"it has {int(batch.attention_mask[row].sum())} tokens",
            "Give the stream that the probes were taken from",
        )
    return _Cut(batch.ids[row, :length].cpu(), mask, start, stop)


def _grouped(held: list[_Cut], budget: int) -> Iterator[Texts]:
    """Texts of similar length, so many that they stay within the budget of tokens."""
    group: list[_Cut] = []
    for cut in sorted(held, key=lambda item: item.ids.shape[0]):
        if group and (len(group) + 1) * cut.ids.shape[0] > budget:
            yield _texts(group)
            group = []
        group.append(cut)
    if group:
        yield _texts(group)


def _texts(group: list[_Cut]) -> Texts:
    length = max(cut.ids.shape[0] for cut in group)
    ids = torch.zeros(len(group), length, dtype=torch.int64)
    mask = torch.zeros(len(group), length, dtype=torch.bool)
    for row, cut in enumerate(group):
        ids[row, : cut.ids.shape[0]] = cut.ids
        mask[row, : cut.ids.shape[0]] = cut.mask
    probes = np.concatenate([np.arange(cut.start, cut.stop) for cut in group])
    rows = np.repeat(np.arange(len(group)), [cut.stop - cut.start for cut in group])
    return Texts(ids, None if bool(mask.all()) else mask, probes, rows)
