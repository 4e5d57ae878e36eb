"""Products of rows of two matrices at given places only: ``y_i · w_j`` for the pairs that are active."""

from __future__ import annotations

import torch
from torch import Tensor

from saebench.codes import SparseCodes
from saebench.metrics.crosscoder.chunks import slices

SUM = 0  # how torch numbers the modes of an embedding bag
KERNELS = ("cpu", "cuda")


def sampled_products(y: Tensor, weights: Tensor, codes: SparseCodes, rows: Tensor) -> Tensor:
    """``y[rows_e] · weights[indices_e]`` of every entry ``e`` of ``codes``, ``[nnz]`` float32.

    ``y[n, d]`` has a row per token, ``weights[d_sae, d]`` one per latent, ``rows[nnz]`` is the token of each
    entry. It is the gradient of an embedding bag with respect to its weights, for which torch has a kernel
    that gathers nothing; without one, some entries at a time are gathered.
    """
    if weights.dtype == torch.float32 and weights.device.type in KERNELS:
        kernel = torch.ops.aten._embedding_bag_per_sample_weights_backward
        indices, offsets = codes.indices.long(), codes.offsets[:-1].long()
        return kernel(y.float().contiguous(), weights, indices, offsets, rows, SUM)
    return gathered_products(y, weights, codes, rows)


def gathered_products(y: Tensor, weights: Tensor, codes: SparseCodes, rows: Tensor) -> Tensor:
    """The same in any dtype and on any device."""
    parts = [
        (y[rows[part]].float() * weights[codes.indices[part].long()].float()).sum(1)
        for part in slices(rows.shape[0], y.shape[1], y.device)
    ]
    return torch.cat(parts) if parts else y.new_zeros(0, dtype=torch.float32)
