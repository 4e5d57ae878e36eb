"""Parts of a run and the jobs that measure them, sharing one pass over the run's own text."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from saebench.data import Batch
from saebench.errors import ModelError
from saebench.measure.progress import watched
from saebench.measure.run import Run, Target, place, sae_dtype_used
from saebench.models import LanguageModel
from saebench.passes import (
    CALIBRATION_SEQUENCES,
    Calibration,
    PassRequest,
    Reading,
    SiteObserver,
    Stack,
    SubjectObserver,
    run_pass,
)
from saebench.record import Record


@dataclass(frozen=True)
class Pass:
    """The pass over the run's own text: its calibration, model calls and seconds."""

    calibration: Calibration
    calls: Mapping[str, int]
    seconds: float


class Job(Protocol):
    """What one part of a run observes on the run's own text, and what it makes of it afterwards.

    The observers are by stack, and by the name of the target; both may be empty.
    """

    @property
    def targets(self) -> Sequence[Target]:
        """The checkpoints it measures."""
        ...

    @property
    def site_observers(self) -> Mapping[Stack, Sequence[SiteObserver]]:
        """Who watches stacks."""
        ...

    @property
    def subject_observers(self) -> Mapping[str, Sequence[SubjectObserver]]:
        """Who watches checkpoints."""
        ...

    def finish(self, run: Run, done: Pass) -> Iterator[Record]:
        """The records; other texts are read here, under the calibration of the run's own."""
        ...


@dataclass(frozen=True)
class Part:
    """A part of a run: its name in records, what its numbers depend on beside the run's own, its job."""

    name: str
    identity: Callable[[Run], Mapping[str, Any]]
    job: Callable[[Run, Sequence[Target]], Job]

    def keys(self, run: Run) -> dict[str, str]:
        """The key of the record of each target."""
        identity = self.identity(run)
        return {target.name: run.key(target, self.name, identity) for target in run.targets}


def run_jobs(run: Run, jobs: Sequence[Job]) -> Iterator[Record]:
    """One pass over the run's own text for all jobs together, then what each makes of it.

    Without anything to observe, no more is read than thresholds that have to be estimated take.
    """
    sites: dict[Stack, list[SiteObserver]] = defaultdict(list)
    subjects: dict[str, list[SubjectObserver]] = defaultdict(list)
    for job in jobs:
        for stack, site_observers in job.site_observers.items():
            sites[stack] += site_observers
        for name, observers in job.subject_observers.items():
            subjects[name] += observers
    wanted = {target.name: target for job in jobs for target in job.targets}
    request = PassRequest([run.subject(target) for target in wanted.values()], sites, subjects)
    done = _over_own_text(run, request, whole=bool(sites or subjects))
    for job in jobs:
        yield from job.finish(run, done)


def _over_own_text(run: Run, request: PassRequest, *, whole: bool) -> Pass:
    models, stream = run.models, run.stream
    for subject in request.subjects:
        place(subject.sae, models[0].device, sae_dtype_used(run.config))
    before, started = calls(models), time.perf_counter()
    batches = stream.batches(run.config.batch_size)
    if whole:
        batches = watched(batches, stream.n_sequences, len(request.subjects))
    else:
        batches = _first(batches)
    calibration = run_pass(models, batches, request)
    check_finite(models, calibration)
    return Pass(calibration, calls(models) - before, time.perf_counter() - started)


def check_finite(models: Sequence[LanguageModel], calibration: Calibration) -> None:
    """Raise :class:`ModelError` where one of several models has activations that are not finite.

    Every figure about all of them would have no value, and none would say which model it is due to.
    """
    finite = {item: bool(mean.isfinite().all()) for item, mean in calibration.means.items()}
    if len(models) == 1 or all(finite.values()):
        return
    broken = next(item for item in finite if not finite[item])
    alone = {number: finite.get(Reading(broken.site, number)) for number in broken.models}
    # of a difference, the model that is not finite by itself; where that is not known, any that may be
    guilty = [number for number, well in alone.items() if well is False]
    guilty = guilty or [number for number, well in alone.items() if not well]
    raise ModelError(
        f"finite activations at {broken.site} of {' or '.join(models[n].id for n in guilty)}",
        f"NaN or infinite values in the first {calibration.n_sequences} sequences",
        "Run it in float32 or bfloat16 (precision = in its [model] table), or choose an earlier site.",
    )


def _first(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches that hold the sequences which a calibration is made of."""
    for batch in batches:
        yield batch
        if int(batch.sequence_ids[-1]) + 1 >= CALIBRATION_SEQUENCES:
            return


def calls(models: Sequence[LanguageModel]) -> Counter[str]:
    """How often each part of the models has run."""
    return sum((Counter(model.calls) for model in models), Counter())
