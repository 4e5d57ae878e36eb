"""Sparse codes from dense ones, and codes with planted densities: what counting metrics are fed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saebench.codes import SparseCodes


def sparse(f: Tensor) -> SparseCodes:
    """The non-zero entries of dense codes ``f[n, d_sae]``."""
    rows, columns = f.nonzero(as_tuple=True)
    offsets = torch.zeros(f.shape[0] + 1, dtype=torch.int32)
    offsets[1:] = torch.bincount(rows, minlength=f.shape[0]).cumsum(0)
    return SparseCodes(f[rows, columns], columns.int(), offsets, f.shape[1])


def random_codes(
    n_sequences: int = 40, length: int = 6, d_sae: int = 30, seed: int = 0, scale: float = 1.5
) -> tuple[Tensor, Tensor]:
    """``(f[n, d_sae], sequence_ids[n])``: densities from rare to dense, the last three latents dead."""
    rng = np.random.default_rng(seed)
    density = np.geomspace(0.004, 0.8, d_sae)
    fires = rng.random((n_sequences * length, d_sae)) < density
    fires[:, -3:] = False
    f = np.where(fires, scale * np.abs(rng.normal(size=fires.shape)), 0.0)
    return torch.from_numpy(f).float(), torch.arange(n_sequences).repeat_interleave(length)
