"""A held-out share of labelled texts: whole documents, each class in about its proportion."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def held_out_share(
    groups: Sequence[str], labels: np.ndarray, share: float, seed: int
) -> np.ndarray:
    """``[n]`` bool: which texts are held out, about ``share`` of each class, whole groups alone.

    ``labels[n]`` are small whole numbers. Groups are gone through by size, from large to small up to a
    factor of two, and within that by a hash of the seed and their names; each goes to the side that
    leaves the classes nearest to their share so far. The result does not depend on the order of texts.
    """
    members: dict[str, list[int]] = {}
    for i, name in enumerate(groups):
        members.setdefault(name, []).append(i)
    n_classes = int(labels.max()) + 1 if len(labels) else 0
    totals = np.bincount(labels, minlength=n_classes).clip(min=1)
    excess: np.ndarray = np.zeros(
        n_classes
    )  # of held-out texts over their share of those gone through
    held = np.zeros(len(labels), dtype=bool)

    def rank(name: str) -> tuple[int, bytes]:
        return -len(members[name]).bit_length(), _hash(name, seed)

    for name in sorted(members, key=rank):
        counts = np.bincount(labels[members[name]], minlength=n_classes)
        out = excess - share * counts
        into = out + counts
        stay, go = (float(((side / totals) ** 2).sum()) for side in (out, into))
        even = abs(stay - go) <= 1e-12 * (stay + go)
        if (_hash(name, seed)[-1] & 1) if even else go < stay:
            held[members[name]] = True
            excess = into
        else:
            excess = out
    return held


def _hash(name: str, seed: int) -> bytes:
    return hashlib.blake2b(
        f"{seed}\0{name}".encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()
