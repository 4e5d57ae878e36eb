"""Linear probes on the labelled texts of each task: activations, latents and reconstructions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saebench.data.labelled import LabelledText
from saebench.errors import ConfigError
from saebench.evals.pooling import PooledSite, PooledSubject
from saebench.measure.jobs import Pass, calls
from saebench.measure.progress import watched
from saebench.measure.records import identity as model_identity
from saebench.measure.records import make_record
from saebench.measure.run import Run, Target
from saebench.passes import Calibration, PassRequest, Stack, Subject, run_pass
from saebench.passes.requests import SiteObserver, SubjectObserver
from saebench.probing import TaskLabels, TaskProbes, details, measurements
from saebench.record import Record

PART = "probing"
Split = tuple[LabelledText, LabelledText]  # train and test


def identity(run: Run) -> dict[str, Any]:
    """What the scores depend on beside the run's own: how probes are trained, and every text and label.

    Raises :class:`ConfigError` where no task is named.
    """
    digests = {name: [part.digest for part in split] for name, split in tasks_of(run).items()}
    return {PART: {"protocol": protocol(run), "tasks": digests}}


def protocol(run: Run) -> dict[str, Any]:
    """How probes are trained and scored, without where the texts lie."""
    found = run.config.probing.to_json()
    del found["tasks"]
    return {**found, "length": run.probe_length}


def tasks_of(run: Run) -> Mapping[str, Split]:
    """The train and test texts of every task; raises :class:`ConfigError` where no task is named."""
    if not run.config.probing.tasks:
        raise ConfigError(
            "tasks to train probes on",
            "none",
            "Name some, as in --task sst2 or --task FOLDER, or tasks = in [probing].",
        )
    return run.tasks


@dataclass(frozen=True)
class Pooled:
    """The pooled rows of one side of a task, at every stack that is read and for every checkpoint."""

    sites: Mapping[Stack, PooledSite]
    subjects: Mapping[str, PooledSubject]


class ProbingJob:
    """Trains and scores the probes of every target; nothing of it is on the run's own text."""

    def __init__(self, run: Run, targets: Sequence[Target]) -> None:
        self.targets = targets
        self.subjects = [run.subject(target) for target in targets]
        self.site_observers: Mapping[Stack, Sequence[SiteObserver]] = {}
        self.subject_observers: Mapping[str, Sequence[SubjectObserver]] = {}

    def finish(self, run: Run, done: Pass) -> Iterator[Record]:
        """One pass over the train and one over the test texts of each task, then the records."""
        before, started = calls(run.models), time.perf_counter()
        found: dict[str, list[TaskProbes]] = {subject.name: [] for subject in self.subjects}
        for name, split in tasks_of(run).items():
            for checkpoint, probes in self._probe(run, name, split, done.calibration):
                found[checkpoint].append(probes)
        passes = calls(run.models) - before
        seconds = time.perf_counter() - started
        for target, subject in zip(self.targets, self.subjects, strict=True):
            yield make_record(
                run.key(target, PART, identity(run)),
                target,
                subject,
                measurements(found[target.name]),
                part=PART,
                details={PART: self._details(run, subject, found[target.name])},
                model=model_identity(run.models),
                data=run.stream.describe(),
                policy={
                    **run.policy,
                    "resampling": "test texts",
                    "calibration_tokens": done.calibration.n_tokens,
                },
                passes=dict(passes),
                seconds=seconds,
                calibration=done.calibration,
            )

    def _probe(
        self, run: Run, name: str, split: Split, calibration: Calibration
    ) -> Iterator[tuple[str, TaskProbes]]:
        """The probes of every checkpoint on one task; the baseline of a site is fitted once."""
        asked = run.config.probing
        labels = TaskLabels(
            name,
            split[0].classes,
            *(part.labels for part in split),
            classifier=asked.classifier,
            seed=asked.seed,
        )
        train, test = (self._pooled(run, part, calibration) for part in split)
        baselines = {
            stack: labels.probe(train.sites[stack].x, test.sites[stack].x) for stack in train.sites
        }
        for subject in self.subjects:
            rows = train.subjects[subject.name], test.subjects[subject.name]
            arms = {
                "baseline": baselines[subject.reads],
                "latents": labels.probe(*(item.latents for item in rows)),
                "reconstruction": labels.probe(*(item.x_hat for item in rows)),
            }
            n_tokens = int(rows[1].n_counted.sum())
            yield subject.name, TaskProbes(labels, arms, n_tokens, _facts(split, rows))

    def _pooled(self, run: Run, text: LabelledText, calibration: Calibration) -> Pooled:
        """One pass over the texts of one side, no further than the last site that is read or written."""
        n_texts, pool = len(text.labels), run.config.probing.pooling
        found = Pooled(
            {subject.reads: PooledSite(n_texts, pool) for subject in self.subjects},
            {subject.name: PooledSubject(n_texts, pool) for subject in self.subjects},
        )
        request = PassRequest(
            self.subjects,
            {stack: [item] for stack, item in found.sites.items()},
            {name: [item] for name, item in found.subjects.items()},
        )
        batches = text.stream.batches(run.config.batch_size)
        run_pass(
            run.models,
            watched(batches, n_texts, len(self.subjects)),
            request,
            calibration=calibration,
        )
        return found

    def _details(self, run: Run, subject: Subject, probes: Sequence[TaskProbes]) -> dict[str, Any]:
        """The tables, after how they were made and what each arm is."""
        reads, writes = (" | ".join(map(str, stack)) for stack in (subject.reads, subject.writes))
        features = {
            "baseline": f"x at {reads}",
            "latents": f"{subject.sae.cfg.d_sae:,} codes",
            "reconstruction": f"x̂ for {writes}",
        }
        return details(probes, protocol=protocol(run), features=features)


def _facts(split: Split, rows: Sequence[PooledSubject]) -> dict[str, Any]:
    """What was read of both sides of a task: texts left out, texts without a token, digests."""
    sides = ("train", "test")
    return {
        "n_dropped": {side: part.n_dropped for side, part in zip(sides, split, strict=True)},
        "n_empty": {side: item.n_empty for side, item in zip(sides, rows, strict=True)},
        "data": {side: part.describe() for side, part in zip(sides, split, strict=True)},
    }
