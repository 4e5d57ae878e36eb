"""All columns of one split of a concept's texts: which separates best, and what chance gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from saebench.concepts import (
    Columns,
    Discoveries,
    Exchange,
    Nulls,
    Separation,
    permuted,
    separate,
)
from saebench.concepts.columns import Matrix
from saebench.errors import DataError
from saebench.measure.concepts.rows import Split
from saebench.protocols import ConceptsProtocol

SMALLEST = 2  # texts of a class: one has no spread


@dataclass(frozen=True)
class Labels:
    """The classes of a split's texts, ``positive[n]`` bool, and what may trade them."""

    positive: np.ndarray
    exchange: Exchange

    @classmethod
    def of(cls, split: Split, name: str) -> Labels:
        """Those of a split; raises :class:`DataError` where a class has fewer than two texts."""
        text = split.text
        positive = text.labels == 1
        counts = np.bincount(positive, minlength=2).tolist()
        if min(counts) < SMALLEST:
            found = " and ".join(
                f"{count} of {name!r}" for name, count in zip(text.classes, counts, strict=True)
            )
            raise DataError(
                f"{SMALLEST} texts or more of each class among the {name} texts",
                found,
                "Give more texts, raise max_texts, or hold out another share: held_out = in [concepts].",
            )
        return cls(positive, Exchange.of(positive, text.documents))


@dataclass(frozen=True)
class Side:
    """How all columns of one split separate the classes, beside permuted labels.

    ``columns`` and ``nulls`` are of the ``eligible`` columns, ``separation`` is of all.
    """

    labels: Labels
    separation: Separation
    eligible: np.ndarray
    columns: Columns
    nulls: Nulls
    best: int

    @classmethod
    def of(cls, x: Matrix, labels: Labels, asked: ConceptsProtocol, seed: int) -> Side:
        """The columns of ``x[n, m]``; raises :class:`DataError` where none can be judged."""
        columns = Columns.of(x)
        ranks = columns.ranks()
        separation = separate(columns, ranks, labels.positive)
        best = separation.best(asked.min_firings)
        if best is None:
            active = int((separation.firings > 0).sum())
            raise DataError(
                f"a latent that fires on {asked.min_firings} of {columns.n} texts or more",
                f"none: {active:,} of {columns.m:,} fire on any, {separation.n_infinite} of them "
                "without spread",
                "Give more texts, lower min_firings in [concepts], or pool by mean or max.",
            )
        eligible = separation.eligible(asked.min_firings)
        taken = columns.take(eligible)
        nulls = permuted(
            taken,
            ranks.take(eligible),
            separation.take(eligible),
            labels.exchange,
            asked.n_permutations,
            seed,
        )
        return cls(labels, separation, eligible, taken, nulls, best)

    @property
    def d_best(self) -> float:
        """d of the best column, with its sign."""
        return float(self.separation.d[self.best])

    @property
    def sign(self) -> int:
        """1 where the best column is higher in the positive class, else −1."""
        return -1 if self.d_best < 0 else 1

    def top(self, k: int) -> np.ndarray:
        """The ``k`` eligible columns with the largest finite |d|, the largest first."""
        found = np.where(self.eligible & np.isfinite(self.separation.d), abs(self.separation.d), -1)
        order = np.argsort(-found, kind="stable")[:k]
        return order[found[order] > 0]

    def p_alone(self, column: int) -> float:
        """p of one eligible column by itself."""
        return float(self.nulls.p[np.flatnonzero(self.eligible).searchsorted(column)])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        found, exchange = self.separation, self.labels.exchange
        return {
            "n1": found.n1,
            "n0": found.n0,
            "unit": exchange.resampled_unit,
            "n_units": exchange.n_resampled,
            "exchanged": exchange.kind,
            "n_latents": len(found.d),
            "n_silent": int((found.firings == 0).sum()),
            "n_eligible": int(self.eligible.sum()),
            "n_infinite": found.n_infinite,
            "best": self.best,
            "d_best": self.d_best,
            "discoveries": Discoveries.of(self.nulls, found.d[self.eligible]).to_json(),
            **self.nulls.to_json(),
        }
