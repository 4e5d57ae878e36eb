"""Looking for pairs outside the candidates that could improve a matching; few need a look at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saebench.matching.candidates import Pairs, lifted, value_of
from saebench.matching.scores import Floats, Ints, Source, rows_per_block

GATHER_PAIRS = 2_000_000  # up to here, pairs that need a look are made exact one by one


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
    lift = np.zeros(len(u))
    rows = np.flatnonzero(u + v.min() + eps < pairs.rest_a)
    columns = np.flatnonzero(v + u.min() + eps < pairs.rest_b)
    if not len(rows) or not len(columns):
        return Violations(np.zeros(0, np.int64), np.zeros(0), lift)
    keys, gaps = [], []
    step = rows_per_block(len(columns), 8)
    for at in range(0, len(rows), step):
        part = rows[at : at + step]
        found, gap = suspects(pairs, u, v, part, columns, eps)
        if len(found) > GATHER_PAIRS // 8:
            found, gap = screened_suspects(source, pairs, u, v, part, columns, eps)
        keys.append(found)
        gaps.append(gap)
    key, gap = np.concatenate(keys), np.concatenate(gaps)
    new = ~pairs.hold(key)
    key, gap = key[new], gap[new]
    too_many = len(key) > limit
    if too_many:
        chosen = worst(key, gap, pairs.m_b, limit)
        left = np.ones(len(key), bool)
        left[chosen] = False
        np.maximum.at(lift, key[left] // pairs.m_b, gap[left])
        key = key[chosen]
    i, j = key // pairs.m_b, key % pairs.m_b
    scores = source.exact(i, j)
    gain = value_of(scores, pairs.absolute) - u[i] - v[j]
    np.maximum.at(lift, i, gain)
    over = (gain > eps) | too_many  # where some are left over, those that were cleared are kept too
    return Violations(key[over], scores[over], lift)


def suspects(
    pairs: Pairs, u: Floats, v: Floats, rows: Ints, columns: Ints, eps: float
) -> tuple[Ints, Floats]:
    """Pairs that the thresholds alone do not clear: their keys, and by how much at most they violate."""
    cover = u[rows, None] + v[columns]
    gap = np.minimum(pairs.rest_a[rows, None], pairs.rest_b[columns]) - cover
    i, j = np.nonzero(gap > eps)
    return rows[i] * pairs.m_b + columns[j], gap[i, j]


def screened_suspects(
    source: Source, pairs: Pairs, u: Floats, v: Floats, rows: Ints, columns: Ints, eps: float
) -> tuple[Ints, Floats]:
    """Pairs that their screened scores do not clear either: their keys, and the largest violation."""
    keys, gaps = [], []
    step = max(1, rows_per_block(pairs.m_b, 8))
    for at in range(0, len(rows), step):
        part = rows[at : at + step]
        whole = source.screened_rows(part).float().numpy()[:, columns]
        upper = lifted(value_of(whole, pairs.absolute), source.relative)
        upper += source.error_a[part, None] + source.error_b[columns]
        gap = upper - u[part, None] - v[columns]
        i, j = np.nonzero(gap > eps)
        keys.append(part[i] * pairs.m_b + columns[j])
        gaps.append(gap[i, j])
    return np.concatenate(keys), np.concatenate(gaps)


def worst(keys: Ints, gaps: Floats, m_b: int, limit: int) -> Ints:
    """Positions of up to ``limit`` pairs: the largest gaps of each row first, rows in turn."""
    order = np.lexsort((-gaps, keys // m_b))
    rows = (keys // m_b)[order]
    begins = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
    rank = np.arange(len(rows)) - np.repeat(begins, np.diff(np.r_[begins, len(rows)]))
    return order[np.argsort(rank, kind="stable")[:limit]]
