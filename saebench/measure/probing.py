"""Linear probes on the labelled texts of each task: activations, latents and reconstructions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
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
from saebench.probing import TaskLabels, TaskProbes, details, measurements, units
from saebench.probing.logistic import TOLERANCE
from saebench.record import Record

PART = "probing"
ROWS = 64  # texts read at a time where no model runs
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
    if found["classifier"] == "logistic":
        found["tolerance"] = TOLERANCE
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


def shared_test_texts(tasks: Mapping[str, Split]) -> list[dict[str, Any]]:
    """The pairs of ``tasks`` that share test texts, token by token, and how many.

    Tasks are resampled as if they were independent, which those are not.
    """
    texts = {name: _texts(split[1]) for name, split in tasks.items()}
    pairs = ((a, b, len(texts[a] & texts[b])) for a, b in combinations(texts, 2))
    return [{"tasks": [a, b], "n_texts": n} for a, b, n in pairs if n]


def _texts(text: LabelledText) -> set[bytes]:
    """The SHA-256 of the tokens of each text."""
    return {
        sha256(ids[mask].numpy().astype("<i8").tobytes()).digest()
        for batch in text.stream.batches(ROWS)
        for ids, mask in zip(batch.ids, batch.attention_mask, strict=True)
    }


@dataclass(frozen=True)
class Pooled:
    """The pooled rows of one side of a task, at every stack that is read and for every checkpoint."""

    sites: Mapping[Stack, PooledSite]
    subjects: dict[str, PooledSubject]


class ProbingJob:
    """Trains and scores the probes of every target; nothing of it is on the run's own text."""

    def __init__(self, run: Run, targets: Sequence[Target]) -> None:
        self.targets = targets
        self.subjects = [run.subject(target) for target in targets]
        self.site_observers: Mapping[Stack, Sequence[SiteObserver]] = {}
        self.subject_observers: Mapping[str, Sequence[SubjectObserver]] = {}

    def finish(self, run: Run, done: Pass) -> Iterator[Record]:
        """One pass over the train and one over the test texts of each task, then the records.

        What finished tasks gave is in memory until then: a run that is stopped probes all of them again.
        """
        before, started = calls(run.models), time.perf_counter()
        shared = shared_test_texts(tasks_of(run))
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
                details={PART: self._details(run, subject, found[target.name], shared)},
                model=model_identity(run.models),
                data=run.stream.describe(),
                policy={
                    **run.policy,
                    "resampling": units([one.labels.resamples for one in found[target.name]]),
                    "calibration_tokens": done.calibration.n_tokens,
                },
                passes=dict(passes),
                seconds=seconds,
                calibration=done.calibration,
            )

    def _probe(
        self, run: Run, name: str, split: Split, calibration: Calibration
    ) -> Iterator[tuple[str, TaskProbes]]:
        """The probes of every checkpoint on one task; the baseline of a site is fitted once.

        The pooled rows of all checkpoints are held at once, as they come from one pass; those of a checkpoint
        go as soon as it has been probed.
        """
        asked = run.config.probing
        labels = TaskLabels(
            name,
            split[0].classes,
            *(part.labels for part in split),
            classifier=asked.classifier,
            seed=asked.seed,
            documents=split[1].documents,
        )
        train, test = (self._pooled(run, part, calibration) for part in split)
        baselines = {
            stack: labels.probe(train.sites[stack].x, test.sites[stack].x) for stack in train.sites
        }
        for subject in self.subjects:
            rows = train.subjects.pop(subject.name), test.subjects.pop(subject.name)
            arms = {
                "baseline": baselines[subject.reads],
                "latents": labels.probe(*(item.latents for item in rows)),
                "reconstruction": labels.probe(*(item.x_hat for item in rows)),
            }
            n_tokens, facts = int(rows[1].n_counted.sum()), _facts(split, rows)
            del rows
            yield subject.name, TaskProbes(labels, arms, n_tokens, facts)

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

    def _details(
        self,
        run: Run,
        subject: Subject,
        probes: Sequence[TaskProbes],
        shared: Sequence[Mapping[str, Any]],
    ) -> dict[str, Any]:
        """The tables, after how they were made and what each arm is."""
        reads, writes = (" | ".join(map(str, stack)) for stack in (subject.reads, subject.writes))
        features = {
            "baseline": f"x at {reads}",
            "latents": f"{subject.sae.cfg.d_sae:,} codes",
            "reconstruction": f"x̂ for {writes}",
        }
        return details(
            probes, protocol=protocol(run), features=features, shared_test_texts=list(shared)
        )


def _facts(split: Split, rows: Sequence[PooledSubject]) -> dict[str, Any]:
    """What was read of both sides of a task: texts left out, texts without a token, digests."""
    sides = ("train", "test")
    return {
        "n_dropped": {side: part.n_dropped for side, part in zip(sides, split, strict=True)},
        "n_empty": {side: item.n_empty for side, item in zip(sides, rows, strict=True)},
        "data": {side: part.describe() for side, part in zip(sides, split, strict=True)},
    }
