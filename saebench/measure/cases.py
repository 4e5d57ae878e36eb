"""Cases: a checkpoint under a variant of its model, or on a concept, each with a record of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from saebench.config.defaults import about
from saebench.errors import HubError, MissingExtraError, SaebenchError
from saebench.grouping import case_name, case_names
from saebench.measure.jobs import Job
from saebench.measure.records import identity as model_identity
from saebench.measure.records import make_record
from saebench.measure.run import Run, Target
from saebench.metrics.catalogue import FAMILIES
from saebench.passes import Calibration, Stack, Subject
from saebench.passes.requests import SiteObserver, SubjectObserver
from saebench.record import Measurement, Record

Made = TypeVar("Made")


@dataclass(frozen=True)
class Case:
    """A checkpoint and the ``case`` it is set beside: the name of a variant or of a concept."""

    target: Target
    case: str
    about: str

    @property
    def name(self) -> str:
        """What gates and records call it: ``topk-s0@nf4``, ``topk-s0/obligation``."""
        return case_name(self.target.name, self.case, self.about)


Identity = Callable[[Run, Case], Mapping[str, Any]]


@dataclass(frozen=True)
class CasePart:
    """A part of a run that is about cases: its suite, what its numbers depend on, its job.

    ``retried``: whether a record without values is tried again where its details do not say. ``names``
    gives the names of this run that details of the part hold, which no key knows.
    """

    suite: str
    identity: Identity
    job: Callable[[Run, Sequence[Case]], Job]
    retried: bool = False
    names: Callable[[Run, Case], Mapping[str, Any]] = lambda run, case: {}

    def cases(self, run: Run) -> list[Case]:
        """Every case of a run, in the order of checkpoints."""
        kind = about(self.suite)
        return [
            Case(target, case, kind)
            for target in run.targets
            for case in case_names(run.config, self.suite)
        ]

    def keys(self, run: Run) -> dict[str, str]:
        """The key of the record of each case, by the part and name of the case.

        What cannot be identified (texts that are not there) raises nothing here: the record says why.
        """
        return {case.name: self._key(run, case) for case in self.cases(run)}

    def _key(self, run: Run, case: Case) -> str:
        known = identified(run, case, self.suite, self.identity)
        return run.key(case.target, self.suite, {"case": case.case, **known})

    def to_try_again(self, record: Record) -> bool:
        """Whether a record holds no value for a reason that may have passed: memory, a package, the hub."""
        if any(m.value is not None for m in record.measurements.values()):
            return False
        said = record.details.get(self.suite, {}).get("retry")
        return said if isinstance(said, bool) else self.retried


class CaseJob:
    """A job about cases, of which nothing is on the run's own text.

    Texts of concepts are read for every checkpoint of the run, so that all of them are its ``targets``:
    those are placed and calibrated.
    """

    def __init__(self, run: Run, cases: Sequence[Case]) -> None:
        self.cases = list(cases)
        self.targets: Sequence[Target] = run.targets
        self.site_observers: Mapping[Stack, Sequence[SiteObserver]] = {}
        self.subject_observers: Mapping[str, Sequence[SubjectObserver]] = {}

    def by_case(self) -> Iterator[tuple[str, list[Case]]]:
        """The cases of each variant or concept, in the order given."""
        for name in dict.fromkeys(case.case for case in self.cases):
            yield name, [case for case in self.cases if case.case == name]


def once(run: Run, what: str, name: str, make: Callable[[], Made]) -> Made:
    """What ``make`` gives, or the :class:`SaebenchError` that it raises; made once in a run."""
    kept: dict[str, Any] = run.kept.setdefault(what, {})
    if name not in kept:
        try:
            kept[name] = make()
        except SaebenchError as error:
            kept[name] = error
    if isinstance(kept[name], SaebenchError):
        raise kept[name].with_traceback(None)  # whose frames would hold what they hold
    made: Made = kept[name]
    return made


def identified(run: Run, case: Case, suite: str, identity: Identity) -> Mapping[str, Any]:
    """What the numbers of a case depend on; where that is not to be had, why. Found once in a run."""
    try:
        return once(run, f"identities of {suite}", case.name, lambda: identity(run, case))
    except SaebenchError as error:
        return {"failed": str(error)}


def make_case_record(
    run: Run,
    case: Case,
    part: str,
    subject: Subject,
    measurements: dict[str, Measurement],
    *,
    details: Mapping[str, Any],
    identity: Mapping[str, Any],
    passes: Mapping[str, int],
    seconds: float,
    calibration: Calibration,
    policy: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
) -> Record:
    """The record of one case, whose checkpoint has its ``name``, and says what it is a case ``of``.

    ``identity`` is that of the part, as for the key. ``details`` go under the name of the part.
    """
    record = make_record(
        run.key(case.target, part, {"case": case.case, **identity}),
        case.target,
        subject,
        measurements,
        part=part,
        details={part: dict(details)},
        model=dict(model) if model is not None else model_identity(run.models),
        data=dict(data) if data is not None else run.stream.describe(),
        policy={**run.policy, "calibration_tokens": calibration.n_tokens, **(policy or {})},
        passes=dict(passes),
        seconds=seconds,
        calibration=calibration,
    )
    named = {"name": case.name, "of": case.target.name, "case": case.case}
    return replace(record, checkpoint={**record.checkpoint, **named})


def not_measured(part: str, reason: str) -> dict[str, Measurement]:
    """Every metric of a part, none of which has a value, with the reason."""
    return {item.metric: Measurement(item.metric, None, reason=reason) for item in FAMILIES[part]}


def unmeasured(
    run: Run,
    case: Case,
    part: str,
    refused: Mapping[str, Any],
    *,
    identity: Identity,
    calibration: Calibration,
) -> Record:
    """The record of a case that nothing can be measured of, with what :func:`refusal` says."""
    return make_case_record(
        run,
        case,
        part,
        run.subject(case.target),
        not_measured(part, refused["reason"]),
        details=refused,
        identity=identified(run, case, part, identity),
        passes={},
        seconds=0.0,
        calibration=calibration,
    )


def refusal(error: SaebenchError) -> dict[str, Any]:
    """An error as the details of a case without values: the ``reason``, and whether to ``retry``."""
    return {"reason": reason_of(error), "retry": may_pass(error)}


def may_pass(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, may be gone next time: memory, a package, a file, the hub."""
    passing = (HubError, MissingExtraError, OSError, MemoryError, ImportError)
    while error is not None:
        if isinstance(error, (*passing, torch.OutOfMemoryError)):
            return True
        error = error.__cause__ or error.__context__
    return False


def reason_of(error: SaebenchError) -> str:
    """An error as the reason why something was not measured: what was found, and the next step."""
    return f"{error.asked}: {error.found}. {error.next_step}"


def with_names(record: Record, case: Case, names: Mapping[str, Any]) -> Record:
    """A kept record under the names that the case goes by in this run; ``names`` are those in details."""
    here = {
        "name": case.name,
        "of": case.target.name,
        "case": case.case,
        "reference": str(case.target.checkpoint.reference),
    }
    own = record.details.get(record.part, {})
    own = {**own, **{key: name for key, name in names.items() if key in own}}
    return replace(
        record,
        checkpoint={**record.checkpoint, **here},
        details={**record.details, record.part: own},
    )
