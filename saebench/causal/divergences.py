"""How far apart two next-token distributions are, exact for changes far below the rounding of a logit.

With clean logits ``a``, others ``b``, ``P = softmax(a)``, ``Δ = b − a`` and any constant ``c``, in nats:

    KL(P‖Q)  log Σ P exp(Δ − c) − Σ P (Δ − c)
    KL(Q‖P)  Σ Q (Δ − c) − log Σ P exp(Δ − c),  Q = P exp(Δ − c) / Σ P exp(Δ − c)

``c = Σ P Δ`` leaves next to nothing to cancel. Both are exactly 0 where the logits are equal.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from saebench.metrics.sums import row_chunks, wide

_EXACT_BELOW = 30.0  # of Δ − c; beyond, float32 exponentials lose digits and then overflow


class Changes(NamedTuple):
    """``kl[n]`` and ``kl_reverse[n]`` (float64, nats), and ``delta[n, vocab]`` up to a constant per row."""

    kl: Tensor
    kl_reverse: Tensor
    delta: Tensor


def changes(clean: Tensor, clean_p: Tensor, of: Tensor, logits: Tensor) -> Changes:
    """Divergences of ``logits[n, vocab]`` from the clean ones ``clean[of]``.

    ``clean[c, vocab]`` and ``clean_p = softmax(clean)`` are float32, ``of[n]`` numbers their rows. ``logits``
    in float32 are overwritten with the changes.
    """
    delta = logits if logits.dtype == torch.float32 else logits.float()
    n, vocab = delta.shape
    kl, back = (torch.zeros(n, dtype=torch.float64, device=delta.device) for _ in range(2))
    for rows in row_chunks(n, 8 * vocab, delta.device):
        kl[rows], back[rows] = _block(clean[of[rows]], clean_p[of[rows]], delta[rows])
    return Changes(kl, back, delta)


def _block(clean: Tensor, p: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    delta -= clean
    delta -= _dot(p, delta)[:, None]
    rest = wide(_dot(p, delta))  # not quite 0 after rounding
    weighted = torch.expm1(delta, out=clean).mul_(p)  # P (exp Δ − 1)
    rise = wide(weighted.sum(1))
    log_z = rise.log1p()
    kl = log_z - rest
    back = (rest + wide(_dot(weighted, delta))) / (1 + rise) - log_z
    if float(delta.max()) > _EXACT_BELOW:
        far = (delta.amax(1) > _EXACT_BELOW).nonzero().squeeze(1)
        kl[far], back[far] = _far(wide(p[far]), wide(delta[far]))
    return kl.clamp(min=0), back.clamp(min=0)


def _far(p: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """The same for large changes, in float64 and with the largest exponent taken out."""
    log_p = p.log()
    log_q = log_p + delta
    log_z = log_q.logsumexp(1)
    q = (log_q - log_z[:, None]).exp()
    some = torch.nan_to_num(delta)
    return log_z - (p * some).sum(1), (q * some).sum(1) - log_z


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """``Σ a b`` of each row."""
    return (a * b).sum(1)  # on a CPU far faster than a batch of products of vectors


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """``[n]`` float64: the cosine of two changes ``[n, vocab]``, each centred; NaN where one is zero."""
    found = []
    for rows in row_chunks(first.shape[0], 8 * first.shape[1], first.device):
        a, b = (x[rows] - x[rows].mean(1, keepdim=True) for x in (first, second))
        norms = (wide(_dot(a, a)) * wide(_dot(b, b))).sqrt()
        value = (wide(_dot(a, b)) / norms).clamp(-1, 1)
        found.append(value.where(norms > 0, torch.nan))
    return torch.cat(found) if found else first.new_zeros(0, dtype=torch.float64)
