"""The job: which checkpoints read differences, what is kept of both models, and a record for each."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from saebench.data.token_labels import LABELS, TokenLabels, open_token_labels
from saebench.measure.difference import baselines
from saebench.measure.difference.findings import Findings, findings, nothing
from saebench.measure.difference.places import Labels, Place
from saebench.measure.difference.rows import Rows, within_memory
from saebench.measure.jobs import Pass, calls
from saebench.measure.progress import watched
from saebench.measure.records import identity as model_identity
from saebench.measure.records import make_record
from saebench.measure.run import SEED, Run, Target
from saebench.metrics.difference.detectors import Prompts
from saebench.metrics.sums import N_GROUPS
from saebench.passes import PassRequest, Reading, SiteObserver, Stack, Subject, run_pass
from saebench.passes.requests import SubjectObserver
from saebench.record import Record
from saebench.stats import N_RESAMPLES

PART = "difference"
OWN_TEXT = (
    "the run's own text has no labels of tokens: name labelled prompts with text = in [difference]"
)
MOST_CONDITIONS = 16  # that are told apart; the rarest ones go together
OTHER = ("other", "all other conditions")  # what those are called, unless a condition is
NO_CONDITION = ("none", "no condition given")  # what prompts without one are called, likewise


def identity(run: Run) -> dict[str, Any]:
    """The protocol, the labelled text where there is one, and the base model's SAEs."""
    text = text_of(run)
    return {
        PART: {
            "protocol": protocol(run),
            "text": None if text is None else text.digest,
            "base_saes": baselines.identity(run),
        }
    }


def protocol(run: Run) -> dict[str, Any]:
    """What was asked for, without where things lie."""
    found = run.config.difference.to_json()
    del found["text"], found["base_saes"]
    return {**found, "length": length(run)}


def length(run: Run) -> int:
    """The tokens that prompts are cut to, BOS included."""
    return run.config.difference.length or run.stream.context_size


def text_of(run: Run) -> TokenLabels | None:
    """The labelled prompts, read once; None where the run's own text is measured on."""
    asked = run.config.difference
    if not asked.text:
        return None
    if "difference text" not in run.kept:
        assert run.config.data is not None  # checked when the run was prepared
        run.kept["difference text"] = open_token_labels(
            asked.text,
            run.tokenizer,
            length=length(run),
            max_tokens=asked.max_tokens,
            seed=asked.seed,
            vocab_size=run.vocab_size,
            model=run.located[0].id,
            mask=run.config.data.mask,  # type: ignore[arg-type]
        )
    found: TokenLabels = run.kept["difference text"]
    return found


class DifferenceJob:
    """Difference SAEs by token subset, on labelled prompts of their own or on the run's text."""

    def __init__(self, run: Run, targets: Sequence[Target]) -> None:
        self.targets = targets
        self.text = text_of(run)
        baselines.base_saes(run)  # before any pass, as one may be unreadable
        self.subjects = {target.name: run.subject(target) for target in targets}
        self.reasons = {name: unfit(subject) for name, subject in self.subjects.items()}
        measured = [subject for name, subject in self.subjects.items() if not self.reasons[name]]
        asked = run.config.difference.max_tokens
        n = run.stream.tally().n_counted if self.text is None else self.text.n_counted
        stacks = dict.fromkeys(stack_of(subject.reads[0]) for subject in measured)
        self.rows = {
            stack: Rows(stack, min(asked, n), run.store.out, len(stacks)) for stack in stacks
        }

    @property
    def site_observers(self) -> Mapping[Stack, Sequence[SiteObserver]]:
        """What is kept of the run's own text, where there is no other."""
        return {} if self.text is not None else {stack: [one] for stack, one in self.rows.items()}

    @property
    def subject_observers(self) -> Mapping[str, Sequence[SubjectObserver]]:
        """Checkpoints are measured on kept rows, not in a pass."""
        return {}

    def finish(self, run: Run, done: Pass) -> Iterator[Record]:
        """One pass over the labelled prompts where there are any, then the records."""
        before, started = calls(run.models), time.perf_counter()
        try:
            if self.text is not None and self.rows:
                self._read(run, self.text, done)
            found = dict(self._measured(run))
        finally:
            for rows in self.rows.values():
                rows.close()
        passes, seconds = calls(run.models) - before, time.perf_counter() - started
        for target in self.targets:
            subject, one = self.subjects[target.name], found[target.name]
            yield make_record(
                run.key(target, PART, identity(run)),
                target,
                subject,
                one.measurements,
                part=PART,
                details={PART: {**self._facts(run, subject), **one.details}},
                model=model_identity(run.models),
                data=run.stream.describe(),
                policy={
                    **run.policy,
                    "calibration_tokens": done.calibration.n_tokens,
                    "resampling": f"{self._unit}, in at most {N_GROUPS} groups",
                },
                passes=dict(passes),
                seconds=seconds,
                calibration=done.calibration,
            )

    @property
    def _unit(self) -> str:
        """What is resampled whole."""
        named = self.text is not None and self.text.documents is not None
        return "documents" if named else "sequences"

    def _read(self, run: Run, text: TokenLabels, done: Pass) -> None:
        batches = text.stream.batches(run.config.batch_size)
        request = PassRequest([], {stack: [one] for stack, one in self.rows.items()}, {})
        watching = watched(batches, len(text.rows), len(self.targets))
        run_pass(run.models, watching, request, calibration=done.calibration)

    def _measured(self, run: Run) -> Iterator[tuple[str, Findings]]:
        """What is found on each checkpoint, one difference after another."""
        places: dict[Reading, list[str]] = {}
        for name, subject in self.subjects.items():
            if why := self.reasons[name]:
                yield name, nothing(why)
            else:
                places.setdefault(subject.reads[0], []).append(name)
        for reading, names in places.items():
            rows = self.rows[stack_of(reading)]
            make = partial(self._place, run, reading)
            where = within_memory(rows, make, f"the differences at {reading.site}")
            why = problem(run, where)
            shared: dict[Any, Any] = {}  # baselines that do not depend on the checkpoint
            for name in names:
                measure = partial(findings, run, where, self.subjects[name], shared)
                asked = f"{name} on kept activations at {reading.site}"
                yield name, nothing(why) if why else within_memory(rows, measure, asked)

    def _place(self, run: Run, reading: Reading) -> Place:
        rows, asked = self.rows[stack_of(reading)], run.config.difference
        labels = labels_of(self.text, rows, asked.seed)
        device = run.models[0].device
        return Place(rows, reading, labels, asked, device, n_resamples=N_RESAMPLES, seed=SEED)

    def _facts(self, run: Run, subject: Subject) -> dict[str, Any]:
        """How it was measured, and what the checkpoint is, for tables across checkpoints."""
        cfg = subject.sae.cfg
        text = {"own": True} if self.text is None else {"own": False, **self.text.describe()}
        rows = None if self.reasons[subject.name] else self.rows[stack_of(subject.reads[0])]
        return {
            "protocol": protocol(run),
            "text": text,
            "n_tokens": 0 if rows is None else rows.n,
            "difference": cfg.difference,
            "d_model": cfg.d_in,
            "d_sae": cfg.d_sae,
            "k": cfg.k,
            "site": cfg.site,
        }


def unfit(subject: Subject) -> str:
    """Why a checkpoint is no difference SAE; empty where it is one."""
    if len(subject.reads) != 1 or subject.reads[0].minus is None:
        return "it does not read the difference of two models"
    if subject.reads != subject.writes:
        return "it writes another activation than it reads"
    return "its codes depend on earlier tokens" if subject.sae.needs_sequences else ""


def stack_of(reading: Reading) -> Stack:
    """The activations of both models that a difference is made of, side by side, in order."""
    return tuple(Reading(reading.site, number) for number in sorted(reading.models))


def problem(run: Run, where: Place) -> str:
    """Why nothing can be measured on these rows; empty where it can."""
    if not where.rows.n:
        return f"max_tokens = {where.rows.capacity:,} is less than the first sequence has"
    bad = [f"{run.located[number].id} on {n:,}" for number, n in where.not_finite.items() if n]
    if bad:
        return (
            f"activations at {where.reading.site} are not finite: of {' and of '.join(bad)} of "
            f"{where.rows.n:,} tokens"
        )
    if not where.norms.any():
        return f"both models have the same activations at {where.reading.site}"
    return ""


def labels_of(text: TokenLabels | None, rows: Rows, seed: int) -> Labels:
    """The labels of the tokens that were kept: all of a text of prompts, which was cut to fit before."""
    if text is None:
        return Labels(unlabelled=dict.fromkeys(LABELS, OWN_TEXT), problem=OWN_TEXT)
    tokens = {name: text.of_counted(name) for name in LABELS}
    unlabelled = {name: _unlabelled(text, name) for name in LABELS}
    names, condition = _conditions(text.conditions)
    sequences = rows.sequences
    masks = {name: condition[sequences] == i for i, name in enumerate(names)}
    prompts = Prompts.halved(
        sequences, tokens["fire"], condition, names, seed, text.documents, tokens["answer"]
    )
    labelled = {name: keep for name, keep in tokens.items() if name == "fire" or keep.any()}
    missing = "" if tokens["fire"].any() else unlabelled["fire"]
    usable = None if missing else prompts
    return Labels(labelled, masks, unlabelled, usable, missing, text.documents)


def _unlabelled(text: TokenLabels, name: str) -> str:
    """Why no counted token carries a label."""
    n, lost = text.n_spans[name], text.n_lost[name]
    if not n:
        return f"no prompt has a span of {name} tokens"
    if lost == n:
        return f"no token is left of any of {n:,} {name} spans: they are cut off at the length"
    return f"the tokens of {n:,} {name} spans do not count"


def _conditions(conditions: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of conditions, commonest first, and the number of each prompt's; rare ones together."""
    given = {name for name in conditions if name}
    missing = _free(NO_CONDITION, given)
    names, number, counts = np.unique(
        [name or missing for name in conditions], return_inverse=True, return_counts=True
    )
    order = np.lexsort((names, -counts))
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    if order.size <= MOST_CONDITIONS:
        return tuple(names[order].tolist()), rank[number]
    kept = tuple(names[order][: MOST_CONDITIONS - 1].tolist())
    return (*kept, _free(OTHER, given)), np.minimum(rank[number], MOST_CONDITIONS - 1)


def _free(names: Sequence[str], taken: Collection[str]) -> str:
    """The first name that is not taken; the last one in as many brackets as that takes."""
    for name in names:
        if name not in taken:
            return name
    return _free([f"({names[-1]})"], taken)
