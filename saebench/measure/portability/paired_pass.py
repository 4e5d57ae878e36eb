"""One pass over the run's text through the reference and some variants of it, for all their cases."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from saebench.evals.portability import (
    DivergenceEval,
    ModelEval,
    SpreadEval,
    VariantEval,
)
from saebench.measure.cases import Case
from saebench.measure.jobs import calls
from saebench.measure.portability.variants import (
    FoundVariant,
    Refusal,
    place_native,
    subject_on,
)
from saebench.measure.progress import watched
from saebench.measure.run import SEED, Run, Target
from saebench.metrics.definitions import definition
from saebench.metrics.portability import results
from saebench.metrics.portability.results import PREFIX, Found
from saebench.models import LanguageModel
from saebench.passes import Calibration, PassRequest, Stack, Subject, SubjectObserver, run_pass
from saebench.record import Measurement

LOST = "predictions that are not finite"
NATIVE_REMEDY = (
    "its codes or reconstructions overflow. Check its weights, or measure with --sae-dtype float32"
)


@dataclass(frozen=True)
class OpenVariant:
    """A variant in memory, and its place among the models of the pass."""

    found: FoundVariant
    model: LanguageModel
    number: int


@dataclass
class PairedPass:
    """The observers of some variants beside the reference, and what they found.

    ``refused`` holds the cases that a variant has no activation for, by name.
    """

    run: Run
    variants: Sequence[OpenVariant]
    cases: Sequence[Case]
    refused: dict[str, Refusal] = field(default_factory=dict)
    calls: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    calibration: Calibration = field(init=False)

    def __post_init__(self) -> None:
        """Make the observers."""
        self.models = (self.run.models[0], *(item.model for item in self.variants))
        self.before, self.started = calls(self.models), time.perf_counter()
        self.by_name = {item.found.variant.name: item for item in self.variants}
        self.spreads: dict[Stack, SpreadEval] = {}
        self.subjects: dict[str, Subject] = {}
        self.references: dict[str, ModelEval] = {}
        self.evals: dict[str, VariantEval] = {}
        self.natives: dict[str, ModelEval | str] = {}
        self.on_native: dict[str, ModelEval] = {}
        self.divergences = {
            item.number: DivergenceEval()
            for item in self.variants
            if item.model.vocab_size == self.models[0].vocab_size
        }
        placed = {case.name: self._placed(case) for case in self.cases}
        live = [case for case in self.cases if isinstance(placed[case.name], Subject)]
        for (
            case
        ) in live:  # all references stand before any variant: they are shown each batch first
            self._add_reference(case.target)
        for case in live:
            subject = placed[case.name]
            assert isinstance(subject, Subject)
            self._add_variant(case, subject)

    def read(self) -> None:
        """Read the run's text once; raises what :func:`saebench.passes.run_pass` does."""
        stream = self.run.stream
        observers: dict[str, list[SubjectObserver]] = {
            name: [item]
            for part in (self.references, self.evals, self.on_native)
            for name, item in part.items()
        }
        request = PassRequest(
            list(self.subjects.values()),
            {stack: [item] for stack, item in self.spreads.items()},
            observers,
            {(0, number): [item] for number, item in self.divergences.items()},
        )
        batches = watched(
            stream.batches(self.run.config.batch_size), stream.n_sequences, len(self.subjects)
        )
        self.calibration = run_pass(self.models, batches, request)

    def count(self) -> None:
        """Note how often the models ran since the observers were made, and how long it took."""
        self.calls = dict(calls(self.models) - self.before)
        self.seconds = time.perf_counter() - self.started

    def subject_of(self, case: Case) -> Subject | None:
        """The checkpoint of a case on its variant, None where that has no such activation."""
        return self.subjects.get(_name(case, self))

    def found(self, case: Case) -> Found | Refusal:
        """What was measured of one case."""
        if case.name in self.refused:
            return self.refused[case.name]
        item, variant = self.evals[_name(case, self)], self.by_name[case.case]
        sides = (
            (item.reference, "the reference", self.models[0]),
            (item.variant, case.case, variant.model),
        )
        for side, where, model in sides:
            if (lost := _overflow(side, where, _remedy(model))) is not None:
                return Refusal(lost)
        native = self._finite_native(case)
        sums = native.sums if isinstance(native, ModelEval) else None
        found = results.measurements(
            item.both(sums),
            self.run.config.portability,
            n_sequences=self.run.stream.n_sequences or 0,
            fixed_k=getattr(getattr(case.target.checkpoint.sae, "activation", None), "k", None),
            seed=SEED,
        )
        found.measurements |= self._predictions(item, variant)
        if isinstance(native, str):
            found.measurements |= missing(("fve_native", "transfer_gap"), native)
        return found

    def _finite_native(self, case: Case) -> ModelEval | str:
        """The checkpoint trained on the variant, or why it has no numbers."""
        native = self.natives[case.name]
        if isinstance(native, str):
            return native
        where = f"{case.case} with the checkpoint trained on it"
        return _overflow(native, where, NATIVE_REMEDY) or native

    def _predictions(self, item: VariantEval, variant: OpenVariant) -> dict[str, Measurement]:
        """What both models predict, clean and with the reconstruction spliced in."""
        sides = item.reference, item.variant
        divergence = self.divergences.get(variant.number)
        lost = sum(
            counted.predictions
            for side in sides
            for counted in (side.not_finite, side.spread.not_finite)
        )
        lost += divergence.not_finite.predictions if divergence is not None else 0
        if lost:
            why = f"{LOST} under {variant.found.label}: {_remedy(variant.model)}"
            return missing(PREDICTED, why)
        n_sequences, n_readings = self.run.stream.n_sequences or 0, len(item.variant.spread.stack)
        floors = [side.spread.floors for side in sides]
        found = results.predictions(
            floors[0],
            floors[1],
            divergence.sums if divergence is not None else None,
            n_sequences=n_sequences,
            n_readings=n_readings,
            seed=SEED,
        )
        for on_variant, side in enumerate(sides):
            found |= results.spliced(
                floors[on_variant],
                side.spliced,
                on_variant=bool(on_variant),
                n_sequences=n_sequences,
                n_readings=n_readings,
                seed=SEED,
            )
        if divergence is None:
            sizes = f"{self.models[0].vocab_size:,} and {variant.model.vocab_size:,} logits"
            found |= missing(("kl", "kl_reverse"), f"the models have {sizes} per token")
        return found

    def _placed(self, case: Case) -> Subject | Refusal:
        """The checkpoint on the variant; a refusal is noted."""
        variant = self.by_name[case.case]
        found = subject_on(variant.model, variant.number, case.target, _name(case, self))
        if isinstance(found, Refusal):
            self.refused[case.name] = found
        return found

    def _spread(self, stack: Stack) -> SpreadEval:
        return self.spreads.setdefault(stack, SpreadEval(stack))

    def _add_reference(self, target: Target) -> None:
        if target.name not in self.references:
            subject = self.run.subject(target)
            self.subjects[target.name] = subject
            self.references[target.name] = ModelEval(self._spread(subject.writes))

    def _add_variant(self, case: Case, subject: Subject) -> None:
        self.subjects[subject.name] = subject
        self.evals[subject.name] = VariantEval(
            self.references[case.target.name],
            self._spread(subject.writes),
            d_sae=subject.sae.cfg.d_sae,
            top_k=self.run.config.portability.top_k,
            device=self.models[0].device,
        )
        self.natives[case.name] = self._native(case, subject)

    def _native(self, case: Case, subject: Subject) -> ModelEval | str:
        """The checkpoint trained on the variant at the same activation, or why it does not serve."""
        variant = self.by_name[case.case]
        name = f"{variant.number} native"
        target = place_native(self.run, variant.found, self.models[0].device)
        if target is None:
            return variant.found.native_refusal or ""
        native = subject_on(variant.model, variant.number, target, name)
        if isinstance(native, Refusal):
            return f"the checkpoint trained on the variant does not fit it: {native.reason}"
        if native.writes != subject.writes:
            places = (" | ".join(map(str, stack)) for stack in (native.writes, subject.writes))
            return "the checkpoint trained on the variant writes {}, and this one {}".format(
                *places
            )
        if name not in self.on_native:
            self.subjects[name] = native
            self.on_native[name] = ModelEval(self._spread(native.writes), predictions=False)
        return self.on_native[name]


PREDICTED = (
    *("ce_reference", "ce_variant", "ce_shift", "kl", "kl_reverse"),
    *("ce_recovered_reference", "ce_recovered", "kl_spliced_reference", "kl_spliced"),
)


def missing(names: Sequence[str], reason: str) -> dict[str, Measurement]:
    """Metrics of portability, by their names without its prefix, that have no value."""
    metrics = [definition(PREFIX + name).metric for name in names]
    return {metric: Measurement(metric, None, reason=reason) for metric in metrics}


def _name(case: Case, within: PairedPass) -> str:
    """The name of a case among subjects, where no checkpoint can have it too."""
    return f"{within.by_name[case.case].number}\n{case.target.name}"


def _overflow(side: ModelEval, where: str, remedy: str) -> str | None:
    """Why nothing is said of a checkpoint under a model; None where all its values are finite."""
    counted = max(side.not_finite, side.spread.not_finite, key=lambda one: one.tokens)
    if not counted.tokens:
        return None
    return (
        f"{counted.tokens:,} of {counted.shown:,} counted tokens have activations that are not finite "
        f"under {where}: {remedy}"
    )


def _remedy(model: LanguageModel) -> str:
    regime = model.regime.precision
    return (
        f"values passed the largest that {regime.compute} holds in the regime {regime}. Run it in bfloat16 "
        "or float32 (a quantised regime with +bf16 or +fp32)"
    )
