"""Bootstrap over test texts: the same resamples for every probe, so that probes are compared in pairs."""

from __future__ import annotations

import hashlib

import numpy as np

from saebench.stats import N_RESAMPLES, bootstrap_weights

ROWS = 128  # resamples drawn and scored together: a few tens of megabytes at 10,000 texts


class Resamples:
    """Resamples of the test texts of one task, with their ``labels[n_test]``.

    They follow from the name of the task, the number of texts and ``seed``: probes of different
    checkpoints meet the same ones, and tasks are resampled independently of each other.
    """

    def __init__(
        self, task: str, labels: np.ndarray, seed: int, n_resamples: int = N_RESAMPLES
    ) -> None:
        self.labels = labels
        name = int.from_bytes(hashlib.sha256(task.encode()).digest()[:8], "little")
        sizes = [min(ROWS, n_resamples - start) for start in range(0, n_resamples, ROWS)]
        seeds = np.random.SeedSequence([seed, name]).generate_state(len(sizes), np.uint64)
        self._counts = np.concatenate(
            [
                bootstrap_weights(len(labels), size, int(one)).astype(np.uint16)
                for size, one in zip(sizes, seeds, strict=True)
            ]
        )

    def scores(self, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Accuracy and macro-F1 of ``predictions[n_test]`` in each resample, ``[n_resamples]`` each.

        As over all texts, F1 is averaged over the classes that a resample has or that are predicted.
        """
        classes, cells = np.unique([self.labels, predictions], return_inverse=True)
        true, given = np.eye(len(classes))[cells.reshape(2, -1)]
        marks = np.concatenate([true * given, true + given], axis=1)  # [n_test, 2 · classes]
        parts = []
        for start in range(0, len(self._counts), ROWS):
            hits, seen = np.split(self._counts[start : start + ROWS] @ marks, 2, axis=1)
            f1 = np.divide(2 * hits, seen, out=np.zeros_like(hits), where=seen > 0)
            accuracy = hits.sum(1) / len(self.labels)
            parts.append((accuracy, f1.sum(1) / (seen > 0).sum(1)))
        accuracy, f1 = (np.concatenate(part) for part in zip(*parts, strict=True))
        return accuracy, f1
