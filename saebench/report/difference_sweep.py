"""Difference SAEs side by side: a table by layer, and how FVE grows with k, from records alone. Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saebench.metrics.difference.sweep import Point, Step, Sweep, sweep
from saebench.record import Record
from saebench.report import escape
from saebench.report.difference import PART
from saebench.report.digits import count, counted, estimate, number_or_dash
from saebench.report.stored import mapping
from saebench.report.table import markdown_grid

OURS = "saebench"  # the key under which our trainer says how it trained
ONE_RUN = "there is one training run per k, so the variation from run to run is not in the interval"
FIXED_MEAN = "Intervals of gains hold the mean of δ at that of all tokens."
FEWEST = 3  # points that make a sweep: fewer have no two gains to compare
Key = tuple[Any, ...]


def overview(records: Sequence[Record]) -> str:
    """The layer table and every k sweep; empty without a difference SAE that was measured."""
    found = [record for record in records if _sums(record)]
    if not found:
        return ""
    parts = [_layers(found), *_sweeps(found)]
    return "\n\n".join(part for part in parts if part)


def training_tokens(record: Record) -> int | None:
    """How many tokens a checkpoint was trained on, as its files say; None where they do not."""
    stated = mapping(record.checkpoint.get("provenance"))
    for value in (mapping(stated.get(OURS)).get("tokens"), stated.get("training_tokens")):
        if isinstance(value, int | float) and not isinstance(value, bool):
            return int(value)
    return None


def _found(record: Record) -> Mapping[str, Any]:
    return mapping(record.details.get(PART))


def _sums(record: Record) -> Mapping[str, Any]:
    """Sums by group of sequences over all tokens; empty where they are missing or broken."""
    sums = mapping(mapping(_found(record).get("sums")).get("all"))
    columns = [sums.get(name) for name in ("tss", "sse")]
    alike = all(isinstance(column, list) and column for column in columns)
    return sums if alike and len({len(column or ()) for column in columns}) == 1 else {}


def _order(record: Record) -> tuple[Any, ...]:
    """By site, its numbers as numbers, then by dictionary and k."""
    found = _found(record)
    site = re.split(r"(\d+)", str(found.get("site")))
    named = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in site)
    sizes = [found.get(name) for name in ("d_sae", "k")]
    return (*named, *(size if isinstance(size, int | float) else 0 for size in sizes), record.name)


def _layers(records: Sequence[Record]) -> str:
    header = ["Checkpoint", "Site", "δ", "d_model", "Latents", "Expansion", "k", "Trained on"]
    header += ["FVE", "FVE, fire", "L0", "Dead"]
    body = []
    for record in sorted(records, key=_order):
        found = _found(record)
        d_model, d_sae = found.get("d_model"), found.get("d_sae")
        expansion = "–"
        if isinstance(d_model, int) and isinstance(d_sae, int) and d_model > 0:
            expansion = number_or_dash(d_sae / d_model)
        tokens = training_tokens(record)
        dead = mapping(found.get("dead"))
        share = record.get("diff_dead_fraction")
        shown = "–" if share is None or share.value is None else f"{100 * share.value:.1f} %"
        body.append(
            [
                escape.code_span(record.name, cell=True),
                escape.code_span(found.get("site"), cell=True),
                _sign(found.get("difference")),
                *(counted(value) for value in (d_model, d_sae)),
                expansion,
                counted(found.get("k")),
                "–" if tokens is None else f"{count(tokens)} tokens",
                *(_estimate(record, name) for name in ("diff_fve", "diff_fve_fire", "diff_l0")),
                f"{shown} ({counted(dead.get('n'))})",
            ]
        )
    table = markdown_grid(header, body, right=range(3, len(header)))
    return f"{_measured_on(records)}\n\n{table}"


def _measured_on(records: Sequence[Record]) -> str:
    """Which text the figures are of: the run's own has others, which stand apart."""
    texts = [mapping(_found(record).get("text")) for record in records]
    if all(text.get("own", True) for text in texts):
        return "FVE, L0 and dead latents on the run's own text."
    sizes = {mapping(text.get("data")).get("n_sequences") for text in texts}
    size = f" {counted(sizes.pop())}" if len(sizes) == 1 else ""
    return (
        f"FVE, L0 and dead latents on the{size} labelled prompts, also in the sweeps. On the run's own text, "
        "in the table above, tokens are others and so are the figures."
    )


def _sign(difference: object) -> str:
    """Which model is subtracted from which."""
    return {"1-0": "model 1 − 0", "0-1": "model 0 − 1"}.get(str(difference), "–")


def _estimate(record: Record, name: str) -> str:
    measurement = record.get(name)
    return "–" if measurement is None else " ".join(filter(None, estimate(measurement)))


@dataclass(frozen=True)
class _Family:
    """Checkpoints that differ in k, and maybe in what they were trained on."""

    records: list[Record]

    @property
    def title(self) -> str:
        """The site and size that they share."""
        found = _found(self.records[0])
        return f"{escape.code_span(found.get('site'))}, {counted(found.get('d_sae'))} latents"

    def by_tokens(self) -> dict[int | None, list[Record]]:
        """The checkpoints of each training budget, one for each k: the first of several."""
        found: dict[int | None, dict[Any, Record]] = {}
        for record in self.records:
            found.setdefault(training_tokens(record), {}).setdefault(_found(record)["k"], record)
        return {tokens: list(by_k.values()) for tokens, by_k in found.items()}


def _sweeps(records: Sequence[Record]) -> list[str]:
    """A section for each family of checkpoints with two values of k or more."""
    families: dict[Key, list[Record]] = {}
    for record in sorted(records, key=_order):
        if isinstance(_found(record).get("k"), int | float) and _found(record)["k"] > 0:
            families.setdefault(_key(record), []).append(record)
    return [
        _family(_Family(members))
        for members in families.values()
        if len({_found(record)["k"] for record in members}) > 1
    ]


def _key(record: Record) -> Key:
    """What the points of a sweep have in common: site, size, sign, models, and the very tokens measured."""
    found, sums = _found(record), _sums(record)
    place = tuple(str(found.get(name)) for name in ("site", "difference", "d_sae", "d_model"))
    models = (
        record.model.get("digest"),
        *(m.get("digest") for m in record.model.get("others", ())),
    )
    return (*place, models, record.data.get("digest"), found.get("n_tokens"), tuple(sums["tss"]))


def _family(family: _Family) -> str:
    by_tokens = family.by_tokens()
    lines = [f"**k sweep** at {family.title}."]
    if len(by_tokens) > 1:
        budgets = ", ".join(
            f"{_budget(tokens)} (k = {', '.join(counted(_found(r)['k']) for r in members)})"
            for tokens, members in by_tokens.items()
        )
        lines.append(
            f"These checkpoints were trained on different numbers of tokens: {budgets}. Those of one budget "
            "alone make a sweep."
        )
    parts = [" ".join(lines)]
    for tokens, members in by_tokens.items():
        if len(members) > 1:
            parts.append(_one_sweep(members, tokens, named=len(by_tokens) > 1))
    return "\n\n".join(parts)


def _budget(tokens: int | None) -> str:
    return "unstated" if tokens is None else f"{count(tokens)} tokens"


def _one_sweep(members: Sequence[Record], tokens: int | None, *, named: bool) -> str:
    total = np.array(_sums(members[0])["tss"], dtype=np.float64)
    points = [
        Point(record.name, float(_found(record)["k"]), np.array(_sums(record)["sse"], dtype=float))
        for record in members
    ]
    found = sweep(points, total)
    by_name = {record.name: record for record in members}
    body = []
    for place, point in enumerate(found.points):
        record = by_name[point.name]
        step = found.steps[place - 1] if place else None
        body.append(
            [
                number_or_dash(point.k),
                escape.code_span(point.name, cell=True),
                _estimate(record, "diff_fve"),
                _estimate(record, "diff_l0"),
                "–" if step is None else _gain(step),
            ]
        )
    header = ["k", "Checkpoint", "FVE", "L0", "Gain per doubling of k"]
    table = markdown_grid(header, body, right=(0, 2, 3, 4))
    budget = f"Trained on {_budget(tokens)}.\n\n" if named else ""
    caution = (
        " Their files do not say how many tokens they were trained on, so that budgets may differ."
        if tokens is None
        else ""
    )
    return f"{budget}{table}\n\n{verdict(found, stated=tokens is not None)}{caution}"


def _gain(step: Step) -> str:
    low, high = step.bounds.low, step.bounds.high
    bounds = "" if low is None or high is None else f" [{low:.4f}, {high:.4f}]"
    return f"{step.gain:.4f}{bounds}"


def verdict(found: Sweep, *, stated: bool) -> str:
    """Whether there is an elbow, and which points stand out, in sentences.

    ``stated`` says that all points are known to be trained on the same number of tokens.
    """
    if len(found.points) < FEWEST:
        return "Two points have one gain: an elbow would take three."
    rule = "the gain per doubling after k is less than half of that before, and its interval excludes half"
    if found.elbows:
        where = ", ".join(number_or_dash(k) for k in found.elbows)
        said = [f"Elbow at k = {where}: {rule}; {ONE_RUN}."]
    else:
        said = [f"No elbow: at no k is it so that {rule}; {ONE_RUN}."]
    said += [_outstanding(step, stated) for step in found.steps if step.stands_out]
    return " ".join([*said, FIXED_MEAN])


def _outstanding(step: Step, stated: bool) -> str:
    """A gain above those beside it, and what may be behind it."""
    gain = (
        f"The gain from k = {number_or_dash(step.before.k)} to {number_or_dash(step.after.k)} is larger than "
        "those before and after it by more than the interval"
    )
    if stated:
        return f"{gain}, which a difference between training runs can do as well."
    return f"{gain}: was {escape.code_span(step.after.name)} trained with another budget?"
