"""Pairs outside the candidates that contradict potentials, against all pairs one by one."""

import numpy as np
import pytest
import torch

from saebench.matching import BlockScores, CosineScores
from saebench.matching.candidates import find_candidates
from saebench.matching.certificate import violations

EPS = 1e-9


def gaussian(m, d, seed=0):
    return torch.randn(m, d, generator=torch.Generator().manual_seed(seed))


def case(kind, absolute):
    """A source, its candidates, and potentials that many other pairs contradict."""
    cosines = CosineScores(gaussian(300, 16), gaussian(260, 16, 1), dtype=torch.bfloat16)
    matrix = torch.from_numpy(cosines.dense()).float()
    source = cosines if kind == "cosines" else BlockScores(lambda i, j: matrix[i:j], (300, 260))
    pairs = find_candidates(source, 12, absolute)
    rng = np.random.default_rng(0)
    u, v = rng.uniform(0.05, 0.5, 300), rng.uniform(0, 0.4, 260)
    u[7] = v[9] = np.inf  # set aside
    values = matrix.double().numpy() if kind == "blocks" else cosines.dense()
    return source, pairs, u, v, np.abs(values) if absolute else values


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("kind", ["cosines", "blocks"])
def test_all_pairs_that_contradict_are_found_and_no_others(kind, absolute, monkeypatch):
    source, pairs, u, v, values = case(kind, absolute)
    monkeypatch.setattr("saebench.matching.scores.BLOCK_BYTES", 2**13)  # several blocks
    gain = values - u[:, None] - v
    gain[pairs.rows, pairs.columns] = -1
    found = violations(source, pairs, u, v, eps=EPS, limit=10**6)
    expected = np.flatnonzero(gain > EPS)
    assert np.sort(found.keys).tolist() == expected.tolist()
    assert len(expected) > 50
    np.testing.assert_allclose(found.lift, np.maximum(gain.max(1), 0), atol=1e-9)


@pytest.mark.parametrize("kind", ["cosines", "blocks"])
def test_where_only_some_can_be_taken_the_lift_still_covers_all(kind):
    source, pairs, u, v, values = case(kind, False)
    found = violations(source, pairs, u, v, eps=EPS, limit=40)
    assert len(found.keys) == 40
    outside = values.copy()
    outside[pairs.rows, pairs.columns] = -2
    assert (outside <= (u + found.lift)[:, None] + v + EPS).all()


def test_potentials_that_cover_everything_are_contradicted_by_nothing():
    source, pairs, u, v, _ = case("cosines", False)
    found = violations(source, pairs, u + 1, v, eps=EPS, limit=40)
    assert not len(found.keys)
    assert not found.lift.any()
