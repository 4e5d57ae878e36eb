"""What the latents of one checkpoint, and the activations they are read from, say of a concept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from saebench.concepts import Chosen, Stability, judged, stability
from saebench.concepts.columns import Matrix
from saebench.errors import CheckpointError, SaebenchError
from saebench.measure.cases import reason_of
from saebench.measure.concepts.examples import Found, examples_of
from saebench.measure.concepts.rows import ConceptRows, Split
from saebench.measure.concepts.sides import Labels, Side
from saebench.measure.run import Run
from saebench.passes import Stack, Subject
from saebench.protocols import ConceptsProtocol
from saebench.steering.directions import Cosine, mean_difference
from saebench.steering.interventions import decoded, linear_decoded

TRAIN, HELD_OUT, CONTROL = "train", "held_out", "control"
NO_TEXTS = {
    HELD_OUT: "the concept holds out no texts: name some, or set held_out in [concepts]",
    CONTROL: "the concept names no control texts: name some, control = in [[concept]]",
}
TOO_FEW = "a half would have fewer than two texts of a class: give more training texts"


@dataclass
class Texts:
    """The labels of each split that serves, and why others do not."""

    splits: dict[str, Split]
    labels: dict[str, Labels]
    reasons: dict[str, str]

    @classmethod
    def of(cls, rows: ConceptRows) -> Texts:
        """Those of a concept; raises :class:`DataError` where the training texts do not serve."""
        found = cls({}, {}, {})
        given = {TRAIN: rows.train, HELD_OUT: rows.held_out, CONTROL: rows.control}
        for name, split in given.items():
            if split is None:
                failed = rows.opened.facts.get("no_control") if name == CONTROL else None
                found.reasons[name] = failed or NO_TEXTS[name]
                continue
            try:
                found.labels[name] = Labels.of(split, name.replace("_", "-"))
                found.splits[name] = split
            except SaebenchError as error:
                if name == TRAIN:
                    raise
                found.reasons[name] = reason_of(error)
        return found


@dataclass
class Findings:
    """One kind of columns (latents, or dimensions of x) on every split.

    ``chosen`` judges on each other split the column that is best on the training texts.
    """

    sides: dict[str, Side]
    chosen: dict[str, Chosen]
    reasons: dict[str, str]

    @classmethod
    def of(cls, x: Mapping[str, Matrix], texts: Texts, asked: ConceptsProtocol) -> Findings:
        """The columns of ``x`` by split; raises :class:`DataError` where training texts give nothing."""
        train = Side.of(x[TRAIN], texts.labels[TRAIN], asked, asked.seed)
        found = cls({TRAIN: train}, {}, dict(texts.reasons))
        for number, name in enumerate((HELD_OUT, CONTROL), start=1):
            if name not in texts.labels:
                continue
            labels = texts.labels[name]
            try:
                found.sides[name] = Side.of(x[name], labels, asked, asked.seed + number)
            except SaebenchError as error:  # of all columns: the chosen one may still be judged
                found.reasons[name] = reason_of(error)
            values = column(x[name], train.best)
            if np.isfinite(values).all():
                found.chosen[name] = judged(
                    values,
                    labels.exchange,
                    labels.positive,
                    sign=train.sign,
                    n_permutations=asked.n_permutations,
                    seed=asked.seed + number,
                )
        return found

    @property
    def train(self) -> Side:
        """The training texts, on which columns are chosen."""
        return self.sides[TRAIN]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "splits": {name: side.to_json() for name, side in self.sides.items()},
            "chosen": {name: one.to_json() for name, one in self.chosen.items()},
            "reasons": self.reasons,
        }


@dataclass
class Activations:
    """What checkpoints at one stack share: dimensions of x, and the difference of its class means.

    ``reason`` says why there are no ``dimensions``.
    """

    dimensions: Findings | None
    mean_difference: np.ndarray
    along: dict[str, Chosen] = field(default_factory=dict)
    reason: str = ""

    @classmethod
    def of(cls, stack: Stack, texts: Texts, asked: ConceptsProtocol) -> Activations:
        """Those at a stack."""
        x = {name: split.sites[stack].x for name, split in texts.splits.items()}
        positive = texts.labels[TRAIN].positive
        direction = mean_difference(x[TRAIN], positive).numpy()
        try:
            found = cls(Findings.of(x, texts, asked), direction)
        except SaebenchError as error:
            return cls(None, direction, reason=reason_of(error))
        for number, name in enumerate((HELD_OUT, CONTROL), start=1):
            if name in texts.labels and np.isfinite(x[name]).all():
                labels = texts.labels[name]
                found.along[name] = judged(
                    x[name].astype(np.float64) @ direction,
                    labels.exchange,
                    labels.positive,
                    n_permutations=asked.n_permutations,
                    seed=asked.seed + number,
                )
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "dimensions": None if self.dimensions is None else self.dimensions.to_json(),
            "mean_difference": {name: one.to_json() for name, one in self.along.items()},
            "reason": self.reason,
        }


@dataclass
class CaseFindings:
    """Everything about one checkpoint on one concept."""

    latents: Findings
    activations: Activations
    halves: Stability | None
    top: list[dict[str, Any]]
    n_tokens: Mapping[str, int]
    examples_of: str

    @classmethod
    def of(cls, run: Run, subject: Subject, texts: Texts, activations: Activations) -> CaseFindings:
        """Separate the classes by latents; raises :class:`DataError` where none can be judged."""
        asked = run.config.concept_statistics
        own = {name: split.subjects[subject.name] for name, split in texts.splits.items()}
        latents = Findings.of({name: one.latents for name, one in own.items()}, texts, asked)
        train = latents.train
        halves = stability(
            train.columns,
            train.labels.exchange,
            train.labels.positive,
            k=asked.top_k,
            n_splits=asked.n_resamples,
            seed=asked.seed,
        )
        shown = HELD_OUT if HELD_OUT in texts.splits else TRAIN
        numbers = train.top(asked.top_k)
        examples = examples_of(
            numbers.tolist(),
            texts.splits[shown].peaks[subject.name],
            texts.splits[shown].text,
            lambda ids: str(run.tokenizer.decode(ids)),
            asked.n_examples,
        )
        cosines = _cosines(subject, numbers, activations.mean_difference)
        top = top_latents(latents, numbers, halves, cosines, examples)
        n_tokens = {name: int(one.n_counted.sum()) for name, one in own.items()}
        return cls(latents, activations, halves, top, n_tokens, shown)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        stable = None
        if self.halves is not None:
            stable = self.halves.to_json()
            places = np.flatnonzero(self.latents.train.eligible)
            stable["winners"] = [
                {"latent": int(places[one["column"]]), "share": one["share"]}
                for one in stable["winners"]
            ]
        return {
            "latents": self.latents.to_json(),
            "activations": self.activations.to_json(),
            "halves": stable,
            "top": self.top,
            "examples_of": self.examples_of,
        }


def top_latents(
    latents: Findings,
    numbers: np.ndarray,
    halves: Stability | None,
    cosines: Sequence[float | None],
    examples: Found,
) -> list[dict[str, Any]]:
    """The rows of the table of top latents: on training texts, on the others, and where they peak."""
    train = latents.train
    corrected = train.nulls.d_max.p_of(np.abs(train.separation.d[numbers]))
    places = np.flatnonzero(train.eligible)
    rows = []
    for i, latent in enumerate(numbers.tolist()):
        found = train.separation
        row = {
            "latent": latent,
            "d": float(found.d[latent]),
            "auroc": float(found.auroc[latent]),
            "p_corrected": float(corrected[i]),
            "p_alone": train.p_alone(latent),
            "rate1": float(found.rate1[latent]),
            "rate0": float(found.rate0[latent]),
            "best_in_halves": halves and halves.wins(int(places.searchsorted(latent))),
            "cosine": cosines[i],
            "examples": examples[latent],
        }
        for name in (HELD_OUT, CONTROL):
            if name in latents.sides:
                other = latents.sides[name].separation
                d = float(other.d[latent])
                row[f"d_{name}"] = d if np.isfinite(d) else None
                row[f"auroc_{name}"] = float(other.auroc[latent])
        rows.append(row)
    return rows


def column(x: Matrix, number: int) -> np.ndarray:
    """One column ``[n]`` float64 of dense or sparse rows."""
    found = x[:, [number]]
    dense = found if isinstance(found, np.ndarray) else found.toarray()
    return np.asarray(dense[:, 0], dtype=np.float64)


def _cosines(subject: Subject, latents: np.ndarray, difference: np.ndarray) -> list[float | None]:
    """The cosine of each latent's decoder direction to the difference of means; None where none is fixed."""
    try:
        sae = linear_decoded(subject.sae)
    except CheckpointError:
        return [None] * len(latents)
    wanted = torch.from_numpy(difference)
    return [
        Cosine.of(decoded(sae, torch.tensor([latent]), torch.ones(1)), wanted).value
        for latent in latents.tolist()
    ]
