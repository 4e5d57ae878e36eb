"""The published probe: one linear softmax layer, trained for a single epoch with Adam."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from saebench.probing.fitted import Fitted
from saebench.probing.scaling import Matrix

LEARNING_RATE, BATCH = 1e-3, 4


def fit(train: Matrix, targets: np.ndarray, test: Matrix, seed: int) -> Fitted:
    """Train on ``train[n_train, d]`` with class numbers ``targets[n_train]``, and predict ``test``.

    Features are taken as they are. Source: the downstream protocol of FaithfulSAE (arXiv 2506.17673).
    """
    weight, bias = train_layer(train, targets, seed)
    logits = test @ weight.double().numpy() + bias.double().numpy()
    steps = -(-len(targets) // BATCH)
    return Fitted(logits.argmax(1), None, steps, _varying(train), float(weight.norm()))


def initial(d: int, n_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """``weight[d, n_classes]`` and ``bias[n_classes]``, uniform within ``±1/√d`` as PyTorch's layers."""
    generator = torch.Generator().manual_seed(seed)
    reach = d**-0.5
    weight = torch.empty(d, n_classes).uniform_(-reach, reach, generator=generator)
    return weight, torch.empty(n_classes).uniform_(-reach, reach, generator=generator)


def order(n: int, seed: int) -> Tensor:
    """The order in which the ``n`` training texts are seen."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def train_layer(train: Matrix, targets: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
    """``weight[d, n_classes]`` and ``bias[n_classes]`` after one epoch of cross entropy.

    Sparse rows are read entry by entry: the logits of a batch are sums of rows of ``weight``.
    """
    with torch.inference_mode(False), torch.enable_grad():
        weight, bias = initial(train.shape[1], int(targets.max()) + 1, seed)
        weight.requires_grad_(), bias.requires_grad_()
        optimiser = torch.optim.Adam([weight, bias], lr=LEARNING_RATE)
        y = torch.from_numpy(np.asarray(targets, dtype=np.int64))
        for rows in order(len(y), seed).split(BATCH):
            loss = F.cross_entropy(_logits(train, rows.numpy(), weight) + bias, y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return weight.detach(), bias.detach()


def _logits(features: Matrix, rows: np.ndarray, weight: Tensor) -> Tensor:
    """``features[rows] @ weight``, ``[b, n_classes]``."""
    if not sparse.issparse(features):
        return torch.from_numpy(np.asarray(features[rows], dtype=np.float32)) @ weight
    starts, stops = features.indptr[rows], features.indptr[rows + 1]
    entries = np.concatenate([np.arange(*ends) for ends in zip(starts, stops, strict=True)])
    offsets = np.concatenate([[0], np.cumsum(stops - starts)[:-1]])
    return F.embedding_bag(
        torch.from_numpy(features.indices[entries].astype(np.int64)),
        weight,
        torch.from_numpy(offsets.astype(np.int64)),
        per_sample_weights=torch.from_numpy(features.data[entries].astype(np.float32)),
        mode="sum",
    )


def _varying(train: Matrix) -> int:
    """How many features are not the same on all rows."""
    low, high = train.min(axis=0), train.max(axis=0)
    if sparse.issparse(train):
        low, high = low.toarray(), high.toarray()
    return int((low != high).sum())
