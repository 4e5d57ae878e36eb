"""Functional matching: latents of two dictionaries paired by how their codes go together on the same tokens.

The score of a pair is the Pearson correlation of the two codes over the tokens where *either* fires (the
union): tokens where both are silent would make all pairs look alike. Independent sparse codes do not
score 0 there but below it, since on most of those tokens one fires and the other does not; the null says
how far below. Everything follows from sums over tokens, ``Σab, Σa, Σa²``, and from counts of firings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

from saebench.errors import DataError
from saebench.matching.potentials import Edges, assign, grid_unit, potentials

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Codes: TypeAlias = sparse.csr_matrix

MIN_TOKENS = 10  # fewer tokens in the union: two of them alone would always correlate to ±1
BLOCK_BYTES = 2**25  # of the dense float64 products of some rows
FLAT = 1e-10  # a variance below this part of the mean square is rounding


@dataclass(frozen=True)
class CodeTable:
    """Codes of the same tokens for every dictionary: ``codes[n, d_sae]`` in rows, ``sequence_ids[n]``."""

    codes: Codes
    sequence_ids: Ints

    def of(self, tokens: npt.NDArray[np.bool_]) -> CodeTable:
        """The tokens where ``tokens[n]`` holds."""
        return CodeTable(self.codes[tokens], self.sequence_ids[tokens])

    def halves(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """The tokens of the first half of the sequences and those of the second, ``[n]`` bool each.

        Neighbouring sequences are often of one document: cut in the middle, one document at most is in both
        halves. The first half has one sequence more where their number is odd.
        """
        places = np.unique(self.sequence_ids, return_inverse=True)[1]
        first = 2 * places <= places.max(initial=0)
        return first, ~first

    def rolled(self) -> CodeTable | None:
        """The codes moved on by half of the sequences, in a circle; None for a single sequence."""
        starts = np.unique(self.sequence_ids, return_index=True)[1]
        if len(starts) < 2:
            return None
        order = np.roll(np.arange(len(self.sequence_ids)), starts[len(starts) // 2])
        return CodeTable(self.codes[order], self.sequence_ids)


class PairScores(NamedTuple):
    """Of some pairs: correlation over the union (nan where undefined), Jaccard of firing, union size."""

    correlation: Floats
    jaccard: Floats
    n_union: Floats


class _Sums(NamedTuple):
    """Per latent: number of tokens it fires on, sum and sum of squares of its codes."""

    fired: Floats
    total: Floats
    square: Floats

    @classmethod
    def of(cls, codes: Codes) -> _Sums:
        return cls(
            np.asarray(codes.getnnz(0), dtype=np.float64),
            np.asarray(codes.sum(0), dtype=np.float64).ravel(),
            np.asarray(codes.multiply(codes).sum(0), dtype=np.float64).ravel(),
        )

    def at(self, latents: Any) -> _Sums:
        return _Sums(*(item[latents] for item in self))


class Correlations:
    """The scores ``[m_a, m_b]`` of latents that fire on ``minimum`` tokens, as a sparse ``table``.

    Only positive correlations of pairs that fire together are there: no other is a reason to match a
    pair, and neither is one that is undefined. ``rows``, ``columns`` number the latents in their
    dictionaries.
    """

    def __init__(self, a: Codes, b: Codes, minimum: int = MIN_TOKENS) -> None:
        self.rows, self.columns = _firing(a, minimum), _firing(b, minimum)
        self.shape = len(self.rows), len(self.columns)
        left, right = _double(a[:, self.rows]), _double(b[:, self.columns])
        size = max(1, BLOCK_BYTES // (8 * max(self.shape[1], 1)))
        parts = [sparse.csr_matrix((0, self.shape[1]))]
        transposed, sums = left.T.tocsr(), (_Sums.of(left), _Sums.of(right))
        other = right, _pattern(right)
        for start in range(0, self.shape[0], size):
            rows = slice(start, start + size)
            parts.append(_positive(transposed[rows], other, (sums[0].at(rows), sums[1]), minimum))
        self.table = sparse.vstack(parts, format="coo")

    def assignment(self) -> Assignment:
        """The one-to-one matching with the largest sum of scores; not every latent needs a partner."""
        m_a, m_b = self.shape
        mine = np.arange(m_a)  # a place of its own, worth nothing, for each row that goes without
        edges = Edges(
            m_a,
            m_b + m_a,
            np.concatenate([self.table.row, mine]).astype(np.int64),
            np.concatenate([self.table.col, m_b + mine]).astype(np.int64),
            np.concatenate([self.table.data, np.zeros(m_a)]),
        )
        partner = assign(edges)
        taken = np.flatnonzero(partner < m_b)
        own, scores = partner[edges.small] == edges.large, np.zeros(m_a)
        scores[edges.small[own]] = edges.value[own]
        total = float(scores.sum())
        bound = sum(float(side.sum()) for side in potentials(edges, partner))
        return Assignment(
            self.rows[taken],
            self.columns[partner[taken]],
            scores[taken],
            total,
            max(bound, total),
            2 * float(grid_unit(edges.value)) * max(1, m_a),
        )


class Assignment(NamedTuple):
    """Pairs ``rows[p], columns[p]`` with ``scores[p]``; no one-to-one matching exceeds ``bound``.

    ``tolerance`` is what the solver's grid may cost: a unit per row in the total, and one in the bound.
    """

    rows: Ints
    columns: Ints
    scores: Floats
    total: float
    bound: float
    tolerance: float

    @property
    def certified(self) -> bool:
        """Whether total and bound agree within ``tolerance``, so that none is better by more."""
        return self.bound - self.total <= self.tolerance


def _positive(
    codes: Codes, other: tuple[Codes, Codes], sums: tuple[_Sums, _Sums], minimum: int
) -> Codes:
    """The positive correlations of some latents, ``codes[r, n]``, with all of the other dictionary.

    ``other`` are its codes ``[n, m_b]`` and where they fire; ``sums`` those of both sides.
    """
    both = (_pattern(codes) @ other[1]).tocoo()
    products = (codes @ other[0]).toarray()[both.row, both.col]
    left, right = sums[0].at(both.row), sums[1].at(both.col)
    found = _score(left, right, both.data, products, minimum).correlation
    keep = found > 0  # nan is not
    places = both.row[keep], both.col[keep]
    return sparse.csr_matrix((found[keep], places), shape=both.shape)


@dataclass(frozen=True)
class FunctionalMatching:
    """Latents ``matched`` on one half of the sequences, with the scores of their pairs on the other.

    ``held_out`` are those scores, ``null`` those with the codes of b moved on by half of its sequences
    (None for a single sequence). ``n_tokens`` of the two halves; ``n_latents`` of a and of b that fire on
    enough tokens of the first.
    """

    matched: Assignment
    held_out: PairScores
    null: PairScores | None
    n_tokens: tuple[int, int]
    n_latents: tuple[int, int]


def match_functionally(
    a: CodeTable, b: CodeTable, *, minimum: int = MIN_TOKENS
) -> FunctionalMatching | None:
    """Match on the first half of the sequences by an exact one-to-one assignment, score on the second.

    Latents that fire on fewer than ``minimum`` tokens of the first half are left out, pairs with fewer in
    their union on the second have no score, and latents without a positive correlation with any that is
    free stay unmatched. None where no latent of a, or none of b, fires often enough. Raises
    :class:`DataError` where tokens differ.
    """
    if not np.array_equal(a.sequence_ids, b.sequence_ids):
        raise DataError(
            "codes of the same tokens from both dictionaries",
            f"{len(a.sequence_ids):,} and {len(b.sequence_ids):,} tokens of other sequences",
            "Measure both in one run, on the same text.",
        )
    first, second = a.halves()
    scores = Correlations(a.of(first).codes, b.of(first).codes, minimum)
    if 0 in scores.shape:
        return None
    matched = scores.assignment()
    pairs = matched.rows, matched.columns
    left, right = a.of(second), b.of(second)
    moved = right.rolled()
    return FunctionalMatching(
        matched,
        score_pairs(left.codes, right.codes, *pairs, minimum=minimum),
        None if moved is None else score_pairs(left.codes, moved.codes, *pairs, minimum=minimum),
        (int(first.sum()), int(second.sum())),
        scores.shape,
    )


def score_pairs(
    a: Codes, b: Codes, rows: Ints, columns: Ints, *, minimum: int = MIN_TOKENS
) -> PairScores:
    """The scores of the pairs ``(rows[p], columns[p])`` over the tokens of ``a`` and ``b[n, d_sae]``."""
    left, right = _double(a[:, rows]), _double(b[:, columns])
    both = _pattern(left).multiply(_pattern(right)).sum(0)
    products = left.multiply(right).sum(0)
    return _score(
        _Sums.of(left),
        _Sums.of(right),
        np.asarray(both, dtype=np.float64).ravel(),
        np.asarray(products, dtype=np.float64).ravel(),
        minimum,
    )


def _score(a: _Sums, b: _Sums, both: Floats, products: Floats, minimum: int) -> PairScores:
    """Correlation and Jaccard from sums over tokens; a code that hardly varies has no correlation."""
    union = a.fired + b.fired - both
    with np.errstate(divide="ignore", invalid="ignore"):
        covariance = products - a.total * b.total / union
        left = a.square - a.total**2 / union
        right = b.square - b.total**2 / union
        varied = (left > FLAT * a.square) & (right > FLAT * b.square) & (union >= minimum)
        correlation = np.where(varied, covariance / np.sqrt(left * right), np.nan)
        jaccard = np.where(union > 0, both / union, np.nan)
    return PairScores(np.clip(correlation, -1, 1), jaccard, union)


def _firing(codes: Codes, minimum: int) -> Ints:
    """The latents that fire on enough tokens to be judged.

    A rarer one has no correlation with its true partner, which is as rare, and would be given a common
    latent instead.
    """
    return np.flatnonzero(codes.getnnz(0) >= max(minimum, 1)).astype(np.int64)


def _double(codes: Codes) -> Codes:
    """Codes in float64 with nothing stored that is zero."""
    wide = sparse.csr_matrix(codes, dtype=np.float64)
    wide.eliminate_zeros()
    return wide


def _pattern(codes: Codes) -> Codes:
    """1 where a latent fires."""
    return sparse.csr_matrix(
        (np.ones_like(codes.data), codes.indices, codes.indptr), shape=codes.shape
    )
