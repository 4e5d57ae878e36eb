"""Baselines of explained variance that need no SAE: the mean predictor and PCA.

PCA with k components, fitted on the very tokens it is scored on, is the best any reconstruction of
rank k can do: ``FVE_k = Σ_{i ≤ k} λ_i / Σ λ_i``, λ the eigenvalues of the covariance, descending.
An SAE chooses other directions for every token and may exceed it at k = L0.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from saebench.metrics.estimates import estimate
from saebench.metrics.sums import check_alike, row_chunks, wide
from saebench.record import Measurement


class Covariance:
    """Streaming covariance of one site about ``shift[d]``: ``n``, ``Σ y`` and ``Σ y yᵀ``, float64.

    Products of chunks of rows are made in float32 and summed in float64.

    ``shift`` is any vector near the mean (it cancels exactly and saves the digits that a large mean
    would cost). Not kept per group: ``d²`` a group is too much, so PCA has no interval.
    """

    def __init__(self, shift: Tensor) -> None:
        self.shift = wide(shift)
        d = shift.shape[0]
        self.n = 0
        self.sum = self.shift.new_zeros(d)
        self.products = self.shift.new_zeros(d, d)

    @torch.inference_mode()
    def update(self, x: Tensor) -> None:
        """Take in tokens ``x[n, d]``."""
        for rows in row_chunks(x.shape[0], 8 * x.shape[1], x.device):
            chunk = wide(x[rows])
            chunk = chunk - self.shift.to(chunk.device)
            self.sum += chunk.sum(0).to(self.sum.device)
            # Centred, a product of a few hundred rows loses nothing in the input's own precision.
            narrow = chunk if x.dtype == torch.float64 else chunk.float()
            self.products += (narrow.T @ narrow).to(self.products)
        self.n += x.shape[0]

    @torch.inference_mode()
    def merge(self, other: Covariance) -> None:
        """Add another shard's sums; raises :class:`ConfigError` where the shift differs."""
        check_alike("shift", self.shift.tolist(), other.shift.tolist())
        self.n += other.n
        self.sum += other.sum
        self.products += other.products

    def eigenvalues(self) -> Tensor:
        """Eigenvalues of the covariance ``[d]``, descending, in squared activation units."""
        mean = self.sum / max(self.n, 1)
        covariance = self.products / max(self.n, 1) - torch.outer(mean, mean)
        return torch.linalg.eigvalsh(covariance).flip(0).clamp_min_(0)


def pca_fve(eigenvalues: Tensor, k: int) -> float:
    """Explained variance of the ``k`` leading components; not a number without variance."""
    return float(eigenvalues[:k].sum() / eigenvalues.sum())


def measurements(
    eigenvalues: Tensor, l0: float | None, *, n_tokens: int, n_sequences: int
) -> dict[str, Measurement]:
    """The baselines beside an SAE of mean ``l0``: PCA with that many components, and the mean.

    ``l0`` is None where it could not be measured; then there is no PCA baseline either.
    """
    measure = partial(estimate, n_tokens=n_tokens, n_sequences=n_sequences)
    if l0 is None:
        pca = measure("fve_pca", None, reason="L0 was not measured")
    else:
        k = min(max(round(l0), 1), eigenvalues.shape[0])
        pca = measure("fve_pca", pca_fve(eigenvalues, k), detail={"components": k})
    mean = measure("fve_mean_predictor", 0.0)
    return {measured.metric: measured for measured in (pca, mean)}
