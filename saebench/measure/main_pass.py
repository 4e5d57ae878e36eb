"""What all checkpoints of a run are measured for on its own text, in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from saebench.evals import ReconstructionEval, SiteEval, SparsityEval
from saebench.evals.reconstruction import transcoder_baseline
from saebench.measure.jobs import Pass
from saebench.measure.records import identity as model_identity
from saebench.measure.records import make_record
from saebench.measure.run import SEED, Run, Target, families
from saebench.passes import Stack, Subject, SubjectObserver
from saebench.record import Measurement, Record


def identity(run: Run) -> Mapping[str, Any]:
    """Which families of metrics are observed."""
    return {"suites": sorted(families(run.config))}


class MainJob:
    """Reconstruction, predictions, sparsity and dead latents of every target."""

    def __init__(self, run: Run, targets: Sequence[Target]) -> None:
        self.targets = targets
        self.subjects = [run.subject(target) for target in targets]
        device = run.models[0].device
        predictions = "reconstruction" in families(run.config)
        self.sites = {subject.writes: SiteEval(subject.writes) for subject in self.subjects}
        self.firing = {s.name: SparsityEval(s.sae.cfg.d_sae, device) for s in self.subjects}
        self.rebuilt = {
            s.name: ReconstructionEval(
                self.sites[s.writes], s.sae.cfg.width_out, predictions=predictions
            )
            for s in self.subjects
        }

    @property
    def site_observers(self) -> Mapping[Stack, Sequence[SiteEval]]:
        """Sums over each stack that is written."""
        return {stack: [item] for stack, item in self.sites.items()}

    @property
    def subject_observers(self) -> Mapping[str, Sequence[SubjectObserver]]:
        """Errors and firings of each checkpoint."""
        return {s.name: [self.rebuilt[s.name], self.firing[s.name]] for s in self.subjects}

    def finish(self, run: Run, done: Pass) -> Iterator[Record]:
        """The records of the targets."""
        n_sequences = run.stream.n_sequences or 0
        for target, subject in zip(self.targets, self.subjects, strict=True):
            firing, site = self.firing[target.name], self.sites[subject.writes]
            found = self.rebuilt[target.name].measurements(n_sequences=n_sequences, seed=SEED)
            found |= firing.measurements(n_sequences=n_sequences, seed=SEED)
            found |= _baselines(subject, site, found["l0@1"].value, n_sequences)
            yield make_record(
                run.key(target, "", identity(run)),
                target,
                subject,
                found,
                curves=firing.curves(),
                model=model_identity(run.models),
                data=run.stream.describe(),
                policy={**run.policy, "calibration_tokens": done.calibration.n_tokens},
                passes=dict(done.calls),
                seconds=done.seconds,
                calibration=done.calibration,
            )


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
