"""How many of very many things are distinct, in bounded memory: hashes in arrays, sampled above a limit."""

from __future__ import annotations

import hashlib

import numpy as np

LIMIT = 2**24  # hashes held: 128 MiB, and as much again while they are sorted

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


class HashSample:
    """Counts of equal 64-bit hashes. Above ``limit`` only hashes with zeros at the end are kept.

    All copies of one thing have one hash, so that they are kept or left out together and the shares are
    unbiased estimates from a random ``share`` (1, 1/2, 1/4 …) of the distinct things.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self.zeros = 0
        self._parts: list[np.ndarray] = []
        self._held = 0

    def add(self, hashes: np.ndarray) -> None:
        """Take ``hashes[n]`` (uint64) in."""
        part = self._kept(hashes)
        self._parts.append(part)
        self._held += len(part)
        while self._held > self.limit:
            self.zeros += 1
            self._parts = [self._kept(np.concatenate(self._parts))]
            self._held = len(self._parts[0])

    @property
    def share(self) -> float:
        """Of all distinct things, the share that the counts are of."""
        return 0.5**self.zeros

    def counts(self) -> np.ndarray:
        """How often each distinct thing that is kept was there, int64."""
        held = np.concatenate([np.empty(0, dtype=np.uint64), *self._parts])
        return np.unique(held, return_counts=True)[1].astype(np.int64)

    def _kept(self, hashes: np.ndarray) -> np.ndarray:
        if self.zeros == 0:
            return hashes
        return hashes[hashes & np.uint64(2**self.zeros - 1) == 0]


def sequence_hash(ids: np.ndarray) -> np.uint64:
    """A 64-bit BLAKE2b hash of one sequence of ids."""
    content = np.ascontiguousarray(ids, dtype=np.int64).tobytes()
    return np.uint64(int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little"))


def window_hashes(ids: np.ndarray, sequence: np.ndarray, n: int) -> np.ndarray:
    """Hashes of every window of ``n`` ids in ``ids[t]`` that lies within one ``sequence[t]``, uint64.

    Each id is mixed into the hash of the window's earlier ones with the finaliser of SplitMix64.
    """
    size = len(ids) - n + 1
    if size < 1:
        return np.empty(0, dtype=np.uint64)
    whole = sequence[:size] == sequence[n - 1 :]
    starts = np.flatnonzero(whole)
    values = ids.astype(np.uint64)
    state = np.full(len(starts), n, dtype=np.uint64)
    for place in range(n):
        state = _mixed(state ^ _mixed(values[starts + place]))
    return state


def _mixed(values: np.ndarray) -> np.ndarray:
    values = values + _STEP  # arrays of unsigned integers wrap around
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    return values ^ (values >> np.uint64(31))
