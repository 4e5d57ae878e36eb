"""Shares of latents that two dictionaries have in common, from a matching and masks of living latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saebench.matching.assignment import Matching
from saebench.matching.scores import Floats, Mask

THRESHOLDS = tuple(round(0.05 * k, 2) for k in range(1, 20))  # .05 to .95
EDGES = tuple(round(-1 + 0.05 * k, 2) for k in range(41))  # of the cosine histogram


@dataclass(frozen=True)
class Shared:
    """Shares above one threshold, over all latents or over the living ones only.

    ``matched`` is of the rows of a whose one-to-one partner scores above the threshold (no partner counts
    as below); ``best_a`` and ``best_b`` of the rows of a and of b whose best score with anything does, which
    is not one-to-one. A share over nothing is None. ``mean_matched`` and ``mean_absolute`` are over matched
    pairs only. Where only the living count, a pair counts if both are alive: ``matched`` is of the living
    rows of a, and their partner must live too.
    """

    threshold: float
    n_a: int
    n_b: int
    n_pairs: int
    matched: float | None
    best_a: float | None
    best_b: float | None
    mean_matched: float | None
    mean_absolute: float | None


@dataclass(frozen=True)
class Curve:
    """Shares at every threshold, as plain lists for a report: None where there is nothing to share."""

    thresholds: list[float]
    matched: list[float | None]
    best_a: list[float | None]
    best_b: list[float | None]


def shared(
    matching: Matching,
    threshold: float = 0.7,
    *,
    alive_a: npt.ArrayLike | None = None,
    alive_b: npt.ArrayLike | None = None,
) -> Shared:
    """Shares of ``matching`` above ``threshold``, over ``alive_a[m_a]`` and ``alive_b[m_b]`` or all.

    Where |scores| were matched, |scores| are compared. The best scores are those of the whole other
    dictionary, its dead latents included.
    """
    a, b, pairs = masks(matching, alive_a, alive_b)
    scores = matching.scores[pairs]
    compared = np.abs(scores) if matching.absolute else scores
    return Shared(
        threshold=float(threshold),
        n_a=int(a.sum()),
        n_b=int(b.sum()),
        n_pairs=int(pairs.sum()),
        matched=share(int((compared > threshold).sum()), int(a.sum())),
        best_a=share(int((matching.best_a[a] > threshold).sum()), int(a.sum())),
        best_b=share(int((matching.best_b[b] > threshold).sum()), int(b.sum())),
        mean_matched=float(scores.mean()) if len(scores) else None,
        mean_absolute=float(np.abs(scores).mean()) if len(scores) else None,
    )


def shared_curve(
    matching: Matching,
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    alive_a: npt.ArrayLike | None = None,
    alive_b: npt.ArrayLike | None = None,
) -> Curve:
    """The shares of :func:`shared` at every threshold."""
    a, b, pairs = masks(matching, alive_a, alive_b)
    scores = np.abs(matching.scores[pairs]) if matching.absolute else matching.scores[pairs]
    limits = np.asarray(thresholds, dtype=np.float64)
    return Curve(
        limits.tolist(),
        shares_above(scores, limits, int(a.sum())),
        shares_above(matching.best_a[a], limits, int(a.sum())),
        shares_above(matching.best_b[b], limits, int(b.sum())),
    )


def cosine_histogram(
    matching: Matching,
    edges: Sequence[float] = EDGES,
    *,
    alive_a: npt.ArrayLike | None = None,
    alive_b: npt.ArrayLike | None = None,
) -> dict[str, list[float] | list[int]]:
    """How many matched pairs have a signed score in each bin: ``edges``, and ``counts`` one shorter.

    A score beyond the outer edges is counted in the outer bins, so that rounding loses no pair.
    """
    pairs = masks(matching, alive_a, alive_b)[2]
    inside = np.clip(matching.scores[pairs], edges[0], edges[-1])
    counts, _ = np.histogram(inside, bins=np.asarray(edges))
    return {"edges": [float(e) for e in edges], "counts": [int(n) for n in counts]}


def masks(
    matching: Matching, alive_a: npt.ArrayLike | None, alive_b: npt.ArrayLike | None
) -> tuple[Mask, Mask, Mask]:
    """Which rows of a, rows of b, and pairs (by row of a) count."""
    a = np.ones(len(matching.columns), bool) if alive_a is None else np.asarray(alive_a, bool)
    b = np.ones(len(matching.best_b), bool) if alive_b is None else np.asarray(alive_b, bool)
    if a.shape != matching.columns.shape or b.shape != matching.best_b.shape:
        sizes = f"{len(matching.columns)} and {len(matching.best_b)}"
        raise ValueError(f"alive masks of shape {a.shape} and {b.shape} for {sizes} latents")
    return a, b, a & (matching.columns >= 0) & b[matching.columns]


def share(part: int, whole: int) -> float | None:
    """``part / whole``, None of nothing."""
    return part / whole if whole else None


def shares_above(values: Floats, limits: Floats, whole: int) -> list[float | None]:
    """The share of ``whole`` that the ``values`` above each of the ``limits`` make up."""
    above = len(values) - np.searchsorted(np.sort(values), limits, side="right")
    return [share(int(n), whole) for n in above]
