"""Candidate pairs of a score matrix too large to keep: the best of every row and column.

One pass over the screened scores keeps each pair whose score exceeds its row's or its column's
threshold. What is not kept is bounded by the same thresholds, which later proves most of it
irrelevant without looking at it again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saebench.matching.scores import Floats, Ints, Mask, Source, rows_per_block

CHUNK_BYTES = 8 * 2**20  # compared at a time, so that what is compared stays in the cache
SAMPLE = 2048  # rows and columns that thresholds are estimated from, at least
GROUPS = 6  # of rows, at least, whose largest values say where a column's threshold is


@dataclass
class Pairs:
    """Candidate pairs in order of ``keys = row · m_b + column``.

    ``upper[pairs]`` bounds the value of a pair from above; ``values[pairs]`` is its exact signed score, or
    NaN while only screened. ``rest_a[m_a]`` and ``rest_b[m_b]`` bound the value of every pair that is not
    here: ``value(i, j) ≤ min(rest_a[i], rest_b[j])``. A *value* is a score, or its absolute value where that
    is matched.
    """

    m_b: int
    absolute: bool
    keys: Ints
    upper: Floats
    values: Floats
    rest_a: Floats
    rest_b: Floats
    empty_a: Mask
    empty_b: Mask

    @property
    def rows(self) -> Ints:
        """Row of each pair."""
        return self.keys // self.m_b

    @property
    def columns(self) -> Ints:
        """Column of each pair."""
        return self.keys % self.m_b

    def learn(self, source: Source, which: Ints) -> None:
        """Make the pairs at positions ``which`` exact."""
        which = which[np.isnan(self.values[which])]
        if len(which):
            self.values[which] = source.exact(
                self.keys[which] // self.m_b, self.keys[which] % self.m_b
            )
            self.upper[which] = value_of(self.values[which], self.absolute)

    def hold(self, keys: Ints) -> Mask:
        """Which of ``keys`` are candidates."""
        at = np.searchsorted(self.keys, keys)
        held = at < len(self.keys)
        held[held] = self.keys[at[held]] == keys[held]
        return held

    def add(self, keys: Ints, values: Floats) -> None:
        """Take in pairs with exact signed scores, replacing what was screened of them."""
        keys, first = np.unique(keys, return_index=True)
        values = values[first]
        at = np.searchsorted(self.keys, keys)
        old = self.hold(keys)
        self.values[at[old]] = values[old]
        self.upper[at[old]] = value_of(values[old], self.absolute)
        new, place = ~old, at[~old]
        self.keys = np.insert(self.keys, place, keys[new])
        self.values = np.insert(self.values, place, values[new])
        self.upper = np.insert(self.upper, place, value_of(values[new], self.absolute))


def value_of(scores: Floats, absolute: bool) -> Floats:
    """What is maximised: the scores, or their absolute values."""
    return np.abs(scores) if absolute else scores


def find_candidates(source: Source, n: int, absolute: bool) -> Pairs:
    """About the ``n`` best pairs of each row and of each column, all of them only screened."""
    m_a, m_b = source.shape
    row_limit, column_limit = np.empty(m_a, np.float32), column_thresholds(source, n, absolute)
    highest_b = column_limit.clone()
    empty_a, empty_b = np.zeros(m_a, bool), np.ones(m_b, bool)
    keys, scores = [], []
    step = rows_per_block(m_b, 2)
    for start in range(0, m_a, step):
        block = source.screened(start, min(start + step, m_a))
        limit = row_thresholds(block, n, absolute)
        hits = above(block, limit, column_limit, absolute)
        if len(hits) > 8 * n * (len(block) + m_b * len(block) // m_a + 1):
            limit, column_limit = exact_thresholds(block, n, m_a, column_limit, absolute)
            hits = above(block, limit, column_limit, absolute)
            highest_b = torch.maximum(highest_b, column_limit)
        row_limit[start : start + len(block)] = limit.float().numpy()
        keys.append(hits + start * m_b)
        scores.append(block.reshape(-1)[torch.from_numpy(hits)].double().numpy())
        if source.empty_a is None:
            nonzero = block != 0
            empty_a[start : start + len(block)] = ~nonzero.any(1).numpy()
            empty_b &= ~nonzero.any(0).numpy()
    pairs = bounded(source, np.concatenate(keys), np.concatenate(scores), absolute)
    pairs.rest_a = lifted(row_limit, source.relative) + source.error_a + source.error_b.max()
    pairs.rest_b = (
        lifted(highest_b.float().numpy(), source.relative) + source.error_b + source.error_a.max()
    )
    pairs.empty_a = empty_a if source.empty_a is None else source.empty_a
    pairs.empty_b = empty_b if source.empty_b is None else source.empty_b
    return pairs


def lifted(screened: np.ndarray, relative: float) -> Floats:
    """The largest exact score that a relative error leaves possible for each screened one."""
    wide = screened.astype(np.float64)
    return wide + relative * np.abs(wide)


def bounded(source: Source, keys: Ints, scores: Floats, absolute: bool) -> Pairs:
    """Screened pairs with the upper bounds that the source's errors give."""
    m_b = source.shape[1]
    rows, columns = keys // m_b, keys % m_b
    upper = lifted(value_of(scores, absolute), source.relative)
    upper += source.error_a[rows] + source.error_b[columns]
    exact = source.relative == 0 and not source.error_a.any() and not source.error_b.any()
    values = scores if exact else np.full(len(keys), np.nan)
    nothing, none = np.zeros(0), np.zeros(0, bool)
    return Pairs(m_b, absolute, keys, upper, values, nothing, nothing, none, none)


def above(block: Tensor, limit: Tensor, column_limit: Tensor, absolute: bool) -> Ints:
    """Flat positions in ``block[rows, m_b]`` whose value is above the row's or the column's threshold.

    Compared as integers of the same bits, several times faster than as bfloat16: among numbers ≥ 0 they have
    the same order, and negative numbers come out below. Where a threshold is negative, they are reordered.
    """
    rows, m_b = block.shape
    low, across, scores = (bits(x.to(block.dtype)) for x in (limit, column_limit, block))
    signed = bool((limit < 0).any() or (column_limit < 0).any())
    if signed:
        low, across = ordered(low), ordered(across)
    step = max(1, CHUNK_BYTES // (m_b * block.element_size()))
    hit, other = (np.empty((min(step, rows), m_b), bool) for _ in range(2))
    found = []
    for at in range(0, rows, step):
        part = scores[at : at + step]
        if absolute:
            part = part & np.iinfo(part.dtype).max
        elif signed:
            part = ordered(part)
        n = len(part)
        np.greater(part, low[at : at + n, None], out=hit[:n])
        np.greater(part, across, out=other[:n])
        np.logical_or(hit[:n], other[:n], out=hit[:n])
        found.append(np.flatnonzero(hit[:n]) + at * m_b)
    return np.concatenate(found)


def bits(x: Tensor) -> np.ndarray:
    """The bits of floating-point numbers as integers."""
    return x.contiguous().view(torch.int16 if x.element_size() == 2 else torch.int32).numpy()


def ordered(x: np.ndarray) -> np.ndarray:
    """Bits of floating-point numbers as integers in the order of the numbers."""
    return x ^ ((x >> (8 * x.itemsize - 1)) & np.iinfo(x.dtype).max)


def row_thresholds(block: Tensor, n: int, absolute: bool) -> Tensor:
    """A score per row ``[rows]`` that about ``n`` of its values exceed, from every so-manyth column."""
    m_b = block.shape[1]
    stride = max(1, min(m_b // SAMPLE, n // 4))
    sample = block[:, ::stride]
    k = min(sample.shape[1], max(1, round(n / stride)))
    return (sample.abs() if absolute else sample).topk(k, dim=1).values[:, -1]


def column_thresholds(source: Source, n: int, absolute: bool) -> Tensor:
    """A score per column ``[m_b]`` that about ``n`` of its values exceed, from rows spread over all.

    Of several groups of rows, only the largest value of each column is kept: a threshold that ``n`` of
    ``m_a`` exceed is below that in a known share of the groups.
    """
    m_a = source.shape[0]
    share = min(1.0, n / m_a)
    size = max(1, min(m_a // GROUPS, round(np.log(2) / share)))
    groups = min(m_a // size, max(GROUPS, SAMPLE // size))
    highest = []
    for start in np.linspace(0, m_a - size, groups).astype(int).tolist():
        block = source.screened(start, start + size)
        highest.append((block.abs() if absolute else block).amax(0))
    below = 1 - (1 - share) ** size
    k = min(groups, max(1, round(below * groups)))
    return torch.stack(highest, 1).topk(k, dim=1).values[:, -1]


def exact_thresholds(
    block: Tensor, n: int, m_a: int, column_limit: Tensor, absolute: bool
) -> tuple[Tensor, Tensor]:
    """Thresholds of this block itself, for when a sample stood for the rest badly."""
    values = block.abs() if absolute else block
    rows, m_b = values.shape
    limit = values.topk(min(n, m_b), dim=1).values[:, -1]
    k = min(rows, max(1, -(-2 * n * rows // m_a)))
    own = values.T.contiguous().topk(k, dim=1).values[:, -1]
    return limit, torch.maximum(column_limit.to(block.dtype), own)
