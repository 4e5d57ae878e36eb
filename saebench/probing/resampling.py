"""Bootstrap over test documents: the same resamples for every probe, so that probes are compared in pairs."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from saebench.stats import N_RESAMPLES, Interval, bootstrap_weights, interval

ROWS = 128  # resamples drawn and scored together: a few tens of megabytes at 10,000 texts


class Resamples:
    """Resamples of the test documents of one task, from the ``labels[n_test]`` of its texts.

    ``documents[n_test]`` numbers the document of each text. Texts of one document resemble each other, so
    it is drawn or left out whole; without ``documents`` each text is drawn by itself. Draws follow from the
    name of the task, the number of documents and ``seed``: probes of different checkpoints meet the same
    ones, and tasks are resampled independently of each other. Source: Davison and Hinkley 1997, chapter 3.8.
    """

    def __init__(
        self,
        task: str,
        labels: np.ndarray,
        seed: int,
        n_resamples: int = N_RESAMPLES,
        documents: np.ndarray | None = None,
    ) -> None:
        self.task, self.labels = task, labels
        self.unit = "test texts" if documents is None else "test documents"
        of_text = np.arange(len(labels)) if documents is None else documents
        self._drawn, self._of_text = np.unique(of_text, return_inverse=True)
        name = int.from_bytes(hashlib.sha256(task.encode()).digest()[:8], "little")
        sizes = [min(ROWS, n_resamples - start) for start in range(0, n_resamples, ROWS)]
        seeds = np.random.SeedSequence([seed, name]).generate_state(len(sizes), np.uint64)
        self._counts = np.concatenate(
            [
                bootstrap_weights(self.n_units, size, int(one)).astype(np.uint16)
                for size, one in zip(sizes, seeds, strict=True)
            ]
        )

    @property
    def n_units(self) -> int:
        """How many documents, or texts, there are to draw."""
        return len(self._drawn)

    def scores(self, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Accuracy and macro-F1 of ``predictions[n_test]`` in each resample, ``[n_resamples]`` each.

        As over all texts, F1 is averaged over the classes that a resample has or that are predicted.
        """
        classes, cells = np.unique([self.labels, predictions], return_inverse=True)
        true, given = np.eye(len(classes))[cells.reshape(2, -1)]
        of_texts = np.concatenate([true * given, true + given], axis=1)  # [n_test, 2 · classes]
        marks = np.zeros((self.n_units, of_texts.shape[1]))
        np.add.at(marks, self._of_text, of_texts)
        parts = []
        for start in range(0, len(self._counts), ROWS):
            hits, seen = np.split(self._counts[start : start + ROWS] @ marks, 2, axis=1)
            f1 = np.divide(2 * hits, seen, out=np.zeros_like(hits), where=seen > 0)
            accuracy = hits.sum(1) / (seen.sum(1) / 2)  # each text is seen as labelled and as given
            parts.append((accuracy, f1.sum(1) / (seen > 0).sum(1)))
        accuracy, f1 = (np.concatenate(part) for part in zip(*parts, strict=True))
        return accuracy, f1


def bounds(samples: np.ndarray, tasks: Sequence[Resamples]) -> Interval:
    """The 95 % interval of a mean over tasks from its ``samples[n_resamples]``; it says what was drawn.

    A task whose test texts are all of one document has no spread to go by, so there is no interval.
    """
    alone = [task.task for task in tasks if task.n_units < 2]
    if alone:
        reason = f"all test texts of {', '.join(alone)} are of one document"
        return Interval(None, None, reason=reason)
    return interval(samples, unit=units(tasks))


def units(tasks: Sequence[Resamples]) -> str:
    """What is drawn and how many there are, as in ``152 test documents of 2 tasks``."""
    counts: Counter[str] = Counter()
    for task in tasks:
        counts[task.unit] += task.n_units
    text = " and ".join(f"{n:,} {unit}" for unit, n in sorted(counts.items()))
    return text if len(tasks) == 1 else f"{text} of {len(tasks)} tasks"
