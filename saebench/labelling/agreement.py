"""How far judges agree: raw agreement, Cohen's κ of each pair, and Fleiss' κ of all.

Sources: Cohen 1960, A coefficient of agreement for nominal scales; Fleiss 1971, Measuring nominal scale
agreement among many raters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from saebench.labelling.resampled import NONE, Figure, Floats, LabelTable

Labels = Sequence[str | None]
_CONSTANT = "every label is of one class, so that agreement by chance is complete"


@dataclass(frozen=True)
class Pair:
    """Two judges on the texts that both label: the share of equal labels, and Cohen's κ."""

    first: str
    second: str
    raw: Figure
    kappa: Figure

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {
            "judges": [self.first, self.second],
            "raw": self.raw.to_json(),
            "kappa": self.kappa.to_json(),
        }


@dataclass(frozen=True)
class Agreement:
    """Judges of the same texts: every pair, and all of them on the texts that all label.

    ``raw`` is the share of pairs of labels that are equal, ``fleiss`` Fleiss' κ; both are over complete
    texts. ``labelled`` counts the texts that each judge labels.
    """

    n_texts: int
    classes: tuple[str, ...]
    labelled: Mapping[str, int]
    raw: Figure
    fleiss: Figure
    pairs: tuple[Pair, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {
            "n_texts": self.n_texts,
            "classes": list(self.classes),
            "labelled": dict(self.labelled),
            "raw": self.raw.to_json(),
            "fleiss": self.fleiss.to_json(),
            "pairs": [pair.to_json() for pair in self.pairs],
        }


def agreement(judges: Mapping[str, Labels], groups: Sequence[Any] | None = None) -> Agreement:
    """How far judges agree on texts; a label is None where a judge gives none.

    Intervals resample texts, or their documents where ``groups`` names that of each. Raises
    :class:`DataError` where judges label different numbers of texts.
    """
    table = LabelTable(judges, groups)
    profiles, n_classes = table.profiles, max(len(table.classes), 1)
    given = profiles != NONE
    complete = given.all(axis=1) & (len(judges) > 1)
    ratings = _ratings(profiles, n_classes)
    pairs = []
    for a, b in combinations(range(len(judges)), 2):
        both = given[:, a] & given[:, b]
        cells = np.zeros((len(profiles), n_classes, n_classes))
        cells[both, profiles[both, a], profiles[both, b]] = 1
        pairs.append(
            Pair(
                table.judges[a],
                table.judges[b],
                table.figure(lambda w, c=cells: _raw(_crossed(w, c)), both, _CONSTANT),  # type: ignore[misc]
                table.figure(lambda w, c=cells: _cohen(_crossed(w, c)), both, _CONSTANT),  # type: ignore[misc]
            )
        )
    return Agreement(
        table.n,
        table.classes,
        dict(zip(table.judges, (table.counts @ given).astype(int).tolist(), strict=True)),
        table.figure(lambda w: _fleiss(w, ratings)[0], complete, _CONSTANT),
        table.figure(lambda w: _fleiss(w, ratings)[1], complete, _CONSTANT),
        tuple(pairs),
    )


def cohen_kappa(table: npt.ArrayLike) -> float | None:
    """Cohen's κ of a table ``[class, class]`` of counts; None where one class holds all labels."""
    value = float(_cohen(np.asarray(table, dtype=np.float64)[None])[0])
    return value if np.isfinite(value) else None


def fleiss_kappa(ratings: npt.ArrayLike) -> float | None:
    """Fleiss' κ of ``ratings[text, class]``, how many judges put a text into a class.

    Every text has the same number of judges, two or more. None where one class holds all ratings.
    """
    counts = np.asarray(ratings, dtype=np.float64)
    value = float(_fleiss(np.ones((1, len(counts))), counts)[1][0])
    return value if np.isfinite(value) else None


def _crossed(weights: Floats, cells: Floats) -> Floats:
    """Tables ``[b, class, class]`` of two judges' labels for weights ``[b, p]`` of their profiles."""
    found: Floats = np.tensordot(weights, cells, axes=1)
    return found


def _raw(tables: Floats) -> Floats:
    found: Floats = np.trace(tables, axis1=1, axis2=2) / tables.sum(axis=(1, 2))
    return found


def _cohen(tables: Floats) -> Floats:
    """``(p_o - p_e) / (1 - p_e)`` of each table; NaN where ``p_e`` is 1."""
    n = tables.sum(axis=(1, 2))
    by_chance = (tables.sum(axis=1) * tables.sum(axis=2)).sum(axis=1)
    equal = np.trace(tables, axis1=1, axis2=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        # in counts, which are whole: exactly 0 / 0 where one class holds all
        found: Floats = (n * equal - by_chance) / (n * n - by_chance)
    return found


def _ratings(profiles: npt.NDArray[np.int64], n_classes: int) -> Floats:
    """How many judges put the texts of a profile into a class, ``[p, class]``."""
    found: Floats = (profiles[:, :, None] == np.arange(n_classes)).sum(axis=1).astype(np.float64)
    return found


def _fleiss(weights: Floats, ratings: Floats) -> tuple[Floats, Floats]:
    """The share of equal pairs of labels, and Fleiss' κ, for weights ``[b, p]`` of ``ratings[p, c]``."""
    of_class = weights @ ratings
    total = of_class.sum(axis=1)
    n = weights.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        judges = total / n
        equal = (weights @ (ratings * (ratings - 1)).sum(axis=1)) / (n * judges * (judges - 1))
        by_chance = (of_class**2).sum(axis=1) / total**2
        kappa = np.where(by_chance == 1, np.nan, (equal - by_chance) / (1 - by_chance))
    return equal, kappa
