"""What a card says of cases: a checkpoint under the variants of its model, and on concepts. Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from saebench.gates import Verdict
from saebench.record import Record
from saebench.report import concepts, cv_probing, escape, portability, steering
from saebench.report.digits import count
from saebench.report.results import all_rows, headline_rows, told
from saebench.report.table import markdown_table

VARIANTS = "portability"  # the part that is about variants; the others are about concepts
PARTS: Mapping[str, tuple[str, Callable[[Record], str]]] = {
    "concepts": ("Latents", concepts.section),
    "cv_probing": ("Probes", cv_probing.section),
    "steering": ("Steering", steering.section),
}


def case_sections(
    checkpoint: Record, cases: Sequence[Record], verdicts: Sequence[Verdict], level: str
) -> list[str]:
    """The parts of a card on the cases of one checkpoint, under headings of ``level`` (``##``) and below."""
    own = [case for case in cases if case.checkpoint.get("of") == checkpoint.name]
    under = [case for case in own if VARIANTS in case.details]
    parts: list[str] = []
    if under:
        parts += [f"{level} Portability", portability.overview(under)]
    for case in under:
        parts += [f"{level}# {_title(case)}", portability.section(case), *_figures(case, verdicts)]
    for case in own:
        found = [
            (title, text(case)) for name, (title, text) in PARTS.items() if name in case.details
        ]
        if not found:
            continue
        parts += [f"{level} Concept: {_title(case)}"]
        for title, text in found:
            parts += [f"{level}# {title}", text]
        parts += _figures(case, verdicts)
    return [part for part in parts if part]


def _title(case: Record) -> str:
    return escape.markdown_text(str(case.checkpoint.get("case")))


def _figures(case: Record, verdicts: Sequence[Verdict]) -> list[str]:
    """The table of limits, and every other measurement folded away.

    What has no value and no limit is left out where many lack one: the sections say why.
    """
    headline = told(case, headline_rows(case, verdicts))
    shown = {row.metric for row in headline}
    parts = [markdown_table(headline)] if headline else []
    if rest := [row for row in told(case, all_rows(case)) if row.metric not in shown]:
        summary = f"<details><summary>{count(len(rest))} more measurements</summary>"
        parts += [summary, markdown_table(rest), "</details>"]
    return parts
