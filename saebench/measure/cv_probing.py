"""Cross-validated probes on the texts of each concept: what latents keep, beside what chance gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy import sparse

from saebench.errors import ConfigError, SaebenchError
from saebench.measure.cases import (
    Case,
    CaseJob,
    identified,
    make_case_record,
    refusal,
    unmeasured,
)
from saebench.measure.concepts.rows import ConceptRows, Split, opened, pool_of, rows_of
from saebench.measure.jobs import Pass
from saebench.measure.run import Run, Target, contract
from saebench.passes import Calibration, Subject
from saebench.probing.cv_arms import Arm, Comparison, HeldOut
from saebench.probing.cv_fit import TOLERANCE
from saebench.probing.cv_folds import draw_folds
from saebench.probing.cv_null import WORK
from saebench.probing.cv_results import CaseProbes
from saebench.probing.scaling import Matrix
from saebench.record import Record
from saebench.sites import parse_site

PART = "cv_probing"
Few = Literal["", "k", "path"]  # probes on few columns: none, k-sparse ones, the L1 path as well


def identity(run: Run, case: Case) -> dict[str, Any]:
    """What the scores depend on beside the run's own: the protocol, every text and label, the other SAE.

    The other checkpoints of the run, and what any is called, make no difference.
    """
    asked = protocol(run)
    del asked["other"]  # a name
    other, reason = other_of(run, case.target)
    return {
        PART: {
            "protocol": asked,
            "concept": opened(run, case.case).digest,
            "other": reason if other is None else contract(other.checkpoint),
        }
    }


def other_of(run: Run, target: Target) -> tuple[Target | None, str]:
    """The checkpoint to set beside one, the one asked for or the next at the site; or why there is none.

    Sites are told apart by what the files say, before any weight of a model is in memory.
    """
    named, names = run.config.cross_validation.other, [item.name for item in run.targets]
    place = names.index(target.name)
    others = (*run.targets[place + 1 :], *run.targets[:place])
    here = [item for item in others if _sites(run, item) == _sites(run, target)]
    if not named:
        reason = "no other checkpoint of the run reads this site: add one, or name it as other"
        return (here[0], "") if here else (None, reason)
    if named == target.name:
        return None, "it is the other SAE itself: name another as other"
    reason = "the checkpoint named as other reads another site: name one at this site"
    return next(((item, "") for item in here if item.name == named), (None, reason))


def names(run: Run, case: Case) -> dict[str, Any]:
    """What the other SAE of a case is called in this run."""
    other, _ = other_of(run, case.target)
    return {"other": None if other is None else other.name}


def _sites(run: Run, target: Target) -> list[tuple[object, ...]]:
    """What a checkpoint reads, whether or not a mean is taken out of it."""
    found: list[tuple[object, ...]] = []
    for source in target.checkpoint.sae.cfg.reads:
        config = run.located[source.model].config.get_text_config()
        site = parse_site(source.site or "", n_layers=int(config.num_hidden_layers)).canonical
        found.append((site, source.model, source.minus))
    return found


def protocol(run: Run) -> dict[str, Any]:
    """How probes are fitted and judged, and how texts become rows."""
    return {
        **run.config.cross_validation.to_json(),
        "pooling": pool_of(run),
        "length": run.concept_length,
        "tolerance": TOLERANCE,
        "work": WORK,
    }


class CvProbingJob(CaseJob):
    """Cross-validates the probes of every case; nothing of it is on the run's own text."""

    def __init__(self, run: Run, cases: Sequence[Case]) -> None:
        names = [target.name for target in run.targets]
        other = run.config.cross_validation.other
        if other and other not in names:
            raise ConfigError(
                f"the checkpoint {other!r} as the other SAE",
                "none of that name in this run",
                f"Name one of {', '.join(names)}, or leave it out: other = in [cv_probing].",
            )
        super().__init__(run, cases)

    def finish(self, run: Run, done: Pass) -> Iterator[Record]:
        """Concept by concept, the probes of its cases; arms that cases share are fitted once."""
        for concept, cases in self.by_case():
            try:
                started = time.perf_counter()
                probes = ConceptProbes.of(run, concept, cases, done.calibration)
                shared = time.perf_counter() - started
            except SaebenchError as error:
                why, known = refusal(error), done.calibration
                for case in cases:
                    yield unmeasured(run, case, PART, why, identity=identity, calibration=known)
                continue
            for case in cases:
                started = time.perf_counter()
                found = probes.case(case.target)
                yield make_case_record(
                    run,
                    case,
                    PART,
                    probes.subjects[case.target.name],
                    found.measurements(),
                    details=found.to_json(),
                    identity=identified(run, case, PART, identity),
                    passes=probes.rows.calls,
                    seconds=shared + time.perf_counter() - started,
                    calibration=done.calibration,
                    policy={"resampling": probes.comparison.resampled.unit},
                )


@dataclass
class ConceptProbes:
    """The rows of a concept, and the arms that were fitted to them so far."""

    run: Run
    rows: ConceptRows
    comparison: Comparison
    subjects: Mapping[str, Subject]
    wanted: frozenset[str]  # the checkpoints that have a case here
    fitted: dict[tuple[str, object], Arm] = field(default_factory=dict)

    @classmethod
    def of(
        cls, run: Run, concept: str, cases: Sequence[Case], calibration: Calibration
    ) -> ConceptProbes:
        """Read the texts and divide them into folds; raises the errors of texts that do not serve."""
        rows, asked = rows_of(run, concept, calibration), run.config.cross_validation
        splits = pooled_splits(rows)
        labels = np.concatenate([rows.labels(split) for split in splits])
        folds = draw_folds(
            labels,
            joined_documents([split.text.documents for split in splits], list(map(_n, splits))),
            n_folds=asked.folds,
            n_repeats=asked.repeats,
            seed=asked.seed,
        )
        apart = held_apart(rows)
        judged = None
        if apart is not None:
            judged = HeldOut.of(rows.labels(apart), apart.text.documents, asked.seed)
        subjects = {target.name: run.subject(target) for target in run.targets}
        wanted = frozenset(case.target.name for case in cases)
        return cls(run, rows, Comparison(folds, asked, judged), subjects, wanted)

    def case(self, target: Target) -> CaseProbes:
        """All arms of one checkpoint."""
        name, reads = target.name, self.subjects[target.name].reads
        found, reason = other_of(self.run, target)
        other = None if found is None else found.name
        arms = {
            "raw": self._arm("raw", reads, lambda split: split.sites[reads].x, "k"),
            "latents": self._latents(name),
            "other": Arm(None, reason=reason) if other is None else self._latents(other),
            "reconstruction": self._arm(
                "reconstruction", name, lambda split: split.subjects[name].x_hat
            ),
            "random": self._arm("random", name, lambda split: split.controls[name].latents, "k"),
        }
        splits = pooled_splits(self.rows)
        n_tokens = sum(int(split.subjects[name].n_counted.sum()) for split in splits)
        return CaseProbes(self.comparison.folds, arms, n_tokens, self._facts(other))

    def _latents(self, name: str) -> Arm:
        few: Few = "path" if name in self.wanted else ""
        return self._arm("latents", name, lambda split: split.subjects[name].latents, few)

    def _arm(
        self, kind: str, key: object, features: Callable[[Split], Matrix], few: Few = ""
    ) -> Arm:
        if (kind, key) not in self.fitted:
            rows = _stacked([features(split) for split in pooled_splits(self.rows)])
            apart = held_apart(self.rows)
            self.fitted[kind, key] = self.comparison.arm(
                rows,
                None if apart is None else features(apart),
                k_sparse=bool(few),
                path=few == "path",
            )
        return self.fitted[kind, key]

    def _facts(self, other: str | None) -> dict[str, Any]:
        """How probes were made, and of what."""
        texts, apart = self.rows.opened, held_apart(self.rows)
        return {
            "protocol": protocol(self.run),
            "concept": {
                "name": texts.name,
                "classes": list(texts.classes),
                "positive": texts.positive,
                "facts": dict(texts.facts),
            },
            "other": other,
            "data": [split.text.describe() for split in pooled_splits(self.rows)],
            "held_out": None if apart is None else apart.text.describe(),
        }


def pooled_splits(rows: ConceptRows) -> list[Split]:
    """The splits that are cross-validated: all texts of the concept's data.

    A share of them that other suites hold out is needed by none here, where every text is tested out of
    fold. Held-out texts of their own stay apart.
    """
    if rows.held_out is None or held_apart(rows) is not None:
        return [rows.train]
    return [rows.train, rows.held_out]


def held_apart(rows: ConceptRows) -> Split | None:
    """The held-out texts that the concept names, on which probes fitted to all others are judged."""
    own = rows.opened.facts.get("held_out", {}).get("how") == "texts of its own"
    return rows.held_out if own else None


def joined_documents(
    documents: Sequence[np.ndarray | None], sizes: Sequence[int]
) -> np.ndarray | None:
    """Numbers of documents over several splits, which share none; None where no split names any."""
    if all(numbers is None for numbers in documents):
        return None
    parts, start = [], 0
    for numbers, size in zip(documents, sizes, strict=True):
        own = np.arange(size) if numbers is None else np.unique(numbers, return_inverse=True)[1]
        parts.append(own + start)
        start += int(own.max()) + 1
    return np.concatenate(parts)


def _n(split: Split) -> int:
    return len(split.text.labels)


def _stacked(parts: Sequence[Matrix]) -> Matrix:
    if len(parts) == 1:
        return parts[0]
    if sparse.issparse(parts[0]):
        return sparse.vstack(parts, format="csr")
    return np.concatenate(parts)
