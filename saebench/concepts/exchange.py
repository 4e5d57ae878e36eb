"""What may be exchanged under the null hypothesis, and what is resampled: documents, or texts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from typing import Literal

import numpy as np

EXACT = 100_000  # arrangements up to which all of them are gone through
ROWS = 256  # resamples drawn together

Kind = Literal["texts", "documents", "texts within documents"]


@dataclass(frozen=True)
class Exchange:
    """Units that can trade their labels: those of one ``block``, which ``labels[U]`` (bool) they carry.

    ``unit[n]`` is the unit of each text, ``block[U]`` that of each unit. Where all texts of a document
    have one label, documents are the units and there is one block. Where labels vary within documents,
    texts trade labels within their document alone: what documents differ in then says nothing, as in a
    paired test. Without documents texts are the units. Numbers of each class stay as they are.
    """

    kind: Kind
    unit: np.ndarray
    block: np.ndarray
    labels: np.ndarray
    resampled: np.ndarray  # [n]: what a bootstrap draws or leaves out whole

    @classmethod
    def of(cls, labels: np.ndarray, documents: np.ndarray | None = None) -> Exchange:
        """The design for texts with ``labels[n]`` (bool), of ``documents[n]`` where those are named."""
        labels = np.asarray(labels, dtype=bool)
        alone = np.arange(len(labels))
        if documents is not None:
            _, of_text, sizes = np.unique(documents, return_inverse=True, return_counts=True)
        if documents is None or sizes.max() == 1:
            return cls("texts", alone, np.zeros(len(labels), dtype=np.int64), labels, alone)
        positive = np.bincount(of_text, weights=labels)
        if ((positive == 0) | (positive == sizes)).all():
            block = np.zeros(len(sizes), dtype=np.int64)
            return cls("documents", of_text, block, positive > 0, of_text)
        return cls("texts within documents", alone, of_text, labels, of_text)

    @property
    def n_units(self) -> int:
        """How many units trade labels."""
        return len(self.labels)

    @property
    def n_resampled(self) -> int:
        """How many documents or texts a bootstrap draws from."""
        return int(self.resampled.max()) + 1

    @property
    def n_resampled_by_class(self) -> tuple[int, int]:
        """How many of them hold texts of the negative class, and how many of the positive one."""
        positive = self.labels[self.unit]
        n0, n1 = (len(np.unique(self.resampled[side])) for side in (~positive, positive))
        return n0, n1

    @property
    def resampled_unit(self) -> str:
        """What a bootstrap draws, in words."""
        return "texts" if self.kind == "texts" else "documents"

    @cached_property
    def _sizes(self) -> list[tuple[int, int]]:
        """Of each block, its units and the positive ones among them."""
        units = np.bincount(self.block)
        positive = np.bincount(self.block, weights=self.labels).astype(int)
        return list(zip(units.tolist(), positive.tolist(), strict=True))

    @property
    def n_arrangements(self) -> int:
        """In how many ways the labels can lie, the actual one included."""
        return math.prod(math.comb(n, k) for n, k in self._sizes)

    @property
    def is_exact(self) -> bool:
        """Whether all arrangements can be gone through."""
        return self.n_arrangements <= EXACT

    def smallest_p(self, n_permutations: int) -> float:
        """The least p that a two-sided statistic can have.

        Where both classes are of one size everywhere, swapping them is an arrangement too, and it gives the
        same statistic.
        """
        swapped = 2 if all(2 * k == n for n, k in self._sizes) and self.n_arrangements > 1 else 1
        least = swapped / self.n_arrangements
        return least if self.is_exact else max(least, 1 / (1 + n_permutations))

    def permutations(self, n_permutations: int, seed: int) -> np.ndarray:
        """Labels ``[n, B]`` bool of all other arrangements where :attr:`is_exact`, else of random ones."""
        units = self._every() if self.is_exact else self._drawn(n_permutations, seed)
        return units[self.unit]

    def _every(self) -> np.ndarray:
        """All arrangements ``[U, B]`` but the actual one."""
        members = [np.flatnonzero(self.block == b) for b in range(len(self._sizes))]
        sides = [list(combinations(m, k)) for m, (_, k) in zip(members, self._sizes, strict=True)]
        found = np.zeros((self.n_units, self.n_arrangements), dtype=bool)
        for column, chosen in enumerate(product(*sides)):
            found[[unit for side in chosen for unit in side], column] = True
        return found[:, (found != self.labels[:, None]).any(0)]

    def _drawn(self, count: int, seed: int) -> np.ndarray:
        """Random arrangements ``[U, count]``, each as likely as any other."""
        generator = np.random.default_rng(seed)
        home = np.argsort(self.block, kind="stable")
        found = np.empty((self.n_units, count), dtype=bool)
        for start in range(0, count, ROWS):
            size = min(ROWS, count - start)
            keys = generator.random((size, self.n_units)) + self.block
            found[np.argsort(keys, axis=1).T, np.arange(start, start + size)] = self.labels[
                home, None
            ]
        return found

    def resamples(self, count: int, seed: int) -> Iterator[np.ndarray]:
        """How often each resample draws each text, ``[rows, n]`` float64, in parts that make up ``count``.

        Documents (texts where none are named) are drawn with replacement: within each class, unless labels
        vary within documents.
        """
        generator = np.random.default_rng(seed)
        within = np.zeros(self.n_resampled, dtype=np.int64)
        if self.kind != "texts within documents":
            within = self.labels.astype(np.int64)
        pools = [np.flatnonzero(within == side) for side in np.unique(within)]
        for start in range(0, count, ROWS):
            rows = min(ROWS, count - start)
            counts = np.zeros((rows, self.n_resampled))
            for pool in pools:
                drawn = generator.integers(0, len(pool), (rows, len(pool)))
                drawn += len(pool) * np.arange(rows)[:, None]
                found = np.bincount(drawn.ravel(), minlength=rows * len(pool))
                counts[:, pool] = found.reshape(rows, len(pool))
            yield counts[:, self.resampled]

    def halves(self, labels: np.ndarray, seed: int) -> np.ndarray:
        """Random halves of the documents or texts: ``[n, S]`` bool, for texts' ``labels[n, S]`` (bool).

        Each class is halved where units have one; of an odd number a coin says which half has one more.
        """
        n_splits = labels.shape[1]
        generator = np.random.default_rng(seed)
        side = np.zeros((self.n_resampled, n_splits), dtype=np.int64)
        if self.kind != "texts within documents":
            side[self.resampled] = labels
        keys = generator.random(side.shape) + side
        place = np.argsort(np.argsort(keys, axis=0), axis=0)
        n0 = (side == 0).sum(0)
        place = np.where(side == 1, place - n0, place)
        size = np.where(side == 1, (side == 1).sum(0), n0)
        coin = generator.integers(0, 2, (2, n_splits))
        first = 2 * place + np.take_along_axis(coin, side, axis=0) < size
        return first[self.resampled]
