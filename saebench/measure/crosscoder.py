"""The suite of crosscoders over two models: which latents belong to both, and which to one.

Everything is summed in the pass over the run's own text that all parts share. Other checkpoints get a
record without values, which says why.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from saebench.evals.crosscoder import CrosscoderEval, SourcesEval
from saebench.measure.jobs import Pass
from saebench.measure.records import identity as model_identity
from saebench.measure.records import make_record
from saebench.measure.run import SEED, Run, Target
from saebench.metrics.crosscoder.results import unmeasured
from saebench.metrics.crosscoder.sources import NAMES
from saebench.passes import SiteObserver, Stack, Subject, SubjectObserver
from saebench.record import Measurement, Record
from saebench.sae import SAE, Dictionary
from saebench.sae.normalization import Affine, AverageNorm, Normalization

PART = "crosscoder"


def identity(run: Run) -> dict[str, Any]:
    """What the numbers depend on beside the run's own."""
    return {PART: run.config.crosscoder.to_json()}


class CrosscoderJob:
    """Classes and scaling of the latents of every crosscoder over two models."""

    def __init__(self, run: Run, targets: Sequence[Target]) -> None:
        self.targets = targets
        self.subjects = [run.subject(target) for target in targets]
        self.sources: dict[Stack, SourcesEval] = {}
        self.evals: dict[str, CrosscoderEval] = {}
        device = run.models[0].device
        for subject in self.subjects:
            sae = subject.sae
            if why_not(sae) or not isinstance(sae, SAE):
                continue
            sources = self.sources.setdefault(subject.writes, SourcesEval(sae.cfg.width_out))
            self.evals[subject.name] = CrosscoderEval(sae, sources, run.config.crosscoder, device)

    @property
    def site_observers(self) -> Mapping[Stack, Sequence[SiteObserver]]:
        """Moments of each stack that a crosscoder writes."""
        return {stack: [item] for stack, item in self.sources.items()}

    @property
    def subject_observers(self) -> Mapping[str, Sequence[SubjectObserver]]:
        """Errors, firings and scaling of each crosscoder."""
        return {name: [item] for name, item in self.evals.items()}

    def finish(self, run: Run, done: Pass) -> Iterator[Record]:
        """The records of the targets."""
        for target, subject in zip(self.targets, self.subjects, strict=True):
            started = time.perf_counter()
            measured, details = self._results(run, subject)
            yield make_record(
                run.key(target, PART, identity(run)),
                target,
                subject,
                measured,
                part=PART,
                details={PART: details},
                model=model_identity(run.models),
                data=run.stream.describe(),
                policy={**run.policy, "calibration_tokens": done.calibration.n_tokens},
                seconds=time.perf_counter() - started,
                calibration=done.calibration,
            )

    def _results(self, run: Run, subject: Subject) -> tuple[dict[str, Measurement], dict[str, Any]]:
        """The metrics of one checkpoint and its tables; its sums go as soon as they are read."""
        if subject.name not in self.evals:
            reason = why_not(subject.sae)
            return unmeasured(reason), {"reason": reason}
        found = self.evals.pop(subject.name).found()
        measured = found.measurements(n_sequences=run.stream.n_sequences or 0, seed=SEED)
        tables = {
            "protocol": run.config.crosscoder.to_json(),
            "models": [str(model.identity()["id"]) for model in run.models],
            "normalization": factors(subject.sae),
            **found.details(),
        }
        return measured, tables


def why_not(sae: Dictionary) -> str:
    """Why the suite does not apply to a checkpoint; empty for a crosscoder over two models."""
    cfg = sae.cfg
    if cfg.difference is not None:
        return "it reads the difference of two models, not both: the classes are of a crosscoder's latents"
    if cfg.n_sources == 1:
        return "it reads one activation: the classes are of a crosscoder over two models"
    if cfg.n_models == 1:
        return (
            "its sources are layers of one model: the classes are of a crosscoder over two models"
        )
    if cfg.n_models != 2 or cfg.n_sources != 2:
        return f"it reads {cfg.n_sources} models: the classes are defined for two"
    if cfg.n_targets != 2 or cfg.is_transcoder or not isinstance(sae, SAE):
        return "it does not write what it reads: the classes are of a crosscoder over two models"
    return ""


def factors(sae: Dictionary) -> dict[str, Any]:
    """What rows of the decoder were multiplied by to be in units of activations, by model.

    One factor where it is the same for all dimensions, else the least, median and largest.
    """
    norm = sae.normalization
    found: dict[str, Any] = {"name": norm.name, "undone": bool(sae.cfg.undo_normalization)}
    if not sae.cfg.undo_normalization or norm.needs_input:
        return {**found, "undone": False, "factors": None}
    if not isinstance(norm, Affine | AverageNorm):
        plain = type(norm) is Normalization
        return {**found, "factors": {name: {"factor": 1.0} for name in NAMES} if plain else None}
    ones = torch.ones(1, sae.cfg.width_out, device=sae.device, dtype=sae.dtype)
    by_model = norm.directions(ones)[0].double().cpu().unflatten(0, (2, -1))
    return {**found, "factors": {n: _factor(x) for n, x in zip(NAMES, by_model, strict=True)}}


def _factor(x: Tensor) -> dict[str, float]:
    low, high = float(x.min()), float(x.max())
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        return {"factor": float(x.mean())}
    return {"min": low, "median": float(x.median()), "max": high}
