"""Reconstructions that no SAE was trained for: principal components, and random directions.

PCA with k components, fitted on the very tokens it is scored on, is the best a reconstruction of rank k can
do. Random directions with the best coefficients say what a large dictionary gives without any learning.
"""

from __future__ import annotations

import torch
from torch import Tensor

ATOM_BYTES = 2**26  # of the atoms of a row chunk, float64
JITTER = 1e-10  # of the mean diagonal, on the normal equations


def leading(covariance: Tensor) -> Tensor:
    """The eigenvectors ``[d, d]`` of a covariance, columns by falling eigenvalue."""
    return torch.linalg.eigh(covariance)[1].flip(1)


def pca_errors(y: Tensor, components: Tensor) -> Tensor:
    """``‖y − V Vᵀ y‖²`` of centred tokens ``y[n, d]`` with orthonormal ``components[d, k]``: ``[n]``."""
    return (y.square().sum(1) - (y @ components).square().sum(1)).clamp_min(0)


def random_directions(d_sae: int, d: int, seed: int, device: torch.device) -> Tensor:
    """``[d_sae, d]`` float32 Gaussian directions of unit norm."""
    found = torch.randn(d_sae, d, generator=torch.Generator().manual_seed(seed))
    return (found / found.norm(dim=1, keepdim=True)).to(device)


def random_errors(y: Tensor, spread: Tensor, directions: Tensor, k: int) -> Tensor:
    """Squared error of each centred token after the best fit on ``k`` of the directions, float64 ``[n]``.

    ``y[n, d]`` float64; ``spread[d]`` is the standard deviation of each dimension. Directions live in
    standardised space: the ``k`` with the largest ``|projection|`` of ``y / spread`` are taken, and
    what they stand for, ``direction · spread``, is fitted to ``y`` by least squares.
    """
    k, directions = min(k, *directions.shape), directions.to(y.device)
    scale = spread.masked_fill(spread == 0, 1)
    rows = max(1, ATOM_BYTES // (8 * k * y.shape[1]))
    found = []
    for chunk in y.split(rows):
        score = ((chunk / scale).to(directions.dtype) @ directions.T).abs()
        atoms = directions[score.topk(k, dim=1).indices].to(y.dtype) * scale
        gram = atoms @ atoms.mT
        diagonal = gram.diagonal(dim1=1, dim2=2)
        diagonal += JITTER * diagonal.mean(1, keepdim=True) + torch.finfo(y.dtype).tiny
        right = atoms @ chunk[:, :, None]
        fitted = torch.cholesky_solve(right, torch.linalg.cholesky(gram))
        found.append((chunk - (atoms.mT @ fitted)[:, :, 0]).square().sum(1))
    return torch.cat(found) if found else y.new_zeros(0)
