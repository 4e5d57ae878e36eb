"""The summary of a step in GitHub Actions: short, worst first, and never over what the runner accepts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from saebench.errors import OutputError
from saebench.gates import Verdict
from saebench.record import Record
from saebench.report import escape
from saebench.report.digits import count, estimate
from saebench.report.results import WORDS, WORST_FIRST, label, limit_text, tally
from saebench.report.table import markdown_grid

VARIABLE = "GITHUB_STEP_SUMMARY"
BUDGET = 128 * 1024  # bytes we add at most
CAP = 1000 * 1024  # a summary above 1 MiB is dropped whole, whoever wrote the rest of it
HEADER = ("", "Checkpoint", "Metric", "Value", "Limit")


def step_summary(
    records: Sequence[Record], verdicts: Sequence[Verdict], *, budget: int = BUDGET
) -> str:
    """A headline and a line per verdict, worst first, cut to ``budget`` bytes with a note of the rest."""
    title = f"### saebench: {count(len(records))} checkpoint{'' if len(records) == 1 else 's'}, "
    title += tally(verdicts)
    if not verdicts:
        return f"{title}\n"
    by_name = {record.name: record for record in records}
    ordered = sorted(verdicts, key=lambda verdict: WORST_FIRST.index(verdict.status))
    lines = [_line(verdict, by_name.get(verdict.name)) for verdict in ordered]
    used = len(f"{title}\n\n{markdown_grid(HEADER, [])}\n\n".encode()) + 80  # 80: the note
    kept: list[list[str]] = []
    for cells in lines:
        used += len(f"| {' | '.join(cells)} |\n".encode())
        if used > budget:
            break
        kept.append(cells)
    parts = [title, markdown_grid(HEADER, kept)] if kept else [title]
    if len(kept) < len(lines):
        parts.append(f"{count(len(lines) - len(kept))} more verdicts are in the report.")
    return "\n\n".join(parts) + "\n"


def write_summary(
    records: Sequence[Record],
    verdicts: Sequence[Verdict],
    environ: Mapping[str, str] = os.environ,
) -> Path | None:
    """Append the summary to the file that ``GITHUB_STEP_SUMMARY`` names; None when it is not set.

    Raises :class:`OutputError` when the file cannot be written.
    """
    name = environ.get(VARIABLE)
    if not name:
        return None
    path = Path(name)
    try:
        size = path.stat().st_size if path.exists() else 0
        budget = min(BUDGET, CAP - size)
        text = step_summary(records, verdicts, budget=budget - 2)
        if len(text.encode()) + 2 > budget:
            return None
        with path.open("ab") as handle:
            handle.write((("\n" if size else "") + text + "\n").encode())
    except OSError as error:
        raise OutputError(
            f"appending to the step summary {path}",
            error.strerror or str(error),
            f"Check what {VARIABLE} names, or unset it.",
        ) from error
    return path


def _line(verdict: Verdict, record: Record | None) -> list[str]:
    metric, measurement = verdict.gate.metric, verdict.measurement
    value, interval = estimate(measurement, verdict.gate.limit) if measurement else ("–", "")
    if value == "–":
        reason = (measurement.reason if measurement else None) or "not in the record"
        interval = escape.markdown_text(reason, 120)
    word = WORDS[verdict.status]
    return [
        word if verdict.passed else f"**{word}**",
        escape.code_span(verdict.name, cell=True, limit=80),
        escape.markdown_cell(label(record, metric) if record else metric, 60),
        f"{value} {interval}".strip(),
        escape.code_span(limit_text(verdict), cell=True, limit=60),
    ]
