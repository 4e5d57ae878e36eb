"""What two models have in common on each token: activations, codes, and the largest codes."""

from __future__ import annotations

import torch
from torch import Tensor

from saebench.metrics.portability.pairing import Entries, PairedCodes
from saebench.metrics.sums import row_chunks, wide

# Below this share of a sum of squares a variance is nothing but rounding.
ROUNDING = 1e-13


def drift(reference: Tensor, variant: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``(‖x₁ − x₀‖², ‖x₀‖², cos(x₀, x₁))`` of each token, float64 ``[n]``, of ``x[n, width]``.

    The cosine is 1 where both are zero, and 0 where one is.
    """
    parts = []
    for rows in row_chunks(reference.shape[0], 8 * reference.shape[1], reference.device):
        x0, x1 = wide(reference[rows]), wide(variant[rows])
        square0, square1, dot = x0.square().sum(1), x1.square().sum(1), (x0 * x1).sum(1)
        product = (square0 * square1).sqrt()
        cosine = torch.where(product > 0, dot / product, (square0 == square1).double())
        parts.append(torch.stack(((x1 - x0).square().sum(1), square0, cosine.clamp(-1, 1))))
    if not parts:
        empty = wide(reference.new_empty(0))
        return empty, empty, empty
    joined = torch.cat(parts, 1)
    return joined[0], joined[1], joined[2]


def correlations(codes: PairedCodes) -> Tensor:
    """Pearson correlation over all latents of each token's codes, ``[n]``.

    ``(Σ f₀f₁ − Σf₀ Σf₁ / m) / √((Σf₀² − (Σf₀)²/m)(Σf₁² − (Σf₁)²/m))`` from the entries alone. 0
    where no latent is active under one of the models only, as nothing is in common. Not a number where none
    is under both, or where active codes do not vary.
    """
    n, m = codes.n_tokens, codes.d_sae
    (sum0, square0), (sum1, square1) = _moments(codes.reference, n), _moments(codes.variant, n)
    rows = codes.reference.rows[codes.shared_reference]
    product = torch.bincount(rows, weights=codes.products, minlength=n)
    found = pearson(m, sum0, sum1, square0, square1, product)
    return torch.where((square0 > 0) ^ (square1 > 0), 0.0, found)


def silent(codes: PairedCodes) -> tuple[Tensor, Tensor]:
    """Whether no latent is active on each token, under the reference and under the variant, bool ``[n]``."""
    n = codes.n_tokens
    squares = (_moments(entries, n)[1] for entries in (codes.reference, codes.variant))
    before, after = (square <= 0 for square in squares)
    return before, after


def pearson(
    n: int | Tensor, sum0: Tensor, sum1: Tensor, square0: Tensor, square1: Tensor, product: Tensor
) -> Tensor:
    """Correlations from sums over ``n`` samples; not a number where one side does not vary."""
    variance0, variance1 = square0 - sum0.square() / n, square1 - sum1.square() / n
    varies = (variance0 > ROUNDING * square0) & (variance1 > ROUNDING * square1)
    found = (product - sum0 * sum1 / n) / (variance0 * variance1).sqrt()
    return torch.where(varies, found.clamp(-1, 1), torch.nan)


def top_agreement(codes: PairedCodes, k: int) -> Tensor:
    """The share of each token's ``k`` largest codes that are among the ``k`` largest under both, ``[n]``.

    Largest by magnitude; ties go to the lower latent. Where fewer than ``k`` are active the larger of
    the two numbers is the divisor, so that equal codes agree fully; not a number where none is.
    """
    n = codes.n_tokens
    top0, top1 = (_largest(entries, n, k) for entries in (codes.reference, codes.variant))
    both = top0[codes.shared_reference] & top1[codes.shared_variant]
    common = torch.bincount(codes.reference.rows[codes.shared_reference[both]], minlength=n)
    sizes = [
        torch.bincount(entries.rows, minlength=n).clamp_max(k)
        for entries in (codes.reference, codes.variant)
    ]
    most = torch.maximum(*sizes).double()
    return torch.where(most > 0, common / most, torch.nan)


def _moments(entries: Entries, n: int) -> tuple[Tensor, Tensor]:
    """Sum and sum of squares of each token's codes, ``[n]``."""
    total = torch.bincount(entries.rows, weights=entries.values, minlength=n)
    return total, torch.bincount(entries.rows, weights=entries.values.square(), minlength=n)


def _largest(entries: Entries, n: int, k: int) -> Tensor:
    """Which entries are among the ``k`` largest of their token, ``[e]`` bool."""
    by_size = entries.values.abs().argsort(descending=True, stable=True)
    order = by_size[entries.rows[by_size].argsort(stable=True)]
    counts = torch.bincount(entries.rows, minlength=n)
    starts = counts.cumsum(0) - counts
    places = torch.arange(order.shape[0], device=order.device) - starts[entries.rows[order]]
    chosen = torch.zeros_like(entries.rows, dtype=torch.bool)
    chosen[order] = places < k
    return chosen
