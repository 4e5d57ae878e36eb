"""Chance floors: what matching two dictionaries that share nothing gives."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from saebench.matching.assignment import match_directions


@dataclass(frozen=True)
class Floor:
    """What two independent Gaussian dictionaries of these sizes give.

    ``mean_matched`` is the mean signed matched cosine, ``share_matched`` the share of pairs above
    ``threshold``, ``mean_best`` the mean over rows of a of the largest cosine, ``share_best`` the share of
    those above, ``mean_absolute`` the mean matched |cosine| where |cosines| are matched.
    ``certified`` says that both matchings are proven optimal; ``how`` says what was done.
    """

    m_a: int
    m_b: int
    d: int
    threshold: float
    mean_matched: float
    share_matched: float
    mean_best: float
    share_best: float
    mean_absolute: float
    certified: bool
    how: str


def chance_floor(m_a: int, m_b: int, d: int, *, threshold: float = 0.7, seed: int = 0) -> Floor:
    """Match two independent Gaussian dictionaries ``[m_a, d]`` and ``[m_b, d]``, once per process.

    The floor depends on the sizes, so nothing is scaled down: the full sizes are drawn and matched, and
    the result is kept in memory for the next call.
    """
    return _floor(int(m_a), int(m_b), int(d), float(threshold), int(seed))


@lru_cache(maxsize=64)
def _floor(m_a: int, m_b: int, d: int, threshold: float, seed: int) -> Floor:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(m, d, generator=generator) for m in (m_a, m_b))
    signed, absolute = match_directions(a, b), match_directions(a, b, absolute=True)
    matched = signed.scores[signed.columns >= 0]
    how = f"two Gaussian dictionaries drawn (seed {seed}) and matched at full size, {signed.how}"
    return Floor(
        m_a=m_a,
        m_b=m_b,
        d=d,
        threshold=threshold,
        mean_matched=float(matched.mean()),
        share_matched=float((matched > threshold).mean()),
        mean_best=float(signed.best_a.mean()),
        share_best=float((signed.best_a > threshold).mean()),
        mean_absolute=float(np.nanmean(np.abs(absolute.scores))),
        certified=signed.certified and absolute.certified,
        how=how,
    )
