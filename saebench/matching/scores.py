"""Score matrices that are never whole in memory: screened by row blocks, exact for chosen pairs.

A source gives *screened* scores quickly and *exact* ones slowly, and says how far they can be apart:

    |exact(i, j) − screened(i, j)| ≤ error_a[i] + error_b[j] + relative · |screened(i, j)|
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saebench.errors import CheckpointError, DataError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

BLOCK_BYTES = 32 * 2**20  # of screened scores at a time; fewer rows would slow the products
GATHER_ROWS = 128  # gathered at a time: they stay in the cache
BF16_UNIT = 2.0**-8  # relative rounding error of bfloat16
FLOAT32_UNIT = 2.0**-24


class ScoreBlocks(Protocol):
    """Anything with scores ``[m_a, m_b]`` that can be read in row blocks, as often as needed."""

    shape: tuple[int, int]

    def __call__(self, start: int, stop: int) -> Tensor:
        """Scores ``[stop − start, m_b]`` of the rows from ``start``, the same at every call."""
        ...


class Source(Protocol):
    """What the candidate search needs of a score matrix."""

    shape: tuple[int, int]
    error_a: Floats
    error_b: Floats
    relative: float
    empty_a: Mask | None  # rows and columns known to hold zeros only; None: look
    empty_b: Mask | None

    def screened(self, start: int, stop: int) -> Tensor:
        """Screened scores ``[stop − start, m_b]``, float32 or bfloat16."""
        ...

    def screened_part(self, rows: Ints, columns: Ints) -> Tensor:
        """Screened scores ``[rows, columns]`` of chosen rows and columns, rows in order."""
        ...

    def exact(self, rows: Ints, columns: Ints) -> Floats:
        """Exact signed scores ``[pairs]`` of chosen pairs."""
        ...

    def largest(self, chosen: Ints, side: str, absolute: bool, threshold: Floats) -> Floats:
        """The largest score of chosen "rows" or "columns" whose best may be beyond the candidates.

        ``threshold[chosen]`` bounds what is not among the candidates.
        """
        ...


class CosineScores:
    """Cosines between the rows of ``a[m_a, d]`` and ``b[m_b, d]``; a zero row has cosine 0 with all.

    Exact cosines are products of the float32 rows in float64. Screened ones are products of unit rows
    in bfloat16 or float32. Their distance is bounded by Cauchy-Schwarz from the measured length of
    each row's rounding error, plus d roundings of the float32 sum, plus one of the result.

    Raises:
        CheckpointError: not two matrices, of different width, empty, or with NaN or infinite values.
    """

    def __init__(self, a: Tensor, b: Tensor, *, dtype: torch.dtype | None = None) -> None:
        check_directions(a, b)
        self.shape = (len(a), len(b))
        self.dtype = dtype or fast_dtype()
        self._a, self._b = (x.detach().to("cpu", torch.float32).contiguous() for x in (a, b))
        self._inverse_a, self._inverse_b = inverse_norms(self._a), inverse_norms(self._b)
        self.empty_a, self.empty_b = self._inverse_a == 0, self._inverse_b == 0
        self._unit_a, off_a = unit_rows(self._a, self._inverse_a, self.dtype)
        self._unit_b, off_b = unit_rows(self._b, self._inverse_b, self.dtype)
        summing = 1.05 * (a.shape[1] + 2) * FLOAT32_UNIT
        self.error_a, self.error_b = off_a + summing, off_b * 1.05
        self.relative = 1.01 * BF16_UNIT if self.dtype == torch.bfloat16 else FLOAT32_UNIT

    def screened(self, start: int, stop: int) -> Tensor:
        """Cosines ``[stop − start, m_b]`` in the screening dtype."""
        return self._unit_a[start:stop] @ self._unit_b.T

    def screened_part(self, rows: Ints, columns: Ints) -> Tensor:
        """Cosines ``[rows, columns]`` in the screening dtype."""
        return self._unit_a[torch.from_numpy(rows)] @ self._unit_b[torch.from_numpy(columns)].T

    def exact(self, rows: Ints, columns: Ints) -> Floats:
        """Cosines ``[pairs]`` in float64."""
        a, b, found = self._a.numpy(), self._b.numpy(), np.empty(len(rows))
        left, right = (np.empty((GATHER_ROWS, a.shape[1]), np.float32) for _ in "ab")
        wide = np.empty(left.shape)
        for at in range(0, len(rows), GATHER_ROWS):
            n = min(GATHER_ROWS, len(rows) - at)
            np.take(a, rows[at : at + n], axis=0, out=left[:n], mode="clip")  # "clip": no copy
            np.take(b, columns[at : at + n], axis=0, out=right[:n], mode="clip")
            np.multiply(left[:n], right[:n], out=wide[:n], dtype=np.float64)
            wide[:n].sum(1, out=found[at : at + n])
        return found * self._inverse_a[rows] * self._inverse_b[columns]

    def largest(self, chosen: Ints, side: str, absolute: bool, threshold: Floats) -> Floats:
        """The largest cosine of each chosen row or column, to float32 rounding."""
        mine, other = (self._a, self._b) if side == "rows" else (self._b, self._a)
        scales = (self._inverse_a, self._inverse_b)
        own, across = scales if side == "rows" else scales[::-1]
        found = np.empty(len(chosen))
        across32 = torch.from_numpy(across).float()
        step = rows_per_block(len(other), 4)
        for at in range(0, len(chosen), step):
            index = torch.from_numpy(chosen[at : at + step])
            unit = (mine[index].double() * torch.from_numpy(own)[index, None]).float()
            cosines = (unit @ other.T).mul_(across32)
            found[at : at + step] = (cosines.abs_() if absolute else cosines).amax(1).numpy()
        return found

    def dense(self) -> Floats:
        """The whole matrix ``[m_a, m_b]`` in float64."""
        left = self._a.double() * torch.from_numpy(self._inverse_a)[:, None]
        right = self._b.double() * torch.from_numpy(self._inverse_b)[:, None]
        return (left @ right.T).numpy()


class BlockScores:
    """Scores that a callable gives in row blocks; they are taken as exact.

    Raises:
        DataError: a block has the wrong shape, or holds NaN or infinite scores.
    """

    relative = 0.0
    empty_a: Mask | None = None
    empty_b: Mask | None = None

    def __init__(self, blocks: Callable[[int, int], Tensor], shape: tuple[int, int]) -> None:
        self._blocks, self.shape = blocks, shape
        self.error_a, self.error_b = np.zeros(shape[0]), np.zeros(shape[1])

    def screened(self, start: int, stop: int) -> Tensor:
        """Scores ``[stop − start, m_b]`` as float32."""
        block = self._blocks(start, stop).detach().to("cpu", torch.float32)
        wanted = (stop - start, self.shape[1])
        if tuple(block.shape) != wanted:
            raise DataError(
                f"Reading scores of rows {start} to {stop}",
                f"a block of shape {tuple(block.shape)} where {wanted} was expected",
                "Give every requested row and all columns.",
            )
        if not torch.isfinite(block.sum()) and not torch.isfinite(block).all():
            raise DataError(
                f"Reading scores of rows {start} to {stop}",
                "NaN or infinite scores",
                "Set undefined scores to 0 before matching.",
            )
        return block

    def screened_part(self, rows: Ints, columns: Ints) -> Tensor:
        """Scores ``[rows, columns]`` as float32; the rows are in order."""
        wanted = torch.from_numpy(columns)
        return torch.cat([block[:, wanted] for _, block in self._read(rows)])

    def exact(self, rows: Ints, columns: Ints) -> Floats:
        """Scores ``[pairs]`` as the callable gives them, in float32."""
        found = np.empty(len(rows))
        for part, block in self._read(np.unique(rows)):
            mine = np.flatnonzero((rows >= part[0]) & (rows <= part[-1]))
            found[mine] = block.numpy()[np.searchsorted(part, rows[mine]), columns[mine]]
        return found

    def _read(self, rows: Ints) -> Iterator[tuple[Ints, Tensor]]:
        """The scores ``[part, m_b]`` of distinct rows in order, part by part: near ones in one call."""
        step = rows_per_block(self.shape[1], 4)
        for at in range(0, len(rows), step):
            part = rows[at : at + step]
            start, stop = int(part[0]), int(part[-1]) + 1
            if stop - start <= 2 * len(part):
                yield part, self.screened(start, stop)[torch.from_numpy(part - start)]
            else:
                yield part, torch.cat([self.screened(i, i + 1) for i in part.tolist()])

    def largest(self, chosen: Ints, side: str, absolute: bool, threshold: Floats) -> Floats:
        """The threshold: it is a score of the row or column, and what exceeds it is a candidate."""
        return threshold

    def dense(self) -> Floats:
        """The whole matrix ``[m_a, m_b]`` in float64."""
        step = rows_per_block(self.shape[1], 4)
        parts = [
            self.screened(i, min(i + step, self.shape[0])).double()
            for i in range(0, self.shape[0], step)
        ]
        return torch.cat(parts).numpy() if parts else np.zeros(self.shape)


def rows_per_block(m_b: int, item_bytes: int) -> int:
    """How many rows of ``m_b`` scores fill one block."""
    return max(16, min(4096, BLOCK_BYTES // max(1, m_b * item_bytes)))


def check_directions(a: Tensor, b: Tensor) -> None:
    """Refuse what is not two non-empty finite matrices ``[m, d]`` of one width."""
    asked = "Matching two dictionaries"
    for name, x in (("first", a), ("second", b)):
        if x.ndim != 2 or not x.numel():
            raise CheckpointError(
                asked, f"the {name} has shape {tuple(x.shape)}", "Give two matrices [m, d]."
            )
        if not torch.isfinite(x.float().sum()) and not torch.isfinite(x.float()).all():
            raise CheckpointError(
                asked, f"the {name} holds NaN or infinite weights", "Match finished checkpoints."
            )
    if a.shape[1] != b.shape[1]:
        raise CheckpointError(
            asked,
            f"directions of width {a.shape[1]} and of width {b.shape[1]}",
            "Only dictionaries that write to the same site can be matched.",
        )


def inverse_norms(x: Tensor) -> Floats:
    """``1 / ‖row‖`` of ``x[m, d]`` in float64, 0 for a zero row."""
    norms = torch.cat([part.double().norm(dim=1) for part in x.split(4096)]).numpy()
    return np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)


def unit_rows(x: Tensor, inverse: Floats, dtype: torch.dtype) -> tuple[Tensor, Floats]:
    """Unit rows ``[m, d]`` rounded to ``dtype``, and the length of what rounding changed ``[m]``."""
    unit, off = torch.empty(x.shape, dtype=dtype), np.empty(len(x))
    scale = torch.from_numpy(inverse)[:, None]
    for at in range(0, len(x), 4096):
        wanted = x[at : at + 4096].double() * scale[at : at + 4096]
        unit[at : at + 4096] = wanted.to(dtype)
        off[at : at + 4096] = (unit[at : at + 4096].double() - wanted).norm(dim=1).numpy()
    return unit, off


@lru_cache(maxsize=1)
def fast_dtype() -> torch.dtype:
    """bfloat16 where a trial product is clearly faster than in float32 on this machine."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        x, y = torch.ones(512, 512, dtype=dtype), torch.ones(2048, 512, dtype=dtype)
        times = []
        for _ in range(3):
            started = time.perf_counter()
            x @ y.T
            times.append(time.perf_counter() - started)
        seconds[dtype] = min(times)
    faster = seconds[torch.bfloat16] < 0.7 * seconds[torch.float32]
    return torch.bfloat16 if faster else torch.float32
