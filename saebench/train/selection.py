"""Which latents fire in training: the k largest of each token, or of the batch on average."""

from __future__ import annotations

import torch
from torch import Tensor

from saebench.train.sparse import Active

CANDIDATES = 4  # BatchTopK looks at this many times k entries per token first


def top_k(pre: Tensor, k: int) -> Active:
    """The ``k`` largest of ``pre[n, d_sae]`` on every token."""
    n, d_sae = pre.shape
    indices = pre.topk(k, dim=1, sorted=False).indices
    offsets = torch.arange(0, n * k + 1, k, dtype=torch.int32, device=pre.device)
    return Active(indices.reshape(-1).int(), offsets, d_sae)


def batch_top_k(ranked: Tensor, k: int) -> Active:
    """The ``k · n`` largest entries of ``ranked[n, d_sae]`` together.

    These are pre-activations, those of a crosscoder times the norms of its latents: by how much each
    changes what is reconstructed. Entries below zero make codes of zero, whatever their order.

    Only the largest few of each token are looked at. That is exact as long as no token has all of
    those among the winners; otherwise it is done again with more. Source: Bussmann et al. 2024
    (arXiv 2412.06410).
    """
    n, d_sae = ranked.shape
    width = min(CANDIDATES * k, d_sae)
    while True:
        values, latents = ranked.topk(width, dim=1, sorted=False)
        chosen = torch.zeros(n * width, dtype=torch.bool, device=ranked.device)
        chosen[values.reshape(-1).topk(k * n, sorted=False).indices] = True
        kept = chosen.view(n, width)
        counts = kept.sum(1)
        if width == d_sae or not bool((counts == width).any()):
            break
        width = min(2 * width, d_sae)
    offsets = torch.zeros(n + 1, dtype=torch.int32, device=ranked.device)
    offsets[1:] = counts.cumsum(0)
    return Active(latents[kept].int(), offsets, d_sae)
