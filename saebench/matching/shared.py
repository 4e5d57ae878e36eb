"""Latents that two dictionaries share: one-to-one pairs among all of them or among the living, and shares.

A latent is shared when its partner's cosine lies above a threshold. The living are matched among themselves:
dead latents are dropped first, so that none of them takes the partner of a living one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from saebench.matching.assignment import Matching, match_directions
from saebench.matching.scores import Floats, Mask

Ints = npt.NDArray[np.int64]

THRESHOLDS = (*np.arange(0, 1, 0.05).round(2).tolist(), 0.99)
EDGES = tuple(round(-1 + 0.05 * k, 2) for k in range(41))  # of the cosine histogram


@dataclass(frozen=True)
class Matched:
    """One-to-one pairs of latents in the numbering of their dictionaries, with their signed cosines.

    ``rows``, ``columns`` and ``cosines`` are ``[pairs]``, the smaller of the two numbers of latents
    matched; ``matching`` is numbered as what was matched, so without dead latents where those were left out.
    """

    rows: Ints
    columns: Ints
    cosines: Floats
    matching: Matching

    def above(self, threshold: float) -> set[tuple[int, int]]:
        """The pairs with a cosine above a threshold."""
        keep = self.cosines > threshold
        return set(zip(self.rows[keep].tolist(), self.columns[keep].tolist(), strict=True))


def match_among(
    a: Tensor, b: Tensor, rows: Ints | None = None, columns: Ints | None = None
) -> Matched:
    """Match ``a[m_a, d]`` and ``b[m_b, d]``, whose rows are ``rows`` and ``columns`` of dictionaries."""
    matching = match_directions(a, b)
    taken = np.flatnonzero(matching.columns >= 0)
    found = matching.columns[taken]
    return Matched(
        taken if rows is None else rows[taken],
        found if columns is None else columns[found],
        np.asarray(matching.scores[taken], dtype=np.float64),
        matching,
    )


def match_alive(
    a: Tensor, b: Tensor, alive_a: Mask, alive_b: Mask, every: Matched
) -> Matched | None:
    """Match the rows alive in ``alive_a[m_a]`` with those alive in ``alive_b[m_b]``, None without any.

    ``every`` is the matching of all rows, and that of the living too where none is dead.
    """
    if alive_a.all() and alive_b.all():
        return every
    rows, columns = np.flatnonzero(alive_a), np.flatnonzero(alive_b)
    if not len(rows) or not len(columns):
        return None
    return match_among(a[rows], b[columns], rows, columns)


def share_above(scores: npt.NDArray[np.floating], threshold: float) -> float | None:
    """The share of ``scores`` above a threshold, None of nothing; equal to it is not above."""
    return float((scores > threshold).mean()) if len(scores) else None


def shared_curve(
    cosines: Floats, thresholds: Sequence[float] = THRESHOLDS
) -> dict[str, list[float] | list[float | None]]:
    """The share of the ``cosines`` of matched pairs above every threshold, as JSON values."""
    return {
        "thresholds": list(thresholds),
        "shared": [share_above(cosines, threshold) for threshold in thresholds],
    }


def cosine_histogram(
    cosines: Floats, edges: Sequence[float] = EDGES
) -> dict[str, list[float] | list[int]]:
    """How many matched pairs have a signed cosine in each bin: ``edges``, and ``counts`` one shorter.

    A cosine beyond the outer edges is counted in the outer bins, so that rounding loses no pair.
    """
    inside = np.clip(cosines, edges[0], edges[-1])
    counts, _ = np.histogram(inside, bins=np.asarray(edges))
    return {"edges": [float(e) for e in edges], "counts": [int(n) for n in counts]}
