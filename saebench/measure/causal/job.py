"""The job of the causal suite: an index of contexts on the run's own text, then ablations at them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from saebench.causal import ContextIndex
from saebench.errors import CheckpointError, ConfigError
from saebench.measure.cases import not_measured, reason_of
from saebench.measure.causal.ablations import Found, measured
from saebench.measure.causal.subjects import Ablated
from saebench.measure.jobs import Pass, calls
from saebench.measure.records import identity as model_identity
from saebench.measure.records import make_record
from saebench.measure.run import Run, Target
from saebench.passes import SiteObserver, Stack, Subject, SubjectObserver, SubjectView
from saebench.record import Record

PART = "causal"


def identity(run: Run) -> dict[str, Any]:
    """What the numbers depend on beside the run's own: the protocol."""
    return {PART: {"protocol": protocol(run)}}


def protocol(run: Run) -> dict[str, Any]:
    """How latents are selected, ablated and compared.

    Raises :class:`ConfigError` where no latent could have as many probes as it needs.
    """
    asked = run.config.causal
    if asked.min_probes > asked.n_probes:
        raise ConfigError(
            f"min_probes = {asked.min_probes} in [causal]",
            f"n_probes = {asked.n_probes} is the most that a latent gets",
            "Raise n_probes, or lower min_probes.",
        )
    return asked.to_json()


class Contexts:
    """Keeps contexts of every latent of one checkpoint, from its codes alone."""

    needs_predictions = False
    needs_reconstruction = False

    def __init__(self, index: ContextIndex) -> None:
        self.index = index

    def update(self, view: SubjectView) -> None:
        """Take in one batch."""
        assert view.positions is not None  # the pass always says it
        self.index.update(view.codes, view.sequence_ids, view.positions)


class CausalJob:
    """Watches codes on the run's own text; ablates afterwards, reading the sequences of the probes again."""

    def __init__(self, run: Run, targets: Sequence[Target]) -> None:
        self.targets = targets
        self.subjects = [run.subject(target) for target in targets]
        self.site_observers: Mapping[Stack, Sequence[SiteObserver]] = {}
        asked, device = run.config.causal, run.models[0].device
        self.ablated: dict[str, Ablated | str] = {s.name: _ablated(s) for s in self.subjects}
        self.contexts = {
            name: Contexts(ContextIndex(one.sae.cfg.d_sae, asked.n_probes, asked.seed, device))
            for name, one in self.ablated.items()
            if isinstance(one, Ablated)
        }

    @property
    def subject_observers(self) -> Mapping[str, Sequence[SubjectObserver]]:
        """The index of each checkpoint that can be ablated."""
        return {name: [observer] for name, observer in self.contexts.items()}

    def finish(self, run: Run, done: Pass) -> Iterator[Record]:
        """Ablate the latents of one checkpoint after another, and give its record."""
        for target, subject in zip(self.targets, self.subjects, strict=True):
            before, started = calls(run.models), time.perf_counter()
            one = self.ablated[target.name]
            if isinstance(one, Ablated):
                # the contexts of a checkpoint go as soon as it has been measured
                found = measured(run, one, self.contexts.pop(target.name).index)
            else:
                found = Found(not_measured(PART, one), {"reason": one})
            yield make_record(
                run.key(target, PART, identity(run)),
                target,
                subject,
                found.measurements,
                part=PART,
                details={PART: {"protocol": protocol(run), **found.details}},
                model=model_identity(run.models),
                data=run.stream.describe(),
                policy={
                    **run.policy,
                    "resampling": "probes, one per sequence, within a latent; latents within a class",
                    "calibration_tokens": done.calibration.n_tokens,
                },
                passes=dict(calls(run.models) - before),
                seconds=time.perf_counter() - started,
                calibration=done.calibration,
            )


def _ablated(subject: Subject) -> Ablated | str:
    """The checkpoint as something to ablate, or the reason why it cannot be."""
    try:
        return Ablated.of(subject)
    except CheckpointError as error:
        return reason_of(error)
