"""The texts of a concept as rows: one pass for all checkpoints of a run and all suites that need them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np

from saebench.data.concepts import OpenConcept
from saebench.data.labelled import LabelledText
from saebench.evals.peaks import PeakCodes
from saebench.evals.pooling import Pool, PooledSite, PooledSubject
from saebench.evals.reconstruction import random_init
from saebench.measure.cases import once
from saebench.measure.jobs import calls
from saebench.measure.progress import watched
from saebench.measure.run import SEED, Run, place, sae_dtype_used
from saebench.models import LanguageModel
from saebench.passes import Calibration, PassRequest, Stack, Subject, SubjectView, run_pass
from saebench.passes.requests import SubjectObserver
from saebench.protocols import Pooling

SPLITS = ("train", "held_out", "control")


@dataclass(frozen=True)
class Split:
    """The texts of one split, pooled: activations by stack, codes and reconstructions by checkpoint.

    ``peaks`` hold the largest code of each latent in each text and where it is; ``controls`` the pooled
    codes of an untrained SAE of the same width and about the same number of active latents, where those
    were asked for.
    """

    text: LabelledText
    sites: Mapping[Stack, PooledSite]
    subjects: Mapping[str, PooledSubject]
    peaks: Mapping[str, PeakCodes]
    controls: Mapping[str, PooledSubject]


@dataclass(frozen=True)
class ConceptRows:
    """All splits of a concept under one model; ``calls`` counts what the pass over them took."""

    opened: OpenConcept
    train: Split
    held_out: Split | None
    control: Split | None
    calls: Mapping[str, int]

    def labels(self, split: Split) -> np.ndarray:
        """``[n]`` bool: which texts of a split are of the positive class."""
        return (
            split.text.labels == 1
        )  # the second class of every split, whatever it is called there


def rows_of(run: Run, concept: str, calibration: Calibration) -> ConceptRows:
    """The rows of a concept for all checkpoints of a run; read once, and kept with the run.

    Raises the errors of texts that do not serve.
    """

    def read() -> ConceptRows:
        subjects = [run.subject(target) for target in run.targets]
        controls = "cv_probing" in run.config.suites  # which alone needs them
        return read_rows(run, concept, run.models, subjects, calibration, controls=controls)

    return once(run, "concept rows", concept, read)


def opened(run: Run, concept: str) -> OpenConcept:
    """The texts of a concept, read once in a run; where they do not serve, the error is kept too."""
    return once(run, "opened concepts", concept, lambda: run.concept(concept))


def read_rows(
    run: Run,
    concept: str,
    models: tuple[LanguageModel, ...],
    subjects: list[Subject],
    calibration: Calibration,
    *,
    controls: bool = False,
) -> ConceptRows:
    """One pass over every split of a concept, with these models and checkpoints.

    ``controls`` asks for an untrained SAE beside each checkpoint.
    """
    texts = opened(run, concept)
    before = calls(models)
    splits = {
        name: None
        if (text := getattr(texts, name)) is None
        else _read(run, text, models, subjects, calibration, controls)
        for name in SPLITS
    }
    train = splits["train"]
    assert train is not None
    done: Counter[str] = calls(models) - before
    return ConceptRows(texts, train, splits["held_out"], splits["control"], dict(done))


def pool_of(run: Run) -> Pool:
    """How texts of concepts are pooled."""
    asked = run.config.concept_statistics.pooling
    return asked if asked in get_args(Pooling) else int(asked)  # type: ignore[return-value]


def _read(
    run: Run,
    text: LabelledText,
    models: tuple[LanguageModel, ...],
    subjects: list[Subject],
    calibration: Calibration,
    with_controls: bool,
) -> Split:
    n_texts, pool = len(text.labels), pool_of(run)
    controls = _untrained(run, text, models, subjects, calibration) if with_controls else {}
    found = Split(
        text,
        {subject.reads: PooledSite(n_texts, pool) for subject in subjects},
        {subject.name: PooledSubject(n_texts, pool) for subject in subjects},
        {subject.name: PeakCodes(n_texts, subject.sae.cfg.d_sae) for subject in subjects},
        {name: PooledSubject(n_texts, pool, reconstruction=False) for name in controls},
    )
    observers: dict[str, list[SubjectObserver]] = {
        name: [item, found.peaks[name]] for name, item in found.subjects.items()
    }
    observers |= {controls[name].name: [item] for name, item in found.controls.items()}
    request = PassRequest(
        [*subjects, *controls.values()],
        {stack: [item] for stack, item in found.sites.items()},
        observers,
    )
    batches = watched(text.stream.batches(run.config.batch_size), n_texts, len(subjects))
    run_pass(models, batches, request, calibration=calibration)
    return found


def _untrained(
    run: Run,
    text: LabelledText,
    models: tuple[LanguageModel, ...],
    subjects: list[Subject],
    calibration: Calibration,
) -> dict[str, Subject]:
    """By checkpoint, an untrained TopK SAE that reads the same and has about as many active latents."""
    unknown = [subject for subject in subjects if subject.sae.cfg.k is None]
    l0 = {subject.name: subject.sae.cfg.k for subject in subjects}
    if unknown:  # one batch says how many latents are active where no k does
        counts = {subject.name: _Active() for subject in unknown}
        first = [next(iter(text.stream.batches(run.config.batch_size)))]
        request = PassRequest(unknown, {}, {name: [item] for name, item in counts.items()})
        run_pass(models, first, request, calibration=calibration)
        l0 |= {name: max(1, round(item.active / item.n_tokens)) for name, item in counts.items()}
    found = {}
    for subject in subjects:
        d_sae, k = subject.sae.cfg.d_sae, l0[subject.name]
        mean = calibration.mean(subject.reads).float().cpu()
        sae = random_init(mean, d_sae, min(k or 1, d_sae), SEED)
        place(sae, subject.sae.device, sae_dtype_used(run.config))
        name = f"{subject.name} (untrained)"
        found[subject.name] = Subject(name, sae, subject.reads, subject.reads)
    return found


class _Active:
    """Counts active latents and tokens."""

    needs_predictions = False
    needs_reconstruction = False

    def __init__(self) -> None:
        self.active = self.n_tokens = 0

    def update(self, view: SubjectView) -> None:
        """Take in one batch."""
        self.active += int(view.codes.counts().sum())
        self.n_tokens += view.codes.n_tokens
