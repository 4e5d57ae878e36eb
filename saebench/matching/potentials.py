"""The assignment on candidate pairs and its dual: potentials that prove which pairs cannot help.

Linear programming duality: potentials ``u[m_a]``, ``v[m_b]`` with ``u_i + v_j ≥ value(i, j)`` for all pairs
bound the total of every matching by ``Σ u + Σ v``, where the potentials of the larger side must also be
≥ 0, as some of it stays unmatched. At the optimum both sides are equal.
Source: Kuhn 1955; Burkard, Dell'Amico and Martello 2012, chapter 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from saebench.matching.scores import Floats, Ints

GRID = 2.0**-26  # of the largest value: on a grid, sums in float64 are exact and near-ties are ties
MAX_SWEEPS = 5000


@dataclass(frozen=True)
class Edges:
    """Candidate pairs with values, the smaller side first: ``[pairs]`` small, large, value."""

    n_small: int
    n_large: int
    small: Ints
    large: Ints
    value: Floats


def on_grid(edges: Edges) -> Edges:
    """The same pairs with values rounded to whole multiples of ``GRID`` times the largest (1 at least).

    The solver's and the paths' sums are then exact. Near-ties can send the solver's price reductions through
    tiny steps, without end where they are of the last digit; on a grid, no step is smaller than its unit.
    What rounding costs is at most a unit per pair, and shows in the bound.
    """
    unit = grid_unit(edges.value)
    return replace(edges, value=np.rint(edges.value / unit) * unit)


def grid_unit(values: Floats) -> float:
    """A power of two: the grid's spacing for these values."""
    largest = float(np.abs(values).max(initial=0.0))
    return GRID * 2.0 ** np.ceil(np.log2(max(largest, 1.0)))


def assign(edges: Edges, near: Floats | None = None) -> Ints:
    """The large-side partner ``[n_small]`` of each small one, of largest total value.

    Every small one needs a partner among the pairs that leaves one to each other. ``near[n_large]`` are
    potentials of a similar problem: the nearer, the faster. They do not change the total.
    """
    edges = on_grid(edges)
    shape = (edges.n_small, edges.n_large)
    cost = 1 + reduced_costs(edges, near)  # positive: a stored zero would be no edge
    graph = csr_matrix((cost, (edges.small, edges.large)), shape=shape)
    small, large = min_weight_full_bipartite_matching(graph)
    partner = np.empty(edges.n_small, dtype=np.int64)
    partner[small] = large
    return partner


def reduced_costs(edges: Edges, near: Floats | None = None) -> Floats:
    """How far each pair falls short of potentials that cover all pairs: ``[pairs]``, none below 0.

    Where everyone is matched, the shortfalls of a matching sum to a constant less its total. The solver may
    as well minimise those, and gets there sooner, since many are 0 from the start. Where some of the large
    side stays free, its potentials would count, so they are 0.
    """
    large = np.zeros(edges.n_large)
    square = edges.n_small == edges.n_large
    if square and near is not None:
        large = snapped(near, edges.value)
    small = tight(edges, large)
    if square:
        large = np.full(edges.n_large, -np.inf)
        np.maximum.at(large, edges.large, edges.value - small[edges.small])
    return small[edges.small] + large[edges.large] - edges.value


def snapped(x: Floats, values: Floats) -> Floats:
    """``x`` on the grid of these values."""
    unit = grid_unit(values)
    return np.rint(x / unit) * unit


def potentials(edges: Edges, partner: Ints, near: Floats | None = None) -> tuple[Floats, Floats]:
    """Potentials ``[n_small]``, ``[n_large]`` of the optimum ``partner``, between its two extremes.

    The lowest potentials of the large side and the highest are longest paths in the residual graph.
    Their mean is as valid, and leaves other pairs the most room on both sides. From ``near[n_large]``, the
    potentials of a problem with few other pairs, only those that must rise do so, which is quicker.
    """
    unrounded, edges = edges, on_grid(edges)
    owner = np.full(edges.n_large, -1)
    owner[partner] = np.arange(edges.n_small)
    matched = np.zeros(edges.n_small)
    own = partner[edges.small] == edges.large
    matched[edges.small[own]] = edges.value[own]
    other = owner[edges.large]
    inner = (other >= 0) & ~own
    source, target, value = edges.small[inner], other[inner], edges.value[inner]

    large = np.zeros(edges.n_large)
    if near is not None:
        start = snapped(near[partner], edges.value)
        large[partner] = longest_paths(source, target, value - matched[source], start)
        if large.min() >= 0 and (tight(edges, large) + large[partner] <= matched).all():
            return tight(unrounded, large), large
    lowest = longest_paths(source, target, value - matched[source], np.zeros(edges.n_small))
    start = np.full(edges.n_small, (matched - lowest).min())
    outer = other < 0
    np.maximum.at(start, edges.small[outer], edges.value[outer])
    small = longest_paths(target, source, value - matched[target], start)
    highest = np.maximum(matched - small, lowest)
    large[partner] = (lowest + highest) / 2
    return tight(unrounded, large), large


def tight(edges: Edges, large: Floats) -> Floats:
    """The smallest potentials ``[n_small]`` that cover every candidate pair, given the large side's."""
    small = np.full(edges.n_small, -np.inf)
    np.maximum.at(small, edges.small, edges.value - large[edges.large])
    return small


def longest_paths(source: Ints, target: Ints, gain: Floats, start: Floats) -> Floats:
    """The least ``p ≥ start`` with ``p[target] ≥ p[source] + gain`` for every edge.

    Bellman and Ford, all edges of the nodes that rose at once. At an optimum no cycle gains.
    """
    order = np.argsort(source, kind="stable")
    target, gain = target[order], gain[order]
    first = np.searchsorted(source[order], np.arange(len(start) + 1))
    path, risen, rose = start.copy(), np.arange(len(start)), np.zeros(len(start), bool)
    for _ in range(MAX_SWEEPS):
        counts = first[risen + 1] - first[risen]
        if not counts.sum():
            break
        offsets = np.repeat(first[risen] - np.cumsum(counts) + counts, counts)
        edge = offsets + np.arange(len(offsets))
        reached = target[edge]
        offer = np.repeat(path[risen], counts) + gain[edge]
        better = offer > path[reached]
        reached, offer = reached[better], offer[better]
        if not len(reached):
            break
        np.maximum.at(path, reached, offer)
        rose[reached] = True
        risen = np.flatnonzero(rose)
        rose[risen] = False
    return path
