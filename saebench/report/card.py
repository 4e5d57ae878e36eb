"""The model card: everything below is derived from records and verdicts, and dated by them alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saebench.gates import Status, Verdict
from saebench.record import Record
from saebench.report import escape, sections
from saebench.report.appendix import (
    definitions,
    limitations,
    positions,
    provenance,
    reproduce,
)
from saebench.report.cases import case_sections
from saebench.report.digits import count, estimate
from saebench.report.front_matter import card_name, front_matter
from saebench.report.groups import group_section, groups_intro
from saebench.report.model_diffing import across, diffing_sections
from saebench.report.results import HEADLINES, label, of, sample, tally, worst
from saebench.report.splice import existing_front, splice
from saebench.report.table import describe_checkpoint, markdown_grid
from saebench.report.training import training

COMPARED = ("fve", "fve_random_init", "fve_pca", *(name for name in HEADLINES if name != "fve"))
WIDEST = 4  # checkpoints side by side; more become the rows
NOTICE = (
    "<!-- Written by saebench from its records. Edits between the two markers are lost the next "
    "time; write above or below them. -->"
)


def render_card(
    records: Sequence[Record],
    verdicts: Sequence[Verdict],
    *,
    command: str,
    images: Mapping[str, str] | None = None,
    existing: str | None = None,
    groups: Sequence[Record] = (),
    cases: Sequence[Record] = (),
) -> str:
    """The text of a card on one checkpoint or on a set of them.

    ``images`` maps a caption to the path of a picture, relative to the card. ``existing`` is the
    text of the card that is there: its hand-written parts are kept. ``groups`` are records of groups
    of the checkpoints, ``cases`` of each under a variant or on a concept. The same records give the same
    bytes. Raises :class:`OutputError` when the existing card is damaged.
    """
    front = front_matter(records, existing_front(existing))
    body = card_body(
        records, verdicts, command=command, images=images or {}, groups=groups, cases=cases
    )
    return splice(existing, front, body, title=escape.markdown_text(card_name(records)))


def card_body(
    records: Sequence[Record],
    verdicts: Sequence[Verdict],
    *,
    command: str,
    images: Mapping[str, str],
    groups: Sequence[Record] = (),
    cases: Sequence[Record] = (),
) -> str:
    """What goes between the markers."""
    one = len(records) == 1
    parts = [NOTICE]
    # a limit on a case is one on its checkpoint
    of_each = {record.name: _of_all(record, cases, verdicts) for record in records}
    if one:
        parts += [_summary(records[0], of_each[records[0].name])]
        parts += _checkpoint(records[0], records, verdicts, images, "##")
        parts += case_sections(records[0], cases, verdicts, "##")
    else:
        parts += [_set_summary(of_each, verdicts), "## Comparison", _comparison(records, of_each)]
        parts += escape.pictures(images)
        parts += across(records, "##")
        for record in records:
            summary = _summary(record, of_each[record.name])
            parts += [f"## {escape.markdown_text(record.name)}", summary]
            parts += _checkpoint(record, records, verdicts, {}, "###")
            parts += case_sections(record, cases, verdicts, "###")
    if groups:
        parts += ["## Groups", groups_intro(groups)]
    for group in groups:
        parts += [f"### {escape.markdown_text(group.name)}", group_section(group, verdicts)]
    everything = [*records, *groups, *cases]
    closing = (
        ("Definitions", definitions(everything)),
        ("Which positions count", positions(records)),
        ("Limitations", limitations(everything, verdicts)),
        ("Reproduce", reproduce(command)),
        ("Provenance", provenance(records)),
    )
    for title, text in closing:
        parts += [f"## {title}", text]
    return "\n\n".join(part for part in parts if part)


def _checkpoint(
    record: Record,
    beside: Sequence[Record],
    verdicts: Sequence[Verdict],
    images: Mapping[str, str],
    level: str,
) -> list[str]:
    return [
        f"{level} What it is",
        sections.what_it_is(record),
        f"{level} How to load it",
        sections.how_to_load(record),
        f"{level} Training",
        training(record),
        f"{level} Evaluation",
        sections.evaluation(record, verdicts),
        *escape.pictures(images),
        *diffing_sections(record, level, beside),
    ]


def _summary(record: Record, verdicts: Sequence[Verdict]) -> str:
    kind = _kind(record.checkpoint.get("cfg", {}))
    what = f"A {kind}: {escape.markdown_text(describe_checkpoint(record))}."
    found = []
    for metric in ("fve", "ce_recovered", "l0", "dead_fraction"):
        measurement = record.get(metric)
        if measurement is not None and measurement.value is not None:
            value, interval = estimate(measurement)
            bounds = f" {interval}" if interval else ""
            found.append(f"{escape.markdown_text(label(record, metric))} **{value}**{bounds}")
    numbers = f" Measured: {', '.join(found)}." if found else ""
    return f"{what}{numbers} {_verdict(verdicts)}"


def _of_all(record: Record, cases: Sequence[Record], verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts on a checkpoint and on its cases."""
    own = [case for case in cases if case.checkpoint.get("of") == record.name]
    return [verdict for one in (record, *own) for verdict in of(one, verdicts)]


def _set_summary(of_each: Mapping[str, Sequence[Verdict]], verdicts: Sequence[Verdict]) -> str:
    clean = sum(all(verdict.passed for verdict in own) for own in of_each.values())
    verb = "meets" if clean == 1 else "meet"
    gates = f" {clean} of {count(len(of_each))} {verb} every limit." if verdicts else ""
    return f"{count(len(of_each))} checkpoints, measured side by side.{gates} {_verdict(verdicts)}"


def _verdict(verdicts: Sequence[Verdict]) -> str:
    text = tally(verdicts)
    return f"{text[0].upper()}{text[1:]}."


def _comparison(records: Sequence[Record], of_each: Mapping[str, Sequence[Verdict]]) -> str:
    """Metrics by checkpoints; the other way round when there are many checkpoints."""
    metrics = [name for name in COMPARED if any(record.get(name) for record in records)]
    header = ["", *(escape.markdown_cell(_label(records, name)) for name in metrics), "Verdict"]
    grid = [header]
    for record in records:
        cells = [_compared(record, name) for name in metrics]
        status = worst(of_each[record.name])
        grid.append([escape.code_span(record.name, cell=True), *cells, _word(status)])
    if len(records) <= WIDEST:
        grid = [list(column) for column in zip(*grid, strict=True)]
    return markdown_grid(grid[0], grid[1:])


def _compared(record: Record, name: str) -> str:
    measurement = record.get(name)
    if measurement is None:
        return ""
    value, interval = estimate(measurement)
    on = sample(record, name)
    return " ".join(part for part in (value, interval, f"({on})" if on else "") if part)


def _label(records: Sequence[Record], name: str) -> str:
    return next(label(record, name) for record in records if record.get(name))


def _word(status: Status | None) -> str:
    if status is None:
        return "–"
    word = status.value.replace("_", " ")
    return word.lower() if status in (Status.PASS, Status.WAIVED) else f"**{word}**"


def _kind(cfg: Mapping[str, Any]) -> str:
    several = (cfg.get("n_sources") or 1) > 1
    if sections.writes_elsewhere(cfg):
        return "cross-layer transcoder" if several else "transcoder"
    if several:
        return "crosscoder"
    of = " of the difference of two models" if cfg.get("difference") else ""
    return f"sparse autoencoder{of}"
