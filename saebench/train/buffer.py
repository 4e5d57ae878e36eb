"""The shuffling buffer: activations leave in another order than they came, within bounded memory.

Neighbouring tokens of a text have similar activations; a batch should not be one text. The buffer is
filled, read in random order until half of it is spent, the spent half refilled, and so on. Every
activation leaves exactly once. No row is moved for shuffling: only indices are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from saebench.errors import DataError


class ShuffleBuffer:
    """Batches ``[batch_size, d]`` of the rows of ``chunks`` (each ``[n, d]``), mixed by ``seed``.

    Holds ``capacity`` rows (at least two batches) and at most one chunk that did not fit yet. The last
    batch may be smaller. Iterate once. Raises :class:`DataError` when the chunks hold no row.
    """

    def __init__(
        self, chunks: Iterable[Tensor], *, capacity: int, batch_size: int, seed: int = 0
    ) -> None:
        self.capacity = max(capacity, 2 * batch_size)
        self.batch_size = batch_size
        self._chunks = iter(chunks)
        self._pending: Tensor | None = None
        self._generator = torch.Generator().manual_seed(seed)
        self._rows: Tensor | None = None
        self._order = torch.arange(
            self.capacity
        )  # slots: those still to be read, then the free ones
        self._filled = 0

    def fill(self) -> Tensor:
        """Fill the buffer and return a view ``[n, d]`` of what it first holds, in the order of arrival."""
        self._refill()
        if self._rows is None:
            raise DataError(
                "activations to train on",
                "none",
                "Check that the data hold tokens that the mask policy counts.",
            )
        return self._rows[: self._filled]

    def __iter__(self) -> Iterator[Tensor]:
        """Batches until the chunks are used up and the buffer is empty."""
        while True:
            self._refill()
            if not self._filled:
                return
            ended = self._filled < self.capacity
            order = torch.randperm(self._filled, generator=self._generator)
            self._order[: self._filled] = self._order[order]
            batches = self._filled // 2 // self.batch_size
            if ended:
                batches = -(-self._filled // self.batch_size)
            for _ in range(batches):
                yield self._take()

    def _take(self) -> Tensor:
        """Copy the last slots to be read out, and free them."""
        assert self._rows is not None
        start = max(self._filled - self.batch_size, 0)
        batch = self._rows[self._order[start : self._filled].to(self._rows.device)]
        self._filled = start
        return batch

    def _refill(self) -> None:
        """Put new rows into free slots until the buffer is full or the chunks end."""
        while self._filled < self.capacity:
            if self._pending is None or not len(self._pending):
                self._pending = next(self._chunks, None)
            if self._pending is None:
                return
            if self._rows is None:
                shape = (self.capacity, self._pending.shape[1])
                self._rows = self._pending.new_empty(shape, dtype=torch.float32)
            new = self._pending[: self.capacity - self._filled]
            slots = self._order[self._filled : self._filled + len(new)]
            self._rows[slots.to(self._rows.device)] = new.to(self._rows.dtype)
            self._filled += len(new)
            self._pending = self._pending[len(new) :]
