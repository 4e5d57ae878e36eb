"""Looking for pairs outside the candidates that could improve a matching; few need a look at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from saebench.matching.candidates import Pairs, lifted, value_of
from saebench.matching.scores import FLOAT32_UNIT, Floats, Ints, Source, rows_per_block


@dataclass(frozen=True)
class Violations:
    """Pairs worth more than their potentials, and how far potentials must rise to cover all pairs.

    ``keys`` and exact signed ``scores`` are those to take in; ``lift[m_a]`` raises the rows' potentials. A
    lift without a pair means that more pairs are open than could be looked at.
    """

    keys: Ints
    scores: Floats
    lift: Floats


def violations(
    source: Source, pairs: Pairs, u: Floats, v: Floats, *, eps: float, limit: int
) -> Violations:
    """Pairs that are no candidates with ``value > u_i + v_j + eps``, at most ``limit`` of them.

    Empty rows and columns are left out: give them infinite potentials.
    """
    lift, key, gap = np.zeros(len(u)), np.zeros(0, np.int64), np.zeros(0)
    some_left = False
    for rows, columns in open_blocks(pairs, u, v, eps):
        found, by = suspects(source, pairs, u, v, rows, columns, eps)
        key, gap = np.concatenate([key, found]), np.concatenate([gap, by])
        if len(key) > limit:
            some_left = True
            chosen = worst(key, gap, pairs.m_b, limit)
            left = np.ones(len(key), bool)
            left[chosen] = False
            np.maximum.at(lift, key[left] // pairs.m_b, gap[left])
            key, gap = key[chosen], gap[chosen]
    i, j = key // pairs.m_b, key % pairs.m_b
    scores = source.exact(i, j)
    gain = value_of(scores, pairs.absolute) - u[i] - v[j]
    np.maximum.at(lift, i, gain)
    over = (
        gain > eps
    ) | some_left  # where some are left over, those that were cleared are kept too
    return Violations(key[over], scores[over], lift)


def open_blocks(pairs: Pairs, u: Floats, v: Floats, eps: float) -> Iterator[tuple[Ints, Ints]]:
    """Blocks of rows with the columns where the thresholds leave room for a violation.

    As ``value(i, j) ≤ rest_a[i]``, row i is safe with every column where ``v_j ≥ rest_a[i] − u_i − eps``: in
    the order of v, those left are the first. Rows with the most room come first: near ones agree.
    """
    room_a, room_b = pairs.rest_a - u - eps, pairs.rest_b - v - eps
    rows = np.flatnonzero(room_a > v.min())
    columns = np.flatnonzero(room_b > u.min())
    rows, columns = rows[np.argsort(-room_a[rows])], columns[np.argsort(v[columns])]
    ordered = v[columns]
    at = 0
    while at < len(rows):
        reached = int(np.searchsorted(ordered, room_a[rows[at]]))
        if not reached:
            return
        stop = at + rows_per_block(reached, 4)
        yield np.sort(rows[at:stop]), columns[:reached]
        at = stop


def suspects(
    source: Source, pairs: Pairs, u: Floats, v: Floats, rows: Ints, columns: Ints, eps: float
) -> tuple[Ints, Floats]:
    """Pairs of a block that neither their screened scores nor the thresholds clear.

    Their keys, and by how much at most each violates its potentials.
    """
    screened = source.screened_part(rows, columns).float().numpy()
    value = value_of(screened, pairs.absolute)
    upper = np.abs(value)
    upper *= source.relative
    upper += value
    row_cover = (u - source.error_a)[rows].astype(np.float32)
    cover = row_cover[:, None] + (v - source.error_b)[columns].astype(np.float32)
    largest = max(float(np.abs(cover).max()), float(np.abs(upper).max()))
    upper -= cover
    at = np.flatnonzero(upper > eps - 8 * FLOAT32_UNIT * largest)  # float32: roughly
    i, j = rows[at // len(columns)], columns[at % len(columns)]
    exactly = lifted(value.reshape(-1)[at].astype(np.float64), source.relative)
    exactly += source.error_a[i] + source.error_b[j]
    gap = np.minimum(exactly, np.minimum(pairs.rest_a[i], pairs.rest_b[j])) - (u[i] + v[j])
    keys = i * pairs.m_b + j
    wide = np.flatnonzero(gap > eps)
    wide = wide[~pairs.hold(keys[wide])]
    return keys[wide], gap[wide]


def worst(keys: Ints, gaps: Floats, m_b: int, limit: int) -> Ints:
    """Positions of up to ``limit`` pairs: the largest gaps of each row first, rows in turn."""
    order = np.lexsort((-gaps, keys // m_b))
    rows = (keys // m_b)[order]
    begins = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
    rank = np.arange(len(rows)) - np.repeat(begins, np.diff(np.r_[begins, len(rows)]))
    return order[np.argsort(rank, kind="stable")[:limit]]
