"""How far single latents tell the two classes of each concept apart, beside what chance gives."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from saebench.errors import SaebenchError
from saebench.measure.cases import (
    Case,
    CaseJob,
    identified,
    make_case_record,
    refusal,
    unmeasured,
)
from saebench.measure.concepts.findings import TRAIN, Activations, CaseFindings, Texts
from saebench.measure.concepts.results import measurements
from saebench.measure.concepts.rows import ConceptRows, opened, pool_of, rows_of
from saebench.measure.jobs import Pass
from saebench.measure.run import Run
from saebench.passes import Calibration, Stack
from saebench.record import Record

PART = "concepts"


def identity(run: Run, case: Case) -> dict[str, Any]:
    """What the statistics depend on beside the run's own: the protocol, and every text and label."""
    return {PART: {"protocol": protocol(run), "concept": opened(run, case.case).digest}}


def protocol(run: Run) -> dict[str, Any]:
    """How texts become rows, and how chance is reckoned."""
    asked = run.config.concept_statistics.to_json()
    return {**asked, "pooling": pool_of(run), "length": run.concept_length}


class ConceptsJob(CaseJob):
    """Separates the classes of each concept by the latents of every case, on texts of its own."""

    def finish(self, run: Run, done: Pass) -> Iterator[Record]:
        """Concept by concept: its rows, what checkpoints at a stack share, then each case."""
        for concept, cases in self.by_case():
            started = time.perf_counter()
            try:
                rows = rows_of(run, concept, done.calibration)
                texts = Texts.of(rows)
            except SaebenchError as error:
                for case in cases:
                    yield _without_numbers(run, case, error, done.calibration)
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
        return _without_numbers(run, case, error, calibration)
    found_texts, exchange = rows.opened, texts.labels[TRAIN].exchange
    concept = {
        "name": found_texts.name,
        "classes": list(found_texts.classes),
        "positive": found_texts.positive,
        "facts": dict(found_texts.facts),
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
        identity=identified(run, case, PART, identity),
        passes=rows.calls,
        seconds=time.perf_counter() - started,
        calibration=calibration,
        policy={"resampling": exchange.resampled_unit, "permuted": exchange.kind},
    )


def _without_numbers(
    run: Run, case: Case, error: SaebenchError, calibration: Calibration
) -> Record:
    """The record of a case that nothing can be measured on.

    It names the precision of the model where that is not the usual one.
    """
    refused, regime = refusal(error), run.specs[0].precision
    if regime != "float32":
        refused["reason"] += f" The model ran in {regime}."
    return unmeasured(run, case, PART, refused, identity=identity, calibration=calibration)
