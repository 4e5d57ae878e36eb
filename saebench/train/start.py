"""Where training starts: input scale, decoder bias, and weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MEDIAN_ITERATIONS = 100
MEDIAN_TOLERANCE = 1e-6  # of the mean distance to the median
MEDIAN_ROWS = 16_384


def input_scale(x: Tensor) -> float:
    """``s`` such that the mean norm of ``s · x[n, d]`` is ``√d``; 1 where all of x is zero."""
    norm = float(x.norm(dim=1).mean())
    return x.shape[1] ** 0.5 / norm if norm > 0 else 1.0


def geometric_median(x: Tensor) -> Tensor:
    """The point ``[d]`` with the least sum of distances to ``x[n, d]``, by Weiszfeld's iteration.

    Unlike the mean it is not pulled away by the few tokens whose activations are enormous. Computed
    in float64 on at most 16,384 rows, evenly spaced.
    """
    step = max(1, -(-x.shape[0] // MEDIAN_ROWS))
    rows = x[::step].double()
    median = rows.mean(0)
    for _ in range(MEDIAN_ITERATIONS):
        distances = (rows - median).norm(dim=1)
        weights = 1 / distances.clamp_min(1e-12 * float(distances.mean()) + 1e-300)
        new = (weights @ rows) / weights.sum()
        moved = float((new - median).norm())
        median = new
        if moved <= MEDIAN_TOLERANCE * float(distances.mean()):
            break
    return median.to(x.dtype)


class Weights(nn.Module):
    """The parameters: ``W_enc, W_dec [d_sae, M · d_in]``, ``b_enc [d_sae]``, ``b_dec [M · d_in]``.

    Decoder rows are random directions of norm one and the encoder equals the decoder, so that a
    latent at first measures how much of its own direction is in the input. Those of a crosscoder begin
    as one direction for all ``n_sources`` M, of the norm 1 / √M in each: as latents that are shared.
    """

    def __init__(self, d_in: int, d_sae: int, seed: int, n_sources: int = 1) -> None:
        super().__init__()
        self.n_sources = n_sources
        generator = torch.Generator().manual_seed(seed)
        rows = nn.functional.normalize(torch.randn(d_sae, d_in, generator=generator), dim=1)
        if n_sources > 1:
            rows = rows.repeat(1, n_sources) / n_sources**0.5
        self.W_enc = nn.Parameter(rows.clone())
        self.W_dec = nn.Parameter(rows)
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.b_dec = nn.Parameter(torch.zeros(n_sources * d_in))

    @torch.no_grad()
    def summed_norms(self) -> Tensor:
        """``Σ_m ‖d_j^m‖`` of every latent, ``[d_sae]``: what the codes of a crosscoder are weighed by."""
        return summed_norms(self.W_dec, self.n_sources)

    @torch.no_grad()
    def remove_parallel_gradient(self) -> None:
        """Take from the gradient of each decoder row its part along the row: that changes the norm only."""
        grad = self.W_dec.grad
        assert grad is not None
        along = torch.linalg.vecdot(grad, self.W_dec)
        grad.addcmul_(self.W_dec, along[:, None], value=-1)

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Set every decoder row to norm one."""
        norms = torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True)
        self.W_dec.div_(norms.clamp_min_(torch.finfo(norms.dtype).tiny))


def summed_norms(W_dec: Tensor, n_sources: int) -> Tensor:
    """The norms of the decoder rows ``W_dec[d_sae, M · d]`` of each source, summed: ``[d_sae]``."""
    rows = W_dec.view(len(W_dec), n_sources, -1)
    return torch.linalg.vector_norm(rows, dim=2).sum(1)
