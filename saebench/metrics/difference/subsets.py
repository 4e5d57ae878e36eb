"""Subsets of tokens: those that carry a label, those with the largest and smallest differences, and controls.

Whoever selects tokens by ``‖δ‖`` selects large denominators of FVE, which then rises without any better
reconstruction. Fire tokens have large differences as well. Those of them whose norm other tokens have too
are paired with such tokens, and both sides of the pairs are subsets: as many tokens, with norms as large.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

ALL, FIRE, TOP, REST, BOTTOM = "all", "fire", "top", "rest", "bottom"
FIRE_MATCHED, MATCHED = "fire_matched", "matched"  # fire tokens with a counterpart, and these
CALIPER = 1.05  # the norms of a pair differ by less than this factor
FEWEST_PAIRS = 10  # with fewer, or a smaller share of fire tokens, neither side says anything
SMALLEST_SHARE = 0.2


@dataclass(frozen=True, eq=False)  # arrays have no single answer to whether they are equal
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
    """All tokens, each label, pairs of fire tokens and others, the largest and the rest, the smallest.

    ``norms[n]`` are ``‖δ‖``, ``labels`` masks ``[n]`` by name (``fire`` among them, or not): a token with any
    label is nobody's counterpart. ``unlabelled`` says for each label why no token carries it.
    """
    n = norms.shape[0]
    fire = labels.get(FIRE, np.zeros(n, dtype=bool))
    largest = largest_share(norms, top)
    found = [Subset(ALL, np.ones(n, dtype=bool))]
    for name, keep in {FIRE: fire, **labels}.items():
        why = unlabelled.get(name, "no token carries this label")
        found.append(Subset(name, keep, "" if keep.any() else why))
    none = "no token was counted"
    free = ~np.logical_or.reduce([fire, *labels.values()])
    paired, others = counterparts(norms, fire, free, seed)
    lacking = too_few(int(paired.sum()), int(fire.sum())) if fire.any() else found[1].reason
    if lacking:
        paired = others = np.zeros(n, dtype=bool)
    more = [
        (FIRE_MATCHED, paired, lacking),
        (MATCHED, others, lacking),
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


def counterparts(
    norms: np.ndarray, of: np.ndarray, free: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of ``of[n]`` that are paired with tokens of ``free[n]``, and those: two ``bool[n]``.

    Norms are cut into bins a factor of 1.05 wide. Each bin gives random tokens of either side, as many as
    the side with fewer has there. So both have the same number of tokens, their mean norms differ by less
    than 5 %, and where only one side has tokens of some norm, none of them are taken.
    """
    sides = [mask & np.isfinite(norms) for mask in (of, free & ~of)]
    with np.errstate(divide="ignore"):  # a norm of 0 has a bin of its own
        _, of_bin = np.unique(np.floor(np.log(norms) / np.log(CALIPER)), return_inverse=True)
    n_bins = int(of_bin.max(initial=-1)) + 1
    counts = np.stack([np.bincount(of_bin[side], minlength=n_bins) for side in sides])
    wanted, rng = counts.min(0), np.random.default_rng(seed)
    first, second = (
        _drawn(rng.permutation(np.flatnonzero(side)), of_bin, count, wanted)
        for side, count in zip(sides, counts, strict=True)
    )
    return first, second


def _drawn(
    members: np.ndarray, of_bin: np.ndarray, count: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """``bool[n]``: the first ``wanted[bin]`` of the ``count[bin]`` members of each bin."""
    found = np.zeros(of_bin.shape[0], dtype=bool)
    order = members[np.argsort(of_bin[members], kind="stable")]
    place = np.arange(order.size) - (count.cumsum() - count)[of_bin[order]]
    found[order[place < wanted[of_bin[order]]]] = True
    return found


def too_few(n_pairs: int, n_fire: int) -> str:
    """Why so few pairs stand for nothing; empty where there are enough."""
    if n_pairs >= max(FEWEST_PAIRS, SMALLEST_SHARE * n_fire):
        return ""
    return (
        f"{n_pairs:,} of {n_fire:,} fire tokens have a counterpart, an unlabelled token with nearly the same "
        f"norm; it takes {FEWEST_PAIRS} of them and {SMALLEST_SHARE:.0%}"
    )
