"""From the probes of all tasks to measurements and tables of one checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from saebench.metrics.estimates import estimate
from saebench.probing.arms import Probe, Scores, TaskLabels
from saebench.probing.resampling import bounds
from saebench.record import Measurement

BASELINE = "baseline"
OF_CHECKPOINT = ("latents", "reconstruction")
ARMS = (BASELINE, *OF_CHECKPOINT)
SHORT = {"accuracy": "accuracy", "macro_f1": "f1"}  # of a score, in the names of metrics


@dataclass(frozen=True)
class TaskProbes:
    """The three arms of one checkpoint on one task; ``facts`` are plain values about its texts."""

    labels: TaskLabels
    arms: Mapping[str, Probe]
    n_tokens: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    def against_baseline(self, arm: str) -> Scores | None:
        """An arm less the baseline, in pairs; None where one of them has no scores."""
        ours, base = self.arms[arm].scores, self.arms[BASELINE].scores
        return None if ours is None or base is None else ours.minus(base)

    def to_json(self) -> dict[str, Any]:
        """The table of the task."""
        labels = self.labels
        differences = {arm: self.against_baseline(arm) for arm in OF_CHECKPOINT}
        return {
            "classes": list(labels.classes),
            "n_train": len(labels.train),
            "n_test": len(labels.test),
            "resampling": labels.resampling,
            **self.facts,
            "majority": {
                "class": labels.classes[labels.majority.label],
                **labels.constant.to_json(),
            },
            "arms": {arm: self.arms[arm].to_json() for arm in ARMS},
            "minus_baseline": {
                arm: None if found is None else found.to_json()
                for arm, found in differences.items()
            },
        }


def measurements(tasks: Sequence[TaskProbes]) -> dict[str, Measurement]:
    """Every probing metric by metric id: means over ``tasks``, which are resampled apart.

    An arm that one task has no probe of has no mean: over other tasks it would be another quantity.
    """
    found: list[Measurement] = []
    for score, short in SHORT.items():
        for arm in ARMS:
            reason = next((task.arms[arm].reason for task in tasks if task.arms[arm].reason), None)
            parts = [task.arms[arm].scores for task in tasks]
            found.append(_mean(f"probe_{short}_{arm}", score, tasks, parts, reason))
        gaps = [task.against_baseline("latents") for task in tasks]
        reason = next((p.reason for task in tasks for p in task.arms.values() if p.reason), None)
        found.append(_mean(f"probe_{short}_gap", score, tasks, gaps, reason))
        constants = [task.labels.constant for task in tasks]
        found.append(_mean(f"probe_{short}_majority", score, tasks, constants, None))
    found.append(_collapsed(tasks))
    return {item.metric: item for item in found}


def details(tasks: Sequence[TaskProbes], **facts: Any) -> dict[str, Any]:
    """The tables of all tasks by name, after ``facts`` about the whole."""
    return {**facts, "tasks": {task.labels.name: task.to_json() for task in tasks}}


def _mean(
    metric: str,
    score: str,
    tasks: Sequence[TaskProbes],
    parts: Sequence[Scores | None],
    reason: str | None,
) -> Measurement:
    known = [part for part in parts if part is not None]
    whole = len(known) == len(tasks)
    by_task = {
        task.labels.name: None if part is None else part.values[score]
        for task, part in zip(tasks, parts, strict=True)
    }
    samples = np.mean([part.samples[score] for part in known], axis=0) if whole else None
    return estimate(
        metric,
        float(np.mean([part.values[score] for part in known])) if whole else None,
        None if samples is None else bounds(samples, [task.labels.resamples for task in tasks]),
        reason=reason,
        detail={"by_task": by_task},
        n_tokens=_n_tokens(tasks),
        n_sequences=_n_texts(tasks),
    )


def _collapsed(tasks: Sequence[TaskProbes]) -> Measurement:
    judged = {
        f"{task.labels.name}/{arm}": collapse.collapsed
        for task in tasks
        for arm in OF_CHECKPOINT
        if (collapse := task.arms[arm].collapse) is not None
    }
    names = [name for name, collapsed in judged.items() if collapsed]
    return estimate(
        "probes_collapsed",
        float(len(names)),
        n_tokens=_n_tokens(tasks),
        n_sequences=_n_texts(tasks),
        detail={"probes": names, "n_probes": len(judged)},
    )


def _n_tokens(tasks: Sequence[TaskProbes]) -> int:
    return sum(task.n_tokens for task in tasks)


def _n_texts(tasks: Sequence[TaskProbes]) -> int:
    return sum(len(task.labels.test) for task in tasks)
