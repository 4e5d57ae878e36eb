"""Repeated stratified folds that keep documents whole, and the label shuffles that such folds allow."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from saebench.errors import DataError

Split = tuple[np.ndarray, np.ndarray]  # rows to train on, rows to test on


@dataclass(frozen=True)
class Folds:
    """Which fold tests each text: ``of_text[repeats, n]``, for ``labels[n]`` bool.

    ``unit_of[n]`` numbers the document of each text from 0 on, or the text itself where no document
    has two. ``mixed`` says that a document holds texts of both classes.
    """

    labels: np.ndarray
    unit_of: np.ndarray
    of_text: np.ndarray
    mixed: bool
    n_folds: int
    seed: int

    @property
    def n_texts(self) -> int:
        """How many texts there are."""
        return len(self.labels)

    @property
    def n_units(self) -> int:
        """How many documents, or texts where no document has two."""
        return int(self.unit_of.max()) + 1

    @property
    def n_repeats(self) -> int:
        """How often all texts are divided into folds."""
        return len(self.of_text)

    @property
    def unit(self) -> str:
        """What is drawn and shuffled whole."""
        return "texts" if self.n_units == self.n_texts else "documents"

    def splits(self, repeat: int) -> Iterator[Split]:
        """The rows to train on and to test on, fold by fold."""
        fold = self.of_text[repeat]
        for number in range(self.n_folds):
            yield np.flatnonzero(fold != number), np.flatnonzero(fold == number)

    def shuffled(self, n: int) -> np.ndarray:
        """Labels shuffled in ``n`` ways, ``[n, n_texts]`` bool, as the first repeat's folds allow.

        Labels move within a fold of the first repeat only, so each fold keeps its classes and would have
        been as likely with any of these labels: the folds may stay while labels move, and with them all
        that does not depend on labels. Documents of one class exchange it; where documents hold both
        classes, those of one size exchange their labels, which are shuffled within documents as well.
        The first of ``n`` shuffles are the same for any ``n``.
        """
        out = np.empty((n, self.n_texts), dtype=bool)
        for place, group in enumerate(self._exchangeable()):
            rng = np.random.default_rng([self.seed, place])
            given = self.labels[group]  # [documents, texts of each], or one column per document
            order = rng.random((n, len(group))).argsort(axis=1)
            moved = given[order]
            if self.mixed and group.shape[1] > 1:
                inner = np.random.default_rng([self.seed, place, 1]).random(moved.shape)
                moved = np.take_along_axis(moved, inner.argsort(axis=2), axis=2)
            if self.mixed:
                out[:, group] = moved
            else:
                self._spread(out, group[:, 0], moved[:, :, 0])
        return out

    @property
    def n_arrangements(self) -> float:
        """How many different labels :meth:`shuffled` can give; infinite above what a float holds."""
        log = 0.0
        for group in self._exchangeable():
            sums = self.labels[group].sum(axis=1).tolist()
            log += _log_orders(Counter(sums))
            size = group.shape[1]
            log += sum(_log_orders({0: size - one, 1: one}) for one in sums)
        return math.exp(log) if log < 700 else math.inf

    def _spread(self, out: np.ndarray, firsts: np.ndarray, moved: np.ndarray) -> None:
        """Give every text of the documents that ``firsts`` begin the label of its document."""
        place = np.full(self.n_units, -1)
        place[self.unit_of[firsts]] = np.arange(len(firsts))
        at = place[self.unit_of]
        rows = np.flatnonzero(at >= 0)
        out[:, rows] = moved[:, at[rows]]

    def _exchangeable(self) -> Iterator[np.ndarray]:
        """The texts ``[documents, texts of each]`` whose labels may change places, group by group.

        Documents of one class are stood for by their first text.
        """
        order = np.argsort(self.unit_of, kind="stable")
        sizes = np.bincount(self.unit_of)
        starts = np.cumsum(sizes) - sizes
        fold = self.of_text[0][order[starts]]
        for number in range(self.n_folds):
            here = fold == number
            if not self.mixed:
                yield order[starts[here]][:, None]
                continue
            for size in np.unique(sizes[here]):
                first = starts[here & (sizes == size)]
                yield order[first[:, None] + np.arange(size)]


def draw_folds(
    labels: np.ndarray, documents: np.ndarray | None, *, n_folds: int, n_repeats: int, seed: int
) -> Folds:
    """``n_repeats`` divisions of texts with ``labels[n]`` bool into ``n_folds``, by class.

    ``documents[n]`` numbers documents, which are never divided. Documents of one class are divided like
    texts, by scikit-learn's ``StratifiedKFold``; where a document holds both classes,
    ``StratifiedGroupKFold`` divides them. Raises :class:`DataError` for one class, or too few texts.
    """
    labels = np.asarray(labels, dtype=bool)
    grouped = np.arange(len(labels)) if documents is None else documents
    _, firsts, unit_of = np.unique(grouped, return_index=True, return_inverse=True)
    positive = np.bincount(unit_of, weights=labels)
    mixed = bool(((positive > 0) & (positive < np.bincount(unit_of))).any())
    _check(labels, labels if mixed else labels[firsts], len(firsts), n_folds, mixed)
    seeds = np.random.SeedSequence(seed).generate_state(n_repeats)
    of_text = np.empty((n_repeats, len(labels)), dtype=np.int64)
    for repeat, one in enumerate(seeds.tolist()):
        if mixed:
            of_text[repeat] = _by_group(labels, unit_of, n_folds, one)
        else:
            of_text[repeat] = _by_class(labels[firsts], n_folds, one)[unit_of]
    found = Folds(labels, unit_of, of_text, mixed, n_folds, seed)
    _check_sides(found)
    return found


def _by_class(labels: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """The fold of each unit, ``[n]``.

    Sorted by class first: scikit-learn treats the class that comes first as the first, and which one
    that is must not decide the sizes of folds.
    """
    order = np.argsort(labels, kind="stable")
    fold = np.empty(len(labels), dtype=np.int64)
    dividing = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    for number, (_, test) in enumerate(dividing.split(order, labels[order])):
        fold[order[test]] = number
    return fold


def _by_group(labels: np.ndarray, unit_of: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    fold = np.empty(len(labels), dtype=np.int64)
    dividing = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    for number, (_, test) in enumerate(dividing.split(labels, labels, unit_of)):
        fold[test] = number
    return fold


def _check(
    labels: np.ndarray, of_units: np.ndarray, n_units: int, n_folds: int, mixed: bool
) -> None:
    """Refuse labels that no division into folds can do justice to."""
    counts = np.bincount(labels, minlength=2)
    if counts.min() == 0:
        raise DataError(
            "texts of two classes",
            f"all of {len(labels)} texts are of one",
            "Check the labels of the concept (label =, rules = or judges =), or add texts of the other.",
        )
    unit = "texts" if n_units == len(labels) else "documents"
    fewest = n_units if mixed else int(np.bincount(of_units, minlength=2).min())
    if fewest < n_folds:
        of = "in all" if mixed else "of the rarer class"
        raise DataError(
            f"{n_folds} folds",
            f"{fewest} {unit} {of}",
            f"Set folds = {fewest}, or add texts." if fewest > 1 else f"Add {unit} of that class.",
        )


def _check_sides(folds: Folds) -> None:
    for repeat in range(folds.n_repeats):
        for train, _ in folds.splits(repeat):
            if len(np.unique(folds.labels[train])) < 2:
                raise DataError(
                    f"both classes among the texts outside of each of {folds.n_folds} folds",
                    "a fold takes all texts of one class, which are of one document",
                    "Add documents of that class, or lower folds.",
                )


def _log_orders(counts: Counter[int] | dict[int, int]) -> float:
    """The logarithm of how many orders there are of things of which ``counts`` are alike."""
    total = sum(counts.values())
    return math.lgamma(total + 1) - sum(math.lgamma(n + 1) for n in counts.values())
