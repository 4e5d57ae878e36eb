"""Cases: a checkpoint under a variant of its model, or on a concept, each with a record of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from saebench.config.defaults import about
from saebench.errors import SaebenchError
from saebench.grouping import case_name, case_names
from saebench.measure.jobs import Job
from saebench.measure.records import identity as model_identity
from saebench.measure.records import make_record
from saebench.measure.run import Run, Target
from saebench.metrics.catalogue import FAMILIES
from saebench.passes import Calibration, Subject
from saebench.record import Measurement, Record


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


@dataclass(frozen=True)
class CasePart:
    """A part of a run that is about cases: its suite, what its numbers depend on, its job."""

    suite: str
    identity: Callable[[Run, str], Mapping[str, Any]]
    job: Callable[[Run, Sequence[Case]], Job]

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
        identities = {
            name: self._identity(run, name) for name in case_names(run.config, self.suite)
        }
        return {
            case.name: run.key(case.target, self.suite, identities[case.case])
            for case in self.cases(run)
        }

    def _identity(self, run: Run, case: str) -> Mapping[str, Any]:
        try:
            return {"case": case, **self.identity(run, case)}
        except SaebenchError as error:
            return {"case": case, "failed": str(error)}


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


def reason_of(error: SaebenchError) -> str:
    """An error as the reason why something was not measured: what was found, and the next step."""
    return f"{error.asked}: {error.found}. {error.next_step}"


def with_names(record: Record, case: Case) -> Record:
    """A kept record under the names that the case goes by in this run."""
    here = {
        "name": case.name,
        "of": case.target.name,
        "case": case.case,
        "reference": str(case.target.checkpoint.reference),
    }
    return replace(record, checkpoint={**record.checkpoint, **here})


def names_of(records: Iterable[Record], checkpoint: str) -> list[Record]:
    """The records of cases of one checkpoint."""
    return [record for record in records if record.checkpoint.get("of") == checkpoint]
