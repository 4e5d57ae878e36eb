"""Reports from records and verdicts alone: tables, the model card, plots, the summary of a CI step."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from saebench.gates import Verdict
from saebench.record import Record
from saebench.report.card import render_card
from saebench.report.model_diffing import diffing_plots, diffing_tables
from saebench.report.plot_style import has_matplotlib
from saebench.report.plots import caption, draw_plots
from saebench.report.stored import REPORT_FILE, dump_report, load_report
from saebench.report.summary import write_summary
from saebench.report.table import terminal_table
from saebench.report.write import read_text, write_changed

__all__ = [
    "load_report",
    "render_card",
    "terminal_table",
    "write_card",
    "write_report",
    "write_summary",
]

CARD_FILE = "README.md"
PLOTS_FOLDER = "plots"
Drawn = tuple[str, bytes]


def write_report(
    records: Sequence[Record],
    verdicts: Sequence[Verdict],
    out: Path,
    *,
    plots: bool | None = None,
    command: str,
    groups: Sequence[Record] = (),
    cases: Sequence[Record] = (),
) -> list[Path]:
    """Write the card, ``report.json``, plots and tables into ``out``; returns the files, the card first.

    ``groups`` are records of groups of these checkpoints, ``cases`` of each beside something else.
    ``plots`` None draws them when matplotlib is installed. ``command`` is shown under Reproduce.
    Every file is replaced whole; the card goes last, so that all it refers to is there. Raises
    :class:`OutputError` when a file cannot be written or the card that is there is damaged, and
    :class:`MissingExtraError` when plots are asked for and cannot be drawn.
    """
    card = out / CARD_FILE
    existing = read_text(card)
    drawn = _draw(records, plots)
    text = render_card(
        records,
        verdicts,
        command=command,
        images=_images(drawn),
        existing=existing,
        groups=groups,
        cases=cases,
    )
    report = dump_report(records, verdicts, command, groups, cases)
    written = [write_changed(out / REPORT_FILE, report)]
    for stem, (_, content) in drawn.items():
        written.append(write_changed(out / PLOTS_FOLDER / f"{stem}.png", content))
    for name, content in diffing_tables(records).items():
        written.append(write_changed(out / name, content))
    return [write_changed(card, text.encode()), *written]


def write_card(folder: Path, output: Path, *, plots: bool | None = None) -> Path:
    """Write the card of the report stored in ``folder`` to ``output``; returns ``output``.

    Plots are linked where they lie below the card, else drawn beside it. Raises
    :class:`OutputError` when there is no report or the card that is there is damaged.
    """
    report = load_report(folder)
    existing = read_text(output)
    drawn = _draw(report.records, plots)
    place = output.resolve().parent
    stored = (folder / PLOTS_FOLDER).resolve()
    inside = stored.is_relative_to(place)
    target = stored if inside else place / PLOTS_FOLDER
    base = Path(os.path.relpath(target, place)).as_posix()
    text = render_card(
        report.records,
        report.verdicts,
        command=report.command,
        images=_images(drawn, base),
        existing=existing,
        groups=report.groups,
        cases=report.cases,
    )
    for stem, (_, content) in drawn.items():
        write_changed(target / f"{stem}.png", content)
    return write_changed(output, text.encode())


def _draw(records: Sequence[Record], plots: bool | None) -> Mapping[str, Drawn]:
    """Caption and PNG of every plot, by file stem."""
    if not (has_matplotlib() if plots is None else plots):
        return {}
    usual = {stem: (caption(stem, records), png) for stem, png in draw_plots(records).items()}
    return {**usual, **diffing_plots(records)}


def _images(drawn: Mapping[str, Drawn], base: str = PLOTS_FOLDER) -> dict[str, str]:
    return {words: f"{base}/{stem}.png" for stem, (words, _) in drawn.items()}
