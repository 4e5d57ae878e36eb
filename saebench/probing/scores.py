"""Accuracy, macro-F1, the constant predictor, and probes that are no better than one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

# a probe that predicts one class this often has collapsed, unless its macro-F1 shows otherwise
NEARLY_ALL = 0.99
F1_ABOVE_CONSTANT = 0.05
# two scores this close to those of the constant predictor are those of a constant predictor
ACCURACY_SLACK, F1_SLACK = 0.005, 0.01


def accuracy_and_f1(labels: np.ndarray, predictions: np.ndarray) -> tuple[float, float]:
    """Accuracy, and F1 averaged over the classes that are labelled or predicted, 0 where undefined."""
    f1 = f1_score(labels, predictions, average="macro", zero_division=0)
    return float(accuracy_score(labels, predictions)), float(f1)


@dataclass(frozen=True)
class Majority:
    """The constant predictor: the commonest training label, and its scores on the test texts."""

    label: int
    accuracy: float
    macro_f1: float

    @classmethod
    def of(cls, train_y: np.ndarray, test_y: np.ndarray) -> Majority:
        """Of several labels that are equally common, the smallest."""
        labels, counts = np.unique(train_y, return_counts=True)
        label = int(labels[counts.argmax()])
        return cls(label, *accuracy_and_f1(test_y, np.full_like(test_y, label)))


@dataclass(frozen=True)
class Collapse:
    """Whether a probe predicts (nearly) one class, and the ``share`` of its commonest prediction."""

    collapsed: bool
    share: float

    @classmethod
    def of(cls, labels: np.ndarray, predictions: np.ndarray) -> Collapse:
        """Judge ``predictions[n]`` of ``labels[n]``.

        A probe that rightly calls nearly all texts by one class keeps a macro-F1 well above that of
        always saying so, and has not collapsed.
        """
        classes, counts = np.unique(predictions, return_counts=True)
        share = float(counts.max() / len(predictions))
        scores = accuracy_and_f1(labels, predictions)
        constant = np.full_like(predictions, classes[counts.argmax()])
        always = accuracy_and_f1(labels, constant)
        same = share >= NEARLY_ALL and scores[1] <= always[1] + F1_ABOVE_CONSTANT
        return cls(same or looks_constant(*scores, *always), share)


def looks_constant(
    accuracy: float, macro_f1: float, constant_accuracy: float, constant_f1: float
) -> bool:
    """Whether two scores are, up to rounding or a few texts, those of a constant predictor.

    For published numbers, whose predictions are not known.
    """
    near = abs(accuracy - constant_accuracy) <= ACCURACY_SLACK
    return near and abs(macro_f1 - constant_f1) <= F1_SLACK
