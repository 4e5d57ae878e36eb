"""The probes of one task: each arm fitted once, beside what shuffled labels and a constant give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from saebench.probing.classifiers import ProbeResult, fit_and_score
from saebench.probing.resampling import Resamples, bounds, units
from saebench.probing.scaling import Matrix
from saebench.probing.scores import Collapse, Majority, accuracy_and_f1
from saebench.protocols import Classifier
from saebench.stats import Interval

SCORES = ("accuracy", "macro_f1")


@dataclass(frozen=True)
class Scores:
    """Accuracy and macro-F1 on all test texts, and on each of their resamples, ``[n_resamples]``."""

    values: Mapping[str, float]
    samples: Mapping[str, np.ndarray]
    resamples: Resamples

    def minus(self, other: Scores) -> Scores:
        """The difference of two probes, resample by resample."""
        return Scores(
            {name: self.values[name] - other.values[name] for name in SCORES},
            {name: self.samples[name] - other.samples[name] for name in SCORES},
            self.resamples,
        )

    def interval(self, name: str) -> Interval:
        """The 95 % interval of one score."""
        return bounds(self.samples[name], [self.resamples])

    def to_json(self) -> dict[str, Any]:
        """Each score with its interval, ``[low, high]``."""
        found: dict[str, Any] = {}
        for name in SCORES:
            ends = self.interval(name)
            found[name] = self.values[name]
            found[f"{name}_interval"] = [ends.low, ends.high]
        return found


@dataclass(frozen=True)
class Probe:
    """One fitted arm, with the same fit to shuffled training labels; or the ``reason`` for none."""

    scores: Scores | None
    result: ProbeResult | None = None
    shuffled: ProbeResult | None = None
    collapse: Collapse | None = None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without the predictions."""
        if self.scores is None or self.result is None:
            return {"reason": self.reason}
        assert self.collapse is not None
        assert self.shuffled is not None
        fit = self.result
        return {
            **self.scores.to_json(),
            "collapsed": self.collapse.collapsed,
            "share_of_commonest_prediction": self.collapse.share,
            "converged": fit.converged,
            "n_iterations": fit.n_iterations,
            "n_features": fit.n_features,
            "n_varying": fit.n_varying,
            "coefficient_norm": fit.coefficient_norm,
            "shuffled_labels": {name: getattr(self.shuffled, name) for name in SCORES},
        }


class TaskLabels:
    """The labels of a task, ``train[n_train]`` and ``test[n_test]`` int64, and all that they fix.

    That is the constant predictor, the shuffled training labels, and the resamples of the
    test texts, whose ``documents[n_test]`` are drawn whole (see :class:`Resamples`).
    """

    def __init__(
        self,
        name: str,
        classes: tuple[str, ...],
        train: np.ndarray,
        test: np.ndarray,
        *,
        classifier: Classifier,
        seed: int,
        documents: np.ndarray | None = None,
    ) -> None:
        self.name, self.classes, self.train, self.test = name, classes, train, test
        self.classifier, self.seed = classifier, seed
        self.shuffled = np.random.default_rng(seed).permutation(train)
        self.resamples = Resamples(name, test, seed, documents=documents)
        self.majority = Majority.of(train, test)
        self.constant = self.scored(np.full_like(test, self.majority.label))

    def scored(self, predictions: np.ndarray) -> Scores:
        """The scores of ``predictions[n_test]``, with those of every resample."""
        values = accuracy_and_f1(self.test, predictions)
        samples = self.resamples.scores(predictions)
        return Scores(
            dict(zip(SCORES, values, strict=True)),
            dict(zip(SCORES, samples, strict=True)),
            self.resamples,
        )

    @property
    def resampling(self) -> str:
        """What intervals of this task resample, and how many there are."""
        return units([self.resamples])

    def probe(self, train: Matrix, test: Matrix) -> Probe:
        """Fit one arm, features ``[n_train, d]`` and ``[n_test, d]``, and once more to shuffled labels."""
        if sparse.issparse(train) and not train.nnz:
            return Probe(None, reason=f"no latent fires on a training text of {self.name}")
        fit, shuffled = (
            fit_and_score(train, labels, test, self.test, self.classifier, self.seed)
            for labels in (self.train, self.shuffled)
        )
        return Probe(
            self.scored(fit.predictions), fit, shuffled, Collapse.of(self.test, fit.predictions)
        )
