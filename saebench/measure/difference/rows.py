"""Activations of two models at a site, kept token by token so that nothing is read twice.

Subsets by norm need every norm before the first sum, so the rows are kept: in memory, or in a file without
a name beside the records where they are many. Such a file is gone as soon as it is closed, also when the
process ends in any other way.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from saebench.errors import ModelError, OutputError
from saebench.passes import Calibration, SiteView, Stack

IN_MEMORY_BYTES = 2**30  # of the rows of all sites; where they are more they go to files
CHUNK_TOKENS = 4096  # tokens worked on at a time, in whole sequences
T = TypeVar("T")


class Rows:
    """The counted tokens of the first whole sequences, at most ``capacity``: ``x[n, width]`` float32.

    A site observer of a stack of readings, which lie side by side. ``folder`` is where the file lies that
    takes what is too much for memory, of which there is as much as for ``n_sites`` alike.
    """

    def __init__(self, stack: Stack, capacity: int, folder: Path, n_sites: int = 1) -> None:
        self.stack, self.capacity = stack, capacity
        self.folder, self.n_sites = folder, n_sites
        self.chunk_tokens = CHUNK_TOKENS  # fewer once memory has run out
        self.n = 0
        self.full = False
        self.sequence_ids = np.zeros(capacity, dtype=np.int64)
        self._x: Any = None
        self._file: IO[bytes] | None = None

    def begin(self, calibration: Calibration) -> None:
        """Nothing is known to be wanted of it: rows are kept as they are."""

    def update(self, view: SiteView) -> None:
        """Keep one batch, as far as there is room for whole sequences."""
        if self.full:
            return
        ids = view.sequence_ids.cpu().numpy()
        ends = np.append(np.flatnonzero(np.diff(ids)) + 1, ids.size)
        fit = ends[ends <= self.capacity - self.n]
        n = int(fit[-1]) if fit.size else 0
        self.full = n < ids.size
        if not n:
            return
        if self._x is None:
            self._x = self._made(view.x.shape[1])
        rows = slice(self.n, self.n + n)
        self._x[rows] = view.x[:n].float().cpu().numpy()
        self.sequence_ids[rows] = ids[:n]
        self.n += n

    @property
    def sequences(self) -> np.ndarray:
        """The sequence of each token, ``[n]`` int64, ascending."""
        return self.sequence_ids[: self.n]

    def chunks(self, device: torch.device, size: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """``(first token, x[m, width])`` on a device, whole sequences, about ``size`` tokens at a time."""
        size = size or self.chunk_tokens
        starts = np.append(np.flatnonzero(np.diff(self.sequences, prepend=-1)), self.n)
        first = 0
        while first < self.n:
            later = starts[(starts > first) & (starts <= first + size)]
            stop = int(later[-1]) if later.size else int(starts[starts > first][0])
            yield first, torch.from_numpy(np.array(self._x[first:stop])).to(device)
            first = stop

    @property
    def longest(self) -> int:
        """The tokens of the longest sequence, less than which no chunk has; 0 without any."""
        return int(np.unique(self.sequences, return_counts=True)[1].max(initial=0))

    def close(self) -> None:
        """Let go of the rows, and of the file where there is one."""
        self._x = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _made(self, width: int) -> Any:
        shape, n_bytes = (self.capacity, width), 4 * self.capacity * width
        if n_bytes <= IN_MEMORY_BYTES // self.n_sites:
            return np.empty(shape, dtype=np.float32)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - closed by close()
            if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a crash later
                os.posix_fallocate(self._file.fileno(), 0, n_bytes)
            return np.memmap(self._file, dtype=np.float32, mode="r+", shape=shape)
        except (OSError, ValueError) as error:
            self.close()
            raise OutputError(
                f"{n_bytes / 2**30:.1f} GiB of activations in {self.folder}",
                str(error),
                "Lower max_tokens in [difference], or choose a folder with more room.",
            ) from error


def within_memory(rows: Rows, measure: Callable[[], T], asked: str) -> T:
    """What ``measure`` returns, begun again with half as many tokens at a time whenever memory runs out.

    Raises :class:`ModelError` about ``asked`` where it runs out with one sequence at a time as well.
    """
    while True:
        try:
            return measure()
        except torch.OutOfMemoryError as error:
            least = rows.longest
            if rows.chunk_tokens <= least:
                raise ModelError(
                    f"{asked}, {least:,} tokens at a time",
                    "memory runs out, and no sequence is measured in parts",
                    "Lower length in [difference], give fewer checkpoints at once, choose another "
                    "sae_dtype, or another device.",
                ) from error
        # outside of the handler, whose error holds on to what was in memory
        rows.chunk_tokens = max(rows.chunk_tokens // 2, least)
        torch.cuda.empty_cache()
