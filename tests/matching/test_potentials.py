"""The solver on candidate pairs, and the potentials that prove it right."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from saebench.matching.potentials import (
    Edges,
    assign,
    longest_paths,
    on_grid,
    potentials,
    reduced_costs,
)


def complete(values):
    small, large = np.indices(values.shape)
    return Edges(*values.shape, small.ravel(), large.ravel(), values.ravel())


@pytest.mark.parametrize("shape", [(30, 30), (20, 35)])
def test_potentials_cover_every_pair_and_are_tight_on_the_matching(shape):
    values = np.random.default_rng(0).normal(size=shape)
    edges = complete(values)
    partner = assign(edges)
    u, v = potentials(edges, partner)
    assert (u[:, None] + v >= values - 1e-12).all()
    np.testing.assert_allclose(u + v[partner], values[np.arange(shape[0]), partner], atol=1e-7)
    unmatched = np.setdiff1d(np.arange(shape[1]), partner)
    assert (v[unmatched] == 0).all()
    assert shape[0] == shape[1] or v.min() >= 0
    rows, columns = linear_sum_assignment(values, maximize=True)
    assert u.sum() + v.sum() == pytest.approx(values[rows, columns].sum(), abs=1e-5)


@pytest.mark.parametrize("shape", [(30, 30), (20, 35)])
@pytest.mark.parametrize("distance", [0.0, 0.01, 1.0])
def test_starting_near_other_potentials_changes_neither_total_nor_proof(shape, distance):
    rng = np.random.default_rng(1)
    values = rng.normal(size=shape)
    edges = complete(values)
    _, v = potentials(edges, assign(edges))
    changed = values + distance * rng.normal(size=shape)
    best = changed[linear_sum_assignment(changed, maximize=True)].sum()
    edges = complete(changed)
    partner = assign(edges, v)
    assert changed[np.arange(shape[0]), partner].sum() == pytest.approx(best, abs=1e-5)
    u, v = potentials(edges, partner, v)
    assert (u[:, None] + v >= changed - 1e-12).all()
    assert u.sum() + v.sum() == pytest.approx(best, abs=1e-5)
    assert (v[np.setdiff1d(np.arange(shape[1]), partner)] == 0).all()
    assert shape[0] == shape[1] or v.min() >= 0


@pytest.mark.parametrize("shape", [(30, 30), (20, 35)])
def test_reduced_costs_are_a_constant_less_the_value_of_every_matching(shape):
    rng = np.random.default_rng(2)
    values = on_grid(complete(rng.normal(size=shape))).value.reshape(shape)
    costs = reduced_costs(complete(values), rng.normal(size=shape[1])).reshape(shape)
    assert costs.min() == 0
    sums = set()
    for _ in range(5):
        pairs = np.arange(shape[0]), rng.permutation(shape[1])[: shape[0]]
        sums.add(costs[pairs].sum() + values[pairs].sum())
    assert len(sums) == 1


def test_near_ties_at_the_last_digit_end():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 4, (200, 200)) / 4 + rng.normal(size=(200, 200)) * 1e-16
    partner = assign(complete(values))
    best = values[linear_sum_assignment(values, maximize=True)].sum()
    assert values[np.arange(200), partner].sum() == pytest.approx(best, abs=1e-5)


def test_longest_paths_are_those_of_a_graph_worked_by_hand():
    source, target = np.array([0, 1, 0, 3]), np.array([1, 2, 2, 0])
    gain = np.array([2.0, 3.0, 4.0, -1.0])
    path = longest_paths(source, target, gain, np.array([0.0, 0.0, 0.0, 5.0]))
    assert path.tolist() == [4.0, 6.0, 9.0, 5.0]
