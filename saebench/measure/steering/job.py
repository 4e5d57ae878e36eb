"""Steering on each concept: along a direction of its training texts, while the model goes on from prompts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from saebench.errors import CheckpointError, SaebenchError
from saebench.labelling import Rules, load_rules
from saebench.measure.cases import (
    Case,
    CaseJob,
    identified,
    make_case_record,
    not_measured,
    once,
    refusal,
)
from saebench.measure.concepts.rows import opened, pool_of, rows_of
from saebench.measure.jobs import Pass, calls
from saebench.measure.run import Run
from saebench.measure.steering.case import CaseRun, Reader
from saebench.measure.steering.plan import Plan, Size, direction_of
from saebench.measure.steering.prompts import Prompts, concept_named, prompts_of
from saebench.passes import Calibration, Reading, Subject
from saebench.record import Measurement, Record
from saebench.steering.interventions import linear_decoded
from saebench.steering.outcomes import class_tokens
from saebench.steering.results import Found, measurements
from saebench.steering.teacher_forced import mean_norm

PART = "steering"


def identity(run: Run, case: Case) -> dict[str, Any]:
    """What the numbers depend on beside the run's own: the protocol, the texts, the rules, the prompts."""
    rules, texts = _rules(run, case.case), opened(run, case.case)
    return {
        PART: {
            "protocol": protocol(run),
            "concept": texts.digest,
            "positive": texts.positive,
            "rules": None if rules is None else rules.digest,
            "prompts": _prompts(run, case.case).digest,
        }
    }


def protocol(run: Run) -> dict[str, Any]:
    """How models are steered, and how training texts become rows, without where the prompts lie."""
    found = run.config.steering.to_json()
    del found["prompts"]
    statistics = run.config.concept_statistics
    return {
        **found,
        "min_firings": statistics.min_firings,
        "pooling": pool_of(run),
        "length": run.concept_length,
    }


class SteeringJob(CaseJob):
    """Steers along a direction of every case; nothing of it is on the run's own text."""

    def finish(self, run: Run, done: Pass) -> Iterator[Record]:
        """A record for each case, those that cannot be steered included; the unsteered run is shared."""
        for concept, cases in self.by_case():
            shared = Concept(run, concept)
            for case in cases:
                yield _record(run, case, shared, done.calibration)


@dataclass
class Concept:
    """What the cases of one concept share: prompts, rules, and the completions without steering."""

    run: Run
    name: str

    @cached_property
    def prompts(self) -> Prompts:
        """The prompts; raises :class:`DataError` where there are none."""
        return _prompts(self.run, self.name)

    @cached_property
    def _readers(self) -> dict[int, Reader]:
        return {}

    def reader(self, model: int) -> Reader:
        """How completions of one of the run's models are made and read."""
        if model not in self._readers:
            run, texts = self.run, opened(self.run, self.name)
            asked, rules = run.config.steering, _rules(run, self.name)
            self._readers[model] = Reader(
                run.models[model],
                self.prompts,
                rules,
                texts.classes,
                texts.positive,
                class_tokens(rules, run.tokenizer, texts.positive),
                asked.max_new_tokens,
                asked.temperature,
                asked.seed,
                run.config.batch_size,
            )
        return self._readers[model]


def _record(run: Run, case: Case, shared: Concept, calibration: Calibration) -> Record:
    """The record of one case; where it cannot be measured, with the reason."""
    before, started = calls(run.models), time.perf_counter()
    subject = run.subject(case.target)
    found: dict[str, Measurement]
    try:
        found, details = _measured(run, subject, shared, calibration)
    except SaebenchError as error:
        details = refusal(error)
        found = not_measured(PART, details["reason"])
    return make_case_record(
        run,
        case,
        PART,
        subject,
        found,
        details=details,
        identity=identified(run, case, PART, identity),
        passes=dict(calls(run.models) - before),
        seconds=time.perf_counter() - started,
        calibration=calibration,
        policy={"resampling": "prompts"},
    )


def _measured(
    run: Run, subject: Subject, shared: Concept, calibration: Calibration
) -> tuple[dict[str, Measurement], dict[str, Any]]:
    """Measurements and tables of one case; raises where the checkpoint or the texts do not serve."""
    asked = run.config.steering
    sae, reading = linear_decoded(subject.sae), _single(subject)
    rows = rows_of(run, shared.name, calibration)
    direction = direction_of(subject, rows, asked, run.config.concept_statistics.min_firings)
    reader = shared.reader(reading.model)
    norm = mean_norm(reader.model, reading.site, reader.clean, batch_size=reader.batch_size)
    plan = Plan(sae, reading, direction, Size.of(sae, direction, asked, norm), asked)
    made = CaseRun(reader, plan)
    found = Found.of(made.sweep(), draws=asked.n_permutations, seed=asked.seed)
    cosines = direction.cosines()
    values = measurements(
        found, cosines["mean_difference"], n_tokens=made.n_tokens, seed=asked.seed
    )
    tokens = reader.tokens.describe(run.tokenizer)
    details = {
        "protocol": protocol(run),
        "site": str(reading),
        "classes": list(reader.classes),
        "positive": reader.positive,
        "direction": direction.to_json(),
        "scale": {"value": plan.size.value, "is": plan.size.words, "mean_norm": norm},
        "cosines": {name: cosine.to_json() for name, cosine in cosines.items()},
        "prompts": {**shared.prompts.facts, "digest": shared.prompts.digest},
        "tokens": tokens,
        "control_names": [control.name for control in found.sweep.controls],
        **found.to_json(),
        "examples": made.shown,
    }
    return values, details


def _single(subject: Subject) -> Reading:
    """The one activation that is read and written; raises :class:`CheckpointError` for anything else."""
    first, *others = subject.reads
    if not others and subject.reads == subject.writes and first.minus is None:
        return first
    raise CheckpointError(
        "one site that is read and written, which steering needs",
        " | ".join(map(str, subject.reads)) + " → " + " | ".join(map(str, subject.writes)),
        "Steer with an SAE, not with a transcoder or crosscoder.",
    )


def _rules(run: Run, concept: str) -> Rules | None:
    """The rules of a concept, None where it has none."""
    path = concept_named(run, concept).rules
    return once(run, "rules", path, lambda: load_rules(path)) if path else None


def _prompts(run: Run, concept: str) -> Prompts:
    """The prompts of a concept, read once in a run."""
    return once(run, "prompts", concept, lambda: prompts_of(run, concept))
