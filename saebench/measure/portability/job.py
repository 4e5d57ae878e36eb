"""Portability of checkpoints: the same tokens through the model of the run and through variants of it.

Variants are in memory beside the reference, as many at once as the protocol says or else as are likely to
fit, and all their cases share one pass. A variant that cannot be had costs its own cases only.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from saebench.errors import ModelError
from saebench.measure.cases import Case, make_case_record, not_measured, reason_of
from saebench.measure.jobs import Pass
from saebench.measure.portability.failures import is_of_forward
from saebench.measure.portability.memory import Room
from saebench.measure.portability.paired_pass import OpenVariant, PairedPass
from saebench.measure.portability.separation import Rows, add_concepts
from saebench.measure.portability.separation import identity as concepts_identity
from saebench.measure.portability.training_text import without_training_text
from saebench.measure.portability.variants import (
    FoundVariant,
    Refusal,
    find_variant,
    misfit,
    open_variant,
    take_off,
    too_large,
)
from saebench.measure.portability.variants import identity as variant_identity
from saebench.measure.run import Run, Target
from saebench.metrics.definitions import definition
from saebench.metrics.portability.results import PREFIX, Found
from saebench.models import LanguageModel
from saebench.models.failures import first_line
from saebench.models.weights import ran_out_of_memory
from saebench.passes import Calibration, SiteObserver, Stack, SubjectObserver
from saebench.record import Measurement, Record

PART = "portability"


def identity(run: Run, case: str) -> dict[str, Any]:
    """What the numbers of a variant depend on: its digest and regime, the protocol, a checkpoint of it."""
    protocol = run.config.portability.to_json()
    del protocol["at_once"]  # which changes what is in memory, and no number
    found = {"protocol": protocol, "variant": variant_identity(run, find_variant(run, case))}
    return {PART: {**found, **concepts_identity(run)}}


class PortabilityJob:
    """Every case of the run; nothing of it is on the pass that other parts share."""

    def __init__(self, run: Run, cases: Sequence[Case]) -> None:
        self.cases = list(cases)
        own = list({case.target.name: case.target for case in cases}.values())
        # texts of concepts are read for every checkpoint of the run: all are placed and calibrated
        self.targets: Sequence[Target] = run.targets if run.config.concepts else own
        self.site_observers: Mapping[Stack, Sequence[SiteObserver]] = {}
        self.subject_observers: Mapping[str, Sequence[SubjectObserver]] = {}
        self.most: int | None = None  # None: as many as fit

    def finish(self, run: Run, done: Pass) -> Iterator[Record]:
        """The records: at once of what needs no pass, then of as many variants as go together."""
        waiting: list[str] = []
        for name in dict.fromkeys(case.case for case in self.cases):
            found = find_variant(run, name)
            refusals = {case.name: _before_opening(case, found) for case in self._of(name)}
            for case in self._of(name):
                if (refusal := refusals[case.name]) is not None:
                    yield _refused(run, done, case, found, refusal)
            if any(refusal is None for refusal in refusals.values()):
                waiting.append(name)
        self.most = run.config.portability.at_once
        while waiting:
            yield from self._together(run, done, waiting)
            _release()

    def _of(self, name: str) -> list[Case]:
        return [case for case in self.cases if case.case == name]

    def _together(self, run: Run, done: Pass, waiting: list[str]) -> Iterator[Record]:
        """The records of as many of the waiting variants as are in memory at once.

        Where memory runs out with several of them, they come one at a time: no number depends on it.
        """
        opened, failed = self._open(run, waiting)
        for name, refusal in failed.items():
            for case in self._live(run, name):
                yield _refused(run, done, case, find_variant(run, name), refusal)
        if not opened:
            return
        names = [item.found.variant.name for item in opened]
        cases = [case for name in names for case in self._live(run, name)]
        try:
            measured = _measure(run, opened, cases, done.calibration)
        finally:
            for item in opened:
                take_off(item.found)
        if isinstance(measured, Refusal) and len(opened) > 1:
            waiting[:0], self.most = names, 1
            return
        for number, case in enumerate(cases):
            variant = find_variant(run, case.case)
            if isinstance(measured, Refusal):
                yield _refused(run, done, case, variant, measured)
                continue
            paired, results = measured
            found = results[number]
            if isinstance(found, Refusal):
                yield _refused(run, done, case, variant, found, paired)
            else:
                native = variant.native.sae.cfg if variant.native is not None else None
                cfg = case.target.checkpoint.sae.cfg
                shown = without_training_text(found, cfg, native, run.stream)
                yield _record(run, done, case, variant, shown, paired)

    def _open(self, run: Run, waiting: list[str]) -> tuple[list[OpenVariant], dict[str, Refusal]]:
        """The next variants in memory, taken off the list, and why others of them are not."""
        opened: list[OpenVariant] = []
        failed: dict[str, Refusal] = {}
        room = Room.on(run.models[0].device)
        while waiting and (self.most is None or len(opened) < self.most):
            found = find_variant(run, waiting[0])
            assert found.located is not None  # else nothing waits for it
            wanted = found.located, found.spec.precision
            if opened and self.most is None and not room.holds(*wanted):
                break
            model: LanguageModel | Refusal
            try:
                model = open_variant(run, found)
            except torch.OutOfMemoryError:
                if opened:  # it may fit once those are gone
                    break
                model = too_large(found)
            waiting.pop(0)
            if isinstance(model, Refusal):
                failed[found.variant.name] = model
            else:
                opened.append(OpenVariant(found, model, len(opened) + 1))
                room.take(*wanted)
        return opened, failed

    def _live(self, run: Run, name: str) -> list[Case]:
        """The cases of a variant that nothing spoke against before it was opened."""
        found = find_variant(run, name)
        return [case for case in self._of(name) if _before_opening(case, found) is None]


def _measure(
    run: Run, opened: Sequence[OpenVariant], cases: Sequence[Case], own: Calibration
) -> tuple[PairedPass, list[Found | Refusal]] | Refusal:
    """What the variants in memory show of their cases, in order; or why they cannot be run."""
    variant = opened[0].found
    try:
        paired = PairedPass(run, opened, cases)
        if paired.subjects:  # else no variant has the activations
            paired.read()
        results = [paired.found(case) for case in cases]
        rows: Rows = {}
        for case, found in zip(cases, results, strict=True):
            if isinstance(found, Found):
                add_concepts(found, run, paired, case, own, rows)
    except Exception as error:
        if ran_out_of_memory(error):
            return too_large(variant)
        if not is_of_forward(error, [item.model for item in opened]):
            raise
        said = reason_of(error) if isinstance(error, ModelError) else first_line(error)
        advice = "" if isinstance(error, ModelError) else ". Choose another precision or device."
        return Refusal(f"the variant {variant.label} could not be run: {said}{advice}")
    paired.count()
    return paired, results


def _before_opening(case: Case, found: FoundVariant) -> Refusal | None:
    """What speaks against a case before the variant is in memory."""
    if found.refusal is not None or found.located is None:
        return found.refusal
    return misfit(case.target.checkpoint.sae.cfg, found.located)


def _refused(
    run: Run,
    done: Pass,
    case: Case,
    found: FoundVariant,
    refusal: Refusal,
    paired: PairedPass | None = None,
) -> Record:
    """The record of a case without numbers; that nothing can be carried over is a verdict."""
    measured = not_measured(PART, refusal.reason)
    details: dict[str, Any] = {"failed": refusal.reason}
    if refusal.is_result:
        details = {"not_portable": refusal.reason}
        detail = {"verdict": "not portable", "reason": refusal.reason}
        for name in ("portable", "equivalent"):
            metric = definition(PREFIX + name).metric
            measured[metric] = Measurement(metric, 0.0, detail=detail)
    return _record(run, done, case, found, Found(measured, details), paired)


def _record(
    run: Run,
    done: Pass,
    case: Case,
    variant: FoundVariant,
    found: Found,
    paired: PairedPass | None,
) -> Record:
    """The record of one case; what its part does not measure here says so."""
    measured = {**not_measured(PART, "not measured"), **found.measurements}
    opened = paired.by_name[case.case] if paired is not None else None
    details = {
        "variant": {**variant.variant.to_json(), "precision": variant.spec.precision},
        "protocol": run.config.portability.to_json(),
        "fixed_k": case.target.checkpoint.sae.cfg.k,
        "together": len(paired.variants) if paired is not None else 0,
        **({"regime": opened.model.regime.to_json()} if opened is not None else {}),
        **found.details,
    }
    reference = run.models[0].identity()
    model = (
        {**opened.model.identity(), "reference": reference}
        if opened is not None
        else _not_opened(variant, reference)
    )
    return make_case_record(
        run,
        case,
        PART,
        run.subject(case.target),
        measured,
        details=details,
        identity=identity(run, case.case),
        passes=dict(paired.calls) if paired is not None else {},
        seconds=paired.seconds if paired is not None else 0.0,
        calibration=done.calibration,
        policy={"at_once": len(paired.variants) if paired is not None else 0},
        model=model if len(run.models) == 1 else {**model, "others": _others(run)},
    )


def _others(run: Run) -> list[dict[str, Any]]:
    """The models of the run after the first, which no variant replaces."""
    return [model.identity() for model in run.models[1:]]


def _not_opened(variant: FoundVariant, reference: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a variant that is not in memory."""
    located = variant.located
    return {
        "id": located.id if located is not None else variant.spec.ref,
        "revision": located.revision if located is not None else variant.spec.revision,
        "digest": located.digest if located is not None else "",
        "precision": {"regime": variant.spec.precision},
        "reference": reference,
    }


def _release() -> None:
    """Give the memory of variants back before the next ones are read."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
