"""Simpler reconstructions: components as scikit-learn has them, least squares as numpy solves it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from saebench.metrics.difference.floors import (
    leading,
    pca_errors,
    random_directions,
    random_errors,
)

N, D, M = 60, 9, 30
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D)) @ RNG.normal(size=(D, D)) + 5
Y = torch.from_numpy(X - X.mean(0))
SPREAD = torch.from_numpy(X.std(0))


@pytest.mark.parametrize("k", [1, 4, D])
def test_pca_leaves_what_scikit_learn_leaves(k):
    model = PCA(k).fit(X)
    expected = ((X - model.inverse_transform(model.transform(X))) ** 2).sum(1)
    found = pca_errors(Y, leading(Y.T @ Y / N)[:, :k]).numpy()
    assert found == pytest.approx(expected, abs=1e-9)


def test_directions_are_of_unit_norm_and_fixed_by_the_seed():
    one = random_directions(M, D, 0, torch.device("cpu"))
    assert torch.allclose(one.norm(dim=1), torch.ones(M))
    assert torch.equal(one, random_directions(M, D, 0, torch.device("cpu")))
    assert not torch.equal(one, random_directions(M, D, 1, torch.device("cpu")))


@pytest.mark.parametrize("k", [1, 3, 7])
def test_random_errors_are_those_of_least_squares_on_the_strongest_directions(k):
    directions = random_directions(M, D, 0, torch.device("cpu"))
    found = random_errors(Y, SPREAD, directions, k).numpy()
    for i in range(N):
        score = np.abs(directions.numpy() @ (Y[i] / SPREAD).float().numpy())
        atoms = directions[np.argsort(-score)[:k]].double().numpy() * SPREAD.numpy()
        fitted = np.linalg.lstsq(atoms.T, Y[i].numpy(), rcond=None)[0]
        assert found[i] == pytest.approx(((Y[i].numpy() - atoms.T @ fitted) ** 2).sum(), rel=1e-6)


def test_as_many_directions_as_dimensions_leave_next_to_nothing():
    directions = random_directions(M, D, 0, torch.device("cpu"))
    found = random_errors(Y, SPREAD, directions, 10 * D)
    assert float(found.sum() / Y.square().sum()) < 1e-3


def test_a_dimension_that_never_varies_does_no_harm():
    y, spread = Y.clone(), SPREAD.clone()
    y[:, 2] = spread[2] = 0
    directions = random_directions(M, D, 0, torch.device("cpu"))
    assert bool(random_errors(y, spread, directions, 3).isfinite().all())


def test_row_chunks_change_nothing(monkeypatch):
    directions = random_directions(M, D, 0, torch.device("cpu"))
    whole = random_errors(Y, SPREAD, directions, 4)
    monkeypatch.setattr("saebench.metrics.difference.floors.ATOM_BYTES", 8 * 4 * D * 7)
    torch.testing.assert_close(random_errors(Y, SPREAD, directions, 4), whole)
