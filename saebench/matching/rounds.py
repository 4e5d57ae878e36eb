"""Solve on the candidates, check the potentials against all pairs, take in what contradicts them, repeat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saebench.matching.candidates import Pairs, find_candidates, value_of
from saebench.matching.certificate import violations
from saebench.matching.potentials import GRID, Edges, assign, potentials
from saebench.matching.scores import Floats, Ints, Source

CORE = 12  # best pairs of each row and column that are made exact before the first solution
FEW = 0.5  # per row: after fewer contradictions, the next potentials start from the last
EPS = GRID / 4  # violations up to here, relative to the largest score, are below the solver's grid


@dataclass(frozen=True)
class Optimum:
    """The matching found and its proof: ``columns[m_a]`` (−1: none), and the bound on any matching.

    Bound and total agree within rounding where they differ by at most ``tolerance``.
    """

    columns: Ints
    bound: float
    tolerance: float
    best_a: Floats
    best_b: Floats
    n_candidates: int
    rounds: int


def optimise(source: Source, absolute: bool, n: int, max_rounds: int) -> Optimum:
    """The matching of largest total, solved on candidates and checked against all pairs.

    Rows and columns of zeros are interchangeable: they are set aside, and take what is left over. That is
    optimal where all potentials are ≥ 0, which the bound shows; otherwise they are put back.
    """
    pairs = find_candidates(source, n, absolute)
    rows, columns = np.flatnonzero(~pairs.empty_a), np.flatnonzero(~pairs.empty_b)
    search = Search(source, pairs, rows, columns, n)
    partner, bound, rounds = search.run(max_rounds)
    if len(rows) < source.shape[0] or len(columns) < source.shape[1]:
        total = search.total(partner)
        if bound - total > search.tolerance and rounds < max_rounds:
            search = Search(
                source, pairs, np.arange(source.shape[0]), np.arange(source.shape[1]), n
            )
            partner, again, more = search.run(max_rounds - rounds)
            bound, rounds = min(bound, again), rounds + more
        partner = completed(partner, source.shape[1])
    best_a, best_b = largest(source, pairs)
    known = int((~np.isnan(pairs.values)).sum())
    return Optimum(partner, bound, search.tolerance, best_a, best_b, known, rounds)


class Search:
    """One search for the best matching of chosen ``rows`` with chosen ``columns``."""

    def __init__(self, source: Source, pairs: Pairs, rows: Ints, columns: Ints, n: int) -> None:
        self.source, self.pairs, self.rows, self.columns, self.n = source, pairs, rows, columns, n
        m_a, m_b = source.shape
        self.whole = len(rows) == m_a and len(columns) == m_b
        self.flipped = len(rows) > len(columns)
        self.local_a, self.local_b = positions(rows, m_a), positions(columns, m_b)
        self.n_small = min(len(rows), len(columns))
        self.scale = 1.0

    @property
    def tolerance(self) -> float:
        """How far bound and total may differ by rounding alone: two units of the grid (3e-8) per pair."""
        return 2 * GRID * self.scale * max(1, self.n_small)

    def total(self, partner: Ints) -> float:
        """The summed value of a matching ``partner[m_a]``."""
        rows = np.flatnonzero(partner >= 0)
        scores = self.source.exact(rows, partner[rows])
        return float(value_of(scores, self.pairs.absolute).sum())

    def run(self, max_rounds: int) -> tuple[Ints, float, int]:
        """The best matching ``[m_a]``, the lowest proven bound, and the rounds it took."""
        partner, bound = np.full(self.source.shape[0], -1), np.inf
        if not self.n_small:
            return partner, 0.0, 0
        self.prepare()
        near, n_found = None, 0
        for turn in range(1, max_rounds + 1):
            edges = self.edges()
            small = assign(edges, near)
            partner[:] = -1
            if self.flipped:
                partner[self.rows[small]] = self.columns
            else:
                partner[self.rows] = self.columns[small]
            u, v = self.potentials(edges, small, near if n_found < FEW * self.n_small else None)
            near = u[self.rows] if self.flipped else v[self.columns]
            n_found, lift = self.contradictions(u, v, last=turn == max_rounds)
            if lift is not None:
                bound = min(bound, self.bound(u + lift, v))
            if not n_found:
                break
        return partner, bound, turn

    def prepare(self) -> None:
        """Make the best candidates exact, and pairs that leave a partner to everyone."""
        pairs = self.pairs
        k = np.arange(self.n_small)
        keys = self.rows[k] * pairs.m_b + self.columns[k]
        pairs.add(keys, self.source.exact(self.rows[k], self.columns[k]))
        live = np.flatnonzero(self.live())
        order = -pairs.upper[live]
        core = [leading(line[live], order, CORE) for line in (pairs.rows, pairs.columns)]
        pairs.learn(self.source, live[np.unique(np.concatenate(core))])  # in order of the rows
        largest = np.abs(pairs.values[~np.isnan(pairs.values)]).max(initial=1.0)
        self.scale = float(2.0 ** np.ceil(np.log2(largest)))

    def live(self) -> np.ndarray:
        """Which candidate pairs are of the chosen rows and columns."""
        return (self.local_a[self.pairs.rows] >= 0) & (self.local_b[self.pairs.columns] >= 0)

    def edges(self) -> Edges:
        """The exact candidate pairs, smaller side first."""
        pairs = self.pairs
        at = np.flatnonzero(~np.isnan(pairs.values) & self.live())
        i, j = self.local_a[pairs.rows[at]], self.local_b[pairs.columns[at]]
        value = value_of(pairs.values[at], pairs.absolute)
        if self.flipped:
            return Edges(len(self.columns), len(self.rows), j, i, value)
        return Edges(len(self.rows), len(self.columns), i, j, value)

    def potentials(self, edges: Edges, small: Ints, near: Floats | None) -> tuple[Floats, Floats]:
        """Potentials ``[m_a]``, ``[m_b]``; infinite for rows and columns set aside."""
        one, two = potentials(edges, small, near)
        u, v = np.full(self.source.shape[0], np.inf), np.full(self.source.shape[1], np.inf)
        u[self.rows], v[self.columns] = (two, one) if self.flipped else (one, two)
        return u, v

    def contradictions(self, u: Floats, v: Floats, *, last: bool) -> tuple[int, Floats | None]:
        """How many pairs contradict the potentials (exact ones then), and the lift that mends them.

        Pairs that are no candidates are looked at only when no candidate contradicts; until then there is
        no lift.
        """
        pairs, eps = self.pairs, EPS * self.scale
        rows, columns = pairs.rows, pairs.columns
        cover = u[rows] + v[columns]
        held = np.flatnonzero(np.isnan(pairs.values) & (pairs.upper > cover + eps))
        pairs.learn(self.source, held)
        gain = value_of(pairs.values[held], pairs.absolute) - cover[held]
        inside = int((gain > eps).sum())
        if inside and not last:
            return inside, None
        limit = self.n * sum(self.source.shape)
        outside = violations(self.source, pairs, u, v, eps=eps, limit=limit)
        lift = outside.lift
        np.maximum.at(lift, rows[held], gain)
        pairs.add(outside.keys, outside.scores)
        return inside + max(len(outside.keys), int((lift > eps).sum())), lift

    def bound(self, u: Floats, v: Floats) -> float:
        """What no matching exceeds: the sum of potentials that cover all pairs.

        With rows or columns of zeros set aside, whose potentials are 0, all others must be ≥ 0.
        """
        u, v = u[self.rows], v[self.columns]
        if not self.whole:
            u, v = np.maximum(u, 0), np.maximum(v, 0)
        return float(u.sum() + v.sum())


def positions(chosen: Ints, size: int) -> Ints:
    """Place of each of ``size`` among the chosen, −1 where it is not."""
    place = np.full(size, -1)
    place[chosen] = np.arange(len(chosen))
    return place


def leading(line: Ints, order: Floats, n: int) -> Ints:
    """Positions of the ``n`` pairs with the lowest ``order`` in each line (row or column)."""
    bits = order.astype(np.float32).view(np.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF  # now ordered as the numbers are
    sequence = np.argsort((line << 32) + bits)
    begins = np.searchsorted(line[sequence], np.arange(line.max(initial=-1) + 1))
    rank = np.arange(len(line)) - begins[line[sequence]]
    return sequence[rank < n]


def completed(partner: Ints, m_b: int) -> Ints:
    """The matching with its free rows and columns paired off in order, as far as both go."""
    free_rows = np.flatnonzero(partner < 0)
    taken = np.zeros(m_b, bool)
    taken[partner[partner >= 0]] = True
    free_columns = np.flatnonzero(~taken)
    n = min(len(free_rows), len(free_columns))
    partner = partner.copy()
    partner[free_rows[:n]] = free_columns[:n]
    return partner


def largest(source: Source, pairs: Pairs) -> tuple[Floats, Floats]:
    """The largest value of each row ``[m_a]`` and each column ``[m_b]``.

    Exact where the candidates hold every pair that could be largest, to float32 rounding elsewhere.
    """
    best = []
    lines = ((pairs.rows, pairs.rest_a, "rows"), (pairs.columns, pairs.rest_b, "columns"))
    for line, rest, side in lines:
        top = np.full(len(rest), -np.inf)
        known = ~np.isnan(pairs.values)
        np.maximum.at(top, line[known], pairs.upper[known])
        pairs.learn(source, np.flatnonzero(~known & (pairs.upper > top[line])))
        known = ~np.isnan(pairs.values)
        np.maximum.at(top, line[known], pairs.upper[known])
        short = np.flatnonzero(rest > top)
        top[short] = np.maximum(
            top[short], source.largest(short, side, pairs.absolute, rest[short])
        )
        best.append(top)
    return best[0], best[1]
