"""Permutation tests of whole pipelines: scaling, selection and fitting again for every shuffle.

A probability holds for the statistic that was shuffled and no other. Here that is the score on the folds
of the first repeat, for the labels as they are and as shuffled: labels move within folds, which is what
lets the folds stay (see :meth:`saebench.probing.cv_folds.Folds.shuffled`), and a mean over more repeats
would need labels that keep the classes of every fold of all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from saebench.probing.cv_design import scaled
from saebench.probing.cv_fit import decide_many, work
from saebench.probing.cv_folds import Folds, Split
from saebench.probing.cv_scores import SCORES, balanced_accuracy, ordered_pairs
from saebench.probing.scaling import Matrix

# entries of dense matrices that the fits of one arm may go through: about a minute on one core
WORK = 3e9
FEWEST = 99  # shuffles that are drawn whatever they take

Decide = Callable[[Split, np.ndarray], np.ndarray]
"""Log-odds ``[B, n_test]`` of the test rows of a split, fitted to labels ``[B, n]`` of all rows."""


@dataclass(frozen=True)
class Null:
    """Scores under ``n_permutations`` shuffles, and ``observed`` on the same folds, by score."""

    observed: dict[str, float]
    shuffled: dict[str, np.ndarray]
    n_arrangements: float

    @property
    def n_permutations(self) -> int:
        """How many shuffles there were."""
        return len(self.shuffled["auroc"])

    @property
    def smallest_p(self) -> float:
        """The smallest p that so many shuffles of so few labels can give."""
        return max(1 / (1 + self.n_permutations), 1 / self.n_arrangements)

    def p(self, score: str) -> float:
        """``(1 + #{shuffled ≥ observed})/(1 + B)``. Source: Phipson and Smyth 2010."""
        reached = self.shuffled[score] >= self.observed[score] - 1e-12
        return float((1 + reached.sum()) / (1 + self.n_permutations))

    def to_json(self) -> dict[str, Any]:
        """p of both scores, and what the scores are under shuffled labels."""
        found: dict[str, Any] = {
            "n_permutations": self.n_permutations,
            "smallest_p": self.smallest_p,
        }
        for name in SCORES:
            low, high = np.quantile(self.shuffled[name], [0.025, 0.975])
            found[name] = {
                "p": self.p(name),
                "observed_on_these_folds": self.observed[name],
                "mean": float(self.shuffled[name].mean()),
                "sd": float(self.shuffled[name].std(ddof=1)),
                "range": [float(low), float(high)],
            }
        return found


def affordable(features: Matrix, folds: Folds, n_permutations: int) -> int:
    """How many of ``n_permutations`` can be drawn within ``WORK``; at least ``FEWEST`` of them."""
    each = max(1, sum(work(scaled(features, *split)) for split in folds.splits(0)))
    return min(n_permutations, max(FEWEST, int(WORK // each)))


def null_of(features: Matrix, folds: Folds, n_permutations: int, c: float) -> Null:
    """The null of a probe on all of ``features[n, d]``; designs of folds are made once for all shuffles."""

    def fitted(split: Split, labels: np.ndarray) -> np.ndarray:
        return decide_many(scaled(features, *split), labels[:, split[0]], c)

    return shuffled_scores(folds, affordable(features, folds, n_permutations), fitted)


def shuffled_scores(folds: Folds, n_permutations: int, decide: Decide) -> Null:
    """The scores of a pipeline for the labels as they are and for ``n_permutations`` shuffles of them."""
    labels = np.concatenate([folds.labels[None], folds.shuffled(n_permutations)])
    decisions = np.empty(labels.shape)
    ordered, pairs = np.zeros(len(labels)), np.zeros(len(labels))
    for split in folds.splits(0):
        test = split[1]
        decisions[:, test] = decide(split, labels)
        above, there = ordered_pairs(labels[:, test], decisions[:, test])
        ordered, pairs = ordered + above, pairs + there
    found = {
        "balanced_accuracy": balanced_accuracy(labels, decisions),
        "auroc": np.divide(ordered, pairs, out=np.full(len(pairs), 0.5), where=pairs > 0),
    }
    return Null(
        {name: float(values[0]) for name, values in found.items()},
        {name: values[1:] for name, values in found.items()},
        folds.n_arrangements,
    )
