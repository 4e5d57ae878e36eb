"""The columns of pooled rows, centred without making sparse ones dense; their mid-ranks likewise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy import sparse, stats

from saebench.errors import DataError

Matrix: TypeAlias = np.ndarray | sparse.csr_array
DENSE = 0.25  # share of stored values above which dense products are the faster ones
BLOCK = 4_000_000  # values of a dense block: 32 MB in float64
Block = tuple[slice, Matrix]


@dataclass(frozen=True)
class Columns:
    """The m columns of rows ``x[n, m]``, one after another: ``matrix[m, n]``, sparse or dense.

    ``centre[m]`` is the mean of each and ``spread[m]`` its sum of squares about that, both float64; the
    spread is exactly 0 where all values are equal. ``firings[m]`` counts values other than zero.
    """

    matrix: Matrix
    centre: np.ndarray
    spread: np.ndarray
    firings: np.ndarray

    @property
    def n(self) -> int:
        """How many rows there are."""
        return int(self.matrix.shape[1])

    @property
    def m(self) -> int:
        """How many columns there are."""
        return int(self.matrix.shape[0])

    @classmethod
    def of(cls, x: Matrix) -> Columns:
        """The columns of ``x[n, m]``; raises :class:`DataError` where a value is not finite."""
        matrix = _by_column(x)
        values = matrix.data if sparse.issparse(matrix) else matrix
        if bad := int((~np.isfinite(values)).sum()):
            raise DataError(
                f"finite values in {x.shape[0]} × {x.shape[1]} pooled rows",
                f"{bad:,} are infinite or not a number",
                "Run the model in a precision with a wider range: float16 ends at 65,504, bfloat16 "
                "and float32 do not.",
            )
        return cls._with_moments(matrix)

    @classmethod
    def _with_moments(cls, matrix: Matrix) -> Columns:
        n = max(matrix.shape[1], 1)
        parts = [_moments(block, n) for _, block in _blocks(matrix)]
        centre, spread, firings = (np.concatenate(part) for part in zip(*parts, strict=True))
        return cls(matrix, centre, spread, firings.astype(np.int64))

    def take(self, which: np.ndarray) -> Columns:
        """The columns ``which[m]`` (bool) or by number."""
        parts = self.centre[which], self.spread[which], self.firings[which]
        return Columns(self.matrix[which], *parts)

    def rows(self, which: np.ndarray) -> Columns:
        """The same columns of the rows ``which[n]`` (bool) alone."""
        return Columns._with_moments(self.matrix[:, which])

    def column(self, number: int) -> np.ndarray:
        """One column, ``[n]`` float64."""
        row = self.matrix[[number]]
        dense = row if isinstance(row, np.ndarray) else row.toarray()
        return np.asarray(dense[0], dtype=np.float64)

    def blocks(self) -> Iterator[Block]:
        """Which columns, and their values ``[size, n]`` float64, a bounded number of them at a time."""
        return _blocks(self.matrix)

    def centred_sums(self, block: Block, members: np.ndarray) -> np.ndarray:
        """Sums ``[size, b]`` over the rows in each of ``members[n, b]``, of values less their centre."""
        where, values = block
        sums = np.asarray(values @ members.astype(np.float64))
        sums -= self.centre[where, None] * members.sum(0)
        return sums

    def ranks(self) -> Columns:
        """The mid-ranks of each column less that of its zeros, so that sparse columns stay sparse."""
        if isinstance(self.matrix, np.ndarray):
            parts = [stats.rankdata(values, axis=1) for _, values in self.blocks()]
            return Columns._with_moments(np.concatenate(parts).astype(np.float32))
        return Columns._with_moments(_sparse_ranks(self.matrix))


def _by_column(x: Matrix) -> Matrix:
    """``x[n, m]`` as ``[m, n]``, in compressed rows where few values are not zero."""
    if not sparse.issparse(x):
        return np.ascontiguousarray(np.asarray(x).T)
    found = sparse.csr_array(x.T)
    found.sum_duplicates()
    found.eliminate_zeros()
    size = found.shape[0] * found.shape[1]
    return found.toarray() if found.nnz > DENSE * size else found


def _blocks(matrix: Matrix) -> Iterator[Block]:
    m, n = matrix.shape
    size = max(1, BLOCK // max(n, 1))
    for start in range(0, m, size) or [0]:
        where = slice(start, min(start + size, m))
        yield where, matrix[where].astype(np.float64)


def _moments(values: Matrix, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, sum of squares about it, and number of values other than zero, of each row of a block."""
    if isinstance(values, np.ndarray):
        firings = np.count_nonzero(values, axis=1)
        mean = values.mean(1)
        spread = ((values - mean[:, None]) ** 2).sum(1)
        low, high = values.min(1), values.max(1)
    else:
        firings = np.diff(values.indptr)
        mean = np.asarray(values.sum(axis=1)).ravel() / n
        apart = values.copy()
        apart.data = (values.data - np.repeat(mean, firings)) ** 2
        spread = np.asarray(apart.sum(axis=1)).ravel() + (n - firings) * mean**2
        low, high = (np.asarray(f(axis=1).todense()).ravel() for f in (values.min, values.max))
    return mean, np.where(low == high, 0.0, spread), firings


def _sparse_ranks(matrix: sparse.csr_array) -> sparse.csr_array:
    """Mid-ranks of what is stored, less the mid-rank of the zeros of the same row of ``[m, n]``."""
    m, n = matrix.shape
    stored = np.diff(matrix.indptr)
    row = np.repeat(np.arange(m), stored)
    order = _order(row, matrix.data)
    values = matrix.data[order]
    place = np.arange(len(values)) - matrix.indptr[:-1].astype(np.int64)[row]
    # runs of equal values of one row share the middle of their places
    first = np.ones(len(values), dtype=bool)
    first[1:] = (values[1:] != values[:-1]) | (row[1:] != row[:-1])
    starts = np.flatnonzero(first)
    sizes = np.diff(np.append(starts, len(values)))
    middle = np.repeat(place[starts] + (sizes + 1) / 2, sizes)
    negative = np.bincount(row[values < 0], minlength=m)
    zeros = n - stored
    ranks = middle + np.where(values > 0, zeros[row], 0)
    of_zero = negative + (zeros + 1) / 2
    found = np.empty(len(values), dtype=np.float32)
    found[order] = ranks - of_zero[row]
    return sparse.csr_array((found, matrix.indices, matrix.indptr), shape=matrix.shape)


def _order(row: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The order by row, then by value; of float32 values by one key of 64 bits, which sorts much faster."""
    if values.dtype != np.float32:
        return np.lexsort((values, row))
    bits = values.view(np.int32)
    rising = bits ^ (
        (bits >> 31) & np.int32(0x7FFFFFFF)
    )  # whole numbers in the order of the floats
    return np.argsort((row.astype(np.int64) << 32) + rising)
