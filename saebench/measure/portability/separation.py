"""d of latents between the two classes of each concept, under the reference and under a variant.

The best latent is chosen on training texts under the reference; held-out texts then say what is left of it
under both. Each variant reads the texts of a concept once, for all checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from saebench.concepts import Columns, Separation, separate
from saebench.errors import SaebenchError
from saebench.measure.cases import Case, reason_of
from saebench.measure.concepts.rows import ConceptRows, Split, read_rows, rows_of
from saebench.measure.portability.paired_pass import OpenVariant, PairedPass, missing
from saebench.measure.portability.variants import of_model
from saebench.measure.run import Run
from saebench.metrics.definitions import definition
from saebench.metrics.portability.results import PREFIX, Found
from saebench.passes import Calibration
from saebench.record import Measurement

PAIRS = (("d_max_reference", "d_max"), ("d_best_reference", "d_best"))
NAMES = tuple(name for pair in PAIRS for name in pair)
SILENT = "no latent tells the classes of a concept apart under both models"
NONE = "no concept is configured"

Rows = dict[tuple[str, str], "ConceptRows | str"]  # by variant and concept


def identity(run: Run) -> dict[str, Any]:
    """Digests of the concepts and how their texts are pooled; empty without concepts."""
    if not run.config.concepts:
        return {}
    digests = {}
    for concept in run.config.concepts:
        try:
            digests[concept.name] = run.concept(concept.name).digest
        except SaebenchError as error:
            digests[concept.name] = reason_of(error)
    asked = run.config.concept_statistics
    pooled = {"pooling": asked.pooling, "min_firings": asked.min_firings}
    return {"concepts": {**pooled, "length": run.concept_length, "digests": digests}}


def add_concepts(
    found: Found, run: Run, paired: PairedPass, case: Case, own: Calibration, rows: Rows
) -> None:
    """Add what concepts say of a case; ``own`` is the calibration of the run, ``rows`` are kept."""
    if not run.config.concepts:
        found.measurements |= missing(NAMES, NONE)
        return
    table = []
    for concept in run.config.concepts:
        here = _rows(run, paired, case.case, concept.name, rows)
        try:
            there = rows_of(run, concept.name, own)
            row = here if isinstance(here, str) else _shift(run, there, here, case.target.name)
        except SaebenchError as error:
            row = reason_of(error)
        table.append(
            {"concept": concept.name, **({"reason": row} if isinstance(row, str) else row)}
        )
    found.details["concepts"] = table
    found.measurements |= averages(table)


def averages(table: Sequence[Mapping[str, Any]]) -> dict[str, Measurement]:
    """Means over the concepts of ``table`` that have the number under both models, by metric id.

    Each pair is of the same concepts: a latent silent on one of the models has no d there.
    """
    found = {}
    for pair in PAIRS:
        both = [row for row in table if all(row.get(name) is not None for name in pair)]
        left_out = [str(row["concept"]) for row in table if row not in both]
        why = next((str(row["reason"]) for row in table if row.get("reason")), SILENT)
        for name in pair:
            metric = definition(PREFIX + name).metric
            found[metric] = Measurement(
                metric,
                float(np.mean([row[name] for row in both])) if both else None,
                n_sequences=sum(int(row["n_held_out"]) for row in both),
                reason=None if both else why,
                detail={"concepts": len(both), "left_out": left_out},
            )
    return found


def _rows(
    run: Run, paired: PairedPass, variant: str, concept: str, rows: Rows
) -> ConceptRows | str:
    """The texts of a concept under a variant, for all checkpoints that it carries; or why not."""
    if (variant, concept) not in rows:
        opened = paired.by_name[variant]
        subjects = [
            of_model(item, 0, case.target.name)
            for case in paired.cases
            if case.case == variant and (item := paired.subject_of(case)) is not None
        ]
        try:
            calibration = _of_variant(paired.calibration, opened)
            rows[variant, concept] = read_rows(run, concept, (opened.model,), subjects, calibration)
        except SaebenchError as error:
            rows[variant, concept] = reason_of(error)
    return rows[variant, concept]


def _of_variant(known: Calibration, opened: OpenVariant) -> Calibration:
    """The calibration of a variant as that of the only model of a pass."""
    means = {
        reading._replace(model=0): mean
        for reading, mean in known.means.items()
        if reading.model == opened.number
    }
    return replace(known, means=means)


def _shift(
    run: Run, reference: ConceptRows, variant: ConceptRows, name: str
) -> dict[str, Any] | str:
    """d under both models on held-out texts, or why there is none."""
    if reference.held_out is None or variant.held_out is None:
        return "the concept has no held-out texts"
    least = run.config.concept_statistics.min_firings
    chosen = _separation(reference, reference.train, name)
    best = chosen.best(least)
    before = _separation(reference, reference.held_out, name)
    after = _separation(variant, variant.held_out, name)
    found: dict[str, Any] = {
        "n_held_out": before.n1 + before.n0,
        "latent": best,
        "d_max_reference": _largest(before, least),
        "d_max": _largest(after, least),
        "d_best_reference": None,
        "d_best": None,
    }
    if best is not None:
        sign = 1.0 if chosen.d[best] >= 0 else -1.0
        found |= _finite(
            {"d_best_reference": sign * before.d[best], "d_best": sign * after.d[best]}
        )
        found["d_train"] = float(chosen.d[best])
    return found


def _separation(rows: ConceptRows, split: Split, name: str) -> Separation:
    columns = Columns.of(split.subjects[name].latents)
    return separate(columns, columns.ranks(), rows.labels(split))


def _largest(separation: Separation, least: int) -> float | None:
    best = separation.best(least)
    return None if best is None else float(abs(separation.d[best]))


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(one) if np.isfinite(one) else None for name, one in values.items()}
