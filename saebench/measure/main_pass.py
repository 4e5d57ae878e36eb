"""What all checkpoints of a run are measured for on its own text, in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from saebench.evals import ReconstructionEval, SiteEval, SparsityEval
from saebench.evals.reconstruction import transcoder_baseline
from saebench.measure.jobs import Pass
from saebench.measure.records import identity as model_identity
from saebench.measure.records import make_record
from saebench.measure.run import SEED, Run, Target
from saebench.measure.training_samples import without_memory
from saebench.passes import SiteObserver, Stack, Subject, SubjectObserver
from saebench.record import Measurement, Record

PREDICTIONS, ACTIVATIONS, CODES = "predictions", "activations", "codes"
LEVELS = (PREDICTIONS, ACTIVATIONS, CODES)  # each observes all that the next one does


def level(run: Run) -> str:
    """How much has to be observed for the suites asked for."""
    if "reconstruction" in run.config.suites:
        return PREDICTIONS
    return ACTIVATIONS if set(run.config.suites) & {"sparsity", "dead_latents"} else CODES


def identity(run: Run) -> Mapping[str, Any]:
    """What is observed."""
    return {"observed": level(run)}


def keys(run: Run) -> dict[str, str]:
    """The key of each target's record: of one that observed more, where it is there."""
    enough = LEVELS[: LEVELS.index(level(run)) + 1]
    found = {}
    for target in run.targets:
        known = [run.key(target, "", {"observed": one}) for one in enough]
        stored = (key for key in known if run.store.read(key) is not None)
        found[target.name] = next(stored, known[-1])
    return found


class MainJob:
    """Firings of every target and, as far as suites ask for it, reconstruction and predictions."""

    def __init__(self, run: Run, targets: Sequence[Target]) -> None:
        self.targets = targets
        self.subjects = [run.subject(target) for target in targets]
        device, asked = run.models[0].device, level(run)
        self.firing = {s.name: SparsityEval(s.sae.cfg.d_sae, device) for s in self.subjects}
        rebuilt = self.subjects if asked != CODES else []
        self.sites = {subject.writes: SiteEval(subject.writes) for subject in rebuilt}
        self.rebuilt = {
            s.name: ReconstructionEval(
                self.sites[s.writes], s.sae.cfg.width_out, predictions=asked == PREDICTIONS
            )
            for s in rebuilt
        }

    @property
    def site_observers(self) -> Mapping[Stack, Sequence[SiteObserver]]:
        """Sums over each stack that is written."""
        return {stack: [item] for stack, item in self.sites.items()}

    @property
    def subject_observers(self) -> Mapping[str, Sequence[SubjectObserver]]:
        """Errors and firings of each checkpoint."""
        parts: tuple[Mapping[str, SubjectObserver], ...] = (self.rebuilt, self.firing)
        return {s.name: [part[s.name] for part in parts if s.name in part] for s in self.subjects}

    def finish(self, run: Run, done: Pass) -> Iterator[Record]:
        """The records of the targets."""
        for target, subject in zip(self.targets, self.subjects, strict=True):
            yield make_record(
                run.key(target, "", identity(run)),
                target,
                subject,
                without_memory(
                    self._measurements(subject, run.stream.n_sequences or 0),
                    subject.sae.cfg,
                    run.stream,
                ),
                curves=self.firing[target.name].curves(),
                model=model_identity(run.models),
                data=run.stream.describe(),
                policy={**run.policy, "calibration_tokens": done.calibration.n_tokens},
                passes=dict(done.calls),
                seconds=done.seconds,
                calibration=done.calibration,
            )

    def _measurements(self, subject: Subject, n_sequences: int) -> dict[str, Measurement]:
        found: dict[str, Measurement] = {}
        if subject.name in self.rebuilt:
            found |= self.rebuilt[subject.name].measurements(n_sequences=n_sequences, seed=SEED)
        found |= self.firing[subject.name].measurements(n_sequences=n_sequences, seed=SEED)
        if subject.name in self.rebuilt:
            site = self.sites[subject.writes]
            found |= _baselines(subject, site, found["l0@1"].value, n_sequences)
        return found


def _baselines(
    subject: Subject, site: SiteEval, l0: float | None, n_sequences: int
) -> dict[str, Measurement]:
    if subject.reads != subject.writes or l0 is None:
        n_tokens = site.sums.sums.n_tokens
        names = ("fve_pca", "fve_random_init")
        found = [transcoder_baseline(n, n_tokens=n_tokens, n_sequences=n_sequences) for n in names]
        return {item.metric: item for item in found}
    random = site.random_baseline(subject.sae.cfg.d_sae, l0, seed=SEED)
    return {**site.baselines(l0, n_sequences=n_sequences), random.metric: random}
