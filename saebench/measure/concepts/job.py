"""How far single latents tell the two classes of each concept apart, beside what chance gives."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from saebench.errors import SaebenchError
from saebench.measure.cases import Case, make_case_record, not_measured, reason_of
from saebench.measure.concepts.findings import TRAIN, Activations, CaseFindings, Texts
from saebench.measure.concepts.results import measurements
from saebench.measure.concepts.rows import ConceptRows, pool_of, rows_of
from saebench.measure.jobs import Pass
from saebench.measure.run import Run, Target
from saebench.passes import Calibration, Stack
from saebench.passes.requests import SiteObserver, SubjectObserver
from saebench.record import Record

PART = "concepts"


def identity(run: Run, case: str) -> dict[str, Any]:
    """What the statistics depend on beside the run's own: the protocol, and every text and label."""
    return {PART: {"protocol": protocol(run), "concept": run.concept(case).digest}}


def protocol(run: Run) -> dict[str, Any]:
    """How texts become rows, and how chance is reckoned."""
    asked = run.config.concept_statistics.to_json()
    return {**asked, "pooling": pool_of(run), "length": run.concept_length}


class ConceptsJob:
    """Separates the classes of each concept by the latents of every case, on texts of its own."""

    def __init__(self, run: Run, cases: Sequence[Case]) -> None:
        self.cases = cases
        self.targets: Sequence[Target] = tuple(
            {case.target.name: case.target for case in cases}.values()
        )
        self.site_observers: Mapping[Stack, Sequence[SiteObserver]] = {}
        self.subject_observers: Mapping[str, Sequence[SubjectObserver]] = {}

    def finish(self, run: Run, done: Pass) -> Iterator[Record]:
        """Concept by concept: its rows, what checkpoints at a stack share, then each case."""
        for concept in dict.fromkeys(case.case for case in self.cases):
            cases = [case for case in self.cases if case.case == concept]
            started = time.perf_counter()
            try:
                rows = rows_of(run, concept, done.calibration)
                texts = Texts.of(rows)
            except SaebenchError as error:
                for case in cases:
                    yield _without_numbers(run, case, _reason(run, error), done.calibration)
                continue
            reading = time.perf_counter() - started
            shared: dict[Stack, Activations] = {}
            for case in cases:
                started = time.perf_counter() - reading
                yield _record(run, case, rows, texts, shared, done.calibration, started)


def _record(
    run: Run,
    case: Case,
    rows: ConceptRows,
    texts: Texts,
    shared: dict[Stack, Activations],
    calibration: Calibration,
    started: float,
) -> Record:
    """The record of one case; activations of a stack are judged for the first checkpoint there."""
    asked, subject = run.config.concept_statistics, run.subject(case.target)
    stack = subject.reads
    try:
        if stack not in shared:
            shared[stack] = Activations.of(stack, texts, asked)
        found = CaseFindings.of(run, subject, texts, shared[stack])
    except SaebenchError as error:
        return _without_numbers(run, case, _reason(run, error), calibration)
    opened, exchange = rows.opened, texts.labels[TRAIN].exchange
    concept = {
        "name": opened.name,
        "classes": list(opened.classes),
        "positive": opened.positive,
        "facts": dict(opened.facts),
    }
    return make_case_record(
        run,
        case,
        PART,
        subject,
        measurements(found),
        details={
            "protocol": protocol(run),
            "concept": concept,
            "data": {name: split.text.describe() for name, split in texts.splits.items()},
            "read": " | ".join(map(str, stack)),
            **found.to_json(),
        },
        identity=identity(run, case.case),
        passes=rows.calls,
        seconds=time.perf_counter() - started,
        calibration=calibration,
        policy={"resampling": exchange.resampled_unit, "permuted": exchange.kind},
    )


def _without_numbers(run: Run, case: Case, reason: str, calibration: Calibration) -> Record:
    """The record of a case that nothing can be measured on."""
    try:
        known = identity(run, case.case)
    except SaebenchError as error:  # as the key of such a case says
        known = {"failed": str(error)}
    return make_case_record(
        run,
        case,
        PART,
        run.subject(case.target),
        not_measured(PART, reason),
        details={"reason": reason},
        identity=known,
        passes={},
        seconds=0.0,
        calibration=calibration,
    )


def _reason(run: Run, error: SaebenchError) -> str:
    """Why there are no numbers, with the precision of the model where that is not the usual one."""
    regime = run.specs[0].precision
    ran = "" if regime == "float32" else f" The model ran in {regime}."
    return f"{reason_of(error)}{ran}"
