"""Labels set against those of another judge, who is taken to be right: precision, recall, F1, confusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saebench.labelling.resampled import NONE, Figure, Floats, LabelTable, Statistic
from saebench.stats import wilson

Labels = Sequence[str | None]


@dataclass(frozen=True)
class ClassScores:
    """One class: the share of the labels that are right, of the texts that are found, and F1 of both.

    A text of the class that the labels leave ambiguous is one that was not found.
    """

    precision: Figure
    recall: Figure
    f1: Figure

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {name: getattr(self, name).to_json() for name in ("precision", "recall", "f1")}


@dataclass(frozen=True)
class Scores:
    """Labels against a judge, on the texts that the judge labels.

    ``confusion[judge's class][label]`` counts texts; the label ``None`` (last, ambiguous) is where there
    is none. ``decided`` is the share of texts that get a label at all.
    """

    classes: tuple[str, ...]
    n_texts: int
    decided: Figure
    by_class: Mapping[str, ClassScores]
    confusion: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {
            "n_texts": self.n_texts,
            "decided": self.decided.to_json(),
            "by_class": {name: item.to_json() for name, item in self.by_class.items()},
            "confusion": {
                "judge": list(self.classes),
                "label": [*self.classes, None],
                "counts": [list(row) for row in self.confusion],
            },
        }


def score(labels: Labels, judge: Labels, groups: Sequence[Any] | None = None) -> Scores:
    """Precision, recall and F1 of ``labels`` by class, where ``judge`` says what is right.

    Intervals of shares are Wilson's; where ``groups`` names documents they resample these (at 0 and 1
    they are Wilson's with a trial per document). Those of F1 always resample. Texts without the judge's
    label are left out. Raises :class:`DataError` where the two are of different numbers of texts.
    """
    table = LabelTable({"labels": labels, "judge": judge}, groups)
    mine, theirs = table.profiles.T
    known = theirs != NONE
    n_classes = len(table.classes)
    confusion = np.zeros((n_classes, n_classes + 1), dtype=np.int64)
    np.add.at(confusion, (theirs[known], mine[known]), table.counts[known].astype(np.int64))
    decided = _share(table, known & (mine != NONE), known, "no text that the judge labels")
    by_class = {
        name: _of_class(table, known, mine == i, theirs == i)
        for i, name in enumerate(table.classes)
    }
    rows = tuple(tuple(row) for row in confusion.tolist())
    return Scores(table.classes, int(table.counts[known].sum()), decided, by_class, rows)


def _of_class(
    table: LabelTable, known: np.ndarray, given: np.ndarray, right: np.ndarray
) -> ClassScores:
    hits = given & right

    def f1(weights: Floats) -> Floats:
        found: Floats = 2 * (weights @ hits) / (weights @ (1.0 * given + right))
        return found

    return ClassScores(
        _share(table, hits, known & given, "no text has this label"),
        _share(table, hits, known & right, "no text is of this class"),
        table.figure(f1, known & (given | right), "no text has this label or is of this class"),
    )


def _share(table: LabelTable, part: np.ndarray, whole: np.ndarray, empty: str) -> Figure:
    """The share of the texts of some profiles among those of others."""
    n, hits = (int(table.counts[where].sum()) for where in (whole, part & whole))
    if n == 0:
        return Figure(None, 0, reason=empty)
    if table.unit == "texts":
        found = wilson(hits, n)
        return Figure(hits / n, n, found.low, found.high, found.how)
    if hits in (0, n):  # no resample differs; as many trials as documents is the cautious count
        n_groups = table.n_groups(whole)
        found = wilson(n_groups * (hits > 0), n_groups)
        return Figure(hits / n, n, found.low, found.high, found.how.replace("trials", "documents"))
    statistic: Statistic = lambda weights: (weights @ (part & whole)) / (weights @ whole)  # noqa: E731
    return table.figure(statistic, whole, empty)
