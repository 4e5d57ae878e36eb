"""Subsets of tokens: those that carry a label, those with the largest and smallest differences, and controls.

Whoever selects tokens by ``‖δ‖`` selects large denominators of FVE, which then rises without any better
reconstruction. Fire tokens have large differences as well. Beside them stands a random subset of the
other tokens that has the same norms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

ALL, FIRE, TOP, REST, BOTTOM, MATCHED = "all", "fire", "top", "rest", "bottom", "matched"
MATCHED_BINS = 20


@dataclass(frozen=True)
class Subset:
    """Tokens ``keep[n]`` (bool) under a name; ``reason`` says why there are none."""

    name: str
    keep: np.ndarray
    reason: str = ""

    @property
    def n_tokens(self) -> int:
        """How many tokens it has."""
        return int(self.keep.sum())


def subsets(
    norms: np.ndarray,
    labels: Mapping[str, np.ndarray],
    *,
    top: float,
    bottom: float,
    seed: int,
    unlabelled: Mapping[str, str],
) -> list[Subset]:
    """All tokens, each label, the largest and the rest, the smallest, and what is matched to fire tokens.

    ``norms[n]`` are ``‖δ‖``, ``labels`` masks ``[n]`` by name (``fire`` among them, or not). ``unlabelled``
    says for each label why no token carries it.
    """
    n = norms.shape[0]
    fire = labels.get(FIRE, np.zeros(n, dtype=bool))
    largest = largest_share(norms, top)
    found = [Subset(ALL, np.ones(n, dtype=bool))]
    for name, keep in {FIRE: fire, **labels}.items():
        why = unlabelled.get(name, "no token carries this label")
        found.append(Subset(name, keep, "" if keep.any() else why))
    none = "no token was counted"
    lacking = "no other token has a norm as fire tokens have" if fire.any() else found[1].reason
    more = [
        (MATCHED, norm_matched(norms, fire, seed), lacking),
        (TOP, largest, none),
        (REST, ~largest, "the largest tokens are all there are"),
        (BOTTOM, largest_share(-norms, bottom), none),
    ]
    return found + [Subset(name, keep, "" if keep.any() else why) for name, keep, why in more]


def largest_share(values: np.ndarray, share: float) -> np.ndarray:
    """``bool[n]``: the ``share`` of tokens with the largest values, at least one; ties go to the first."""
    n = values.shape[0]
    keep = np.zeros(n, dtype=bool)
    if n:
        keep[np.argsort(-values, kind="stable")[: max(1, round(share * n))]] = True
    return keep


def norm_matched(norms: np.ndarray, of: np.ndarray, seed: int) -> np.ndarray:
    """``bool[n]``: random tokens outside ``of[n]`` that have norms as those inside.

    Quantiles of the norms of the subset cut them into 20 bins at most; each bin gives as many other tokens
    as it holds of the subset, or all that there are. No other token is taken from beyond the ends.
    """
    found = np.zeros(norms.shape[0], dtype=bool)
    if not of.any() or of.all():
        return found
    wanted, others = norms[of], np.flatnonzero(~of)
    edges = np.quantile(wanted, np.linspace(0, 1, min(MATCHED_BINS, wanted.size) + 1))
    others = others[(norms[others] >= edges[0]) & (norms[others] <= edges[-1])]
    inner = edges[1:-1]
    asked = np.bincount(np.searchsorted(inner, wanted, side="right"), minlength=inner.size + 1)
    order = np.random.default_rng(seed).permutation(others)
    of_bin = np.searchsorted(inner, norms[order], side="right")
    for number, count in enumerate(asked):
        found[order[of_bin == number][:count]] = True
    return found
