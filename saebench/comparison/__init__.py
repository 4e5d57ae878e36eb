"""Comparisons of groups of checkpoints, seeds being the replicate: from stored reports to a card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from saebench.comparison.card import render_comparison
from saebench.comparison.document import Comparison, compare, dump, portable_folders
from saebench.comparison.groups import parse_group
from saebench.comparison.plots import draw
from saebench.errors import ConfigError
from saebench.report import CARD_FILE, PLOTS_FOLDER
from saebench.report.plot_style import has_matplotlib
from saebench.report.stored import REPORT_FILE, load_report
from saebench.report.write import read_text, write_changed

__all__ = ["Comparison", "compare", "parse_group", "render_comparison", "write_comparison"]

DATA_FILE = "comparison.json"
FOLDER = "comparison"  # below the first run, where no file is named


def write_comparison(
    folders: Sequence[Path],
    output: Path | None = None,
    *,
    groups: Sequence[tuple[str, str]] = (),
    reference: str | None = None,
    plots: bool | None = None,
    command: str = "",
) -> list[Path]:
    """Write the card, ``comparison.json`` beside it and ``plots/``; returns the files, the card first.

    A card of another name than README.md has files of its own: ``NAME.json`` and ``NAME-plots/``.
    ``folders`` are those of runs; ``groups`` names and globs in place of the groups of the runs;
    ``reference`` the source that all others are compared with. ``plots`` None draws them when
    matplotlib is installed. Raises :class:`OutputError` when a folder has no report, a file cannot be
    written or the card that is there is damaged, :class:`ConfigError` when there is nothing to compare.
    """
    unique = list({folder.resolve(): folder for folder in folders}.values())
    if not unique:
        raise ConfigError("a comparison", "no run folder", "Name the --out folders of runs.")
    card = _place(unique, output)
    names = portable_folders(unique)
    reports = {name: load_report(at) for name, at in zip(names, unique, strict=True)}
    comparison = compare(reports, groups, reference=reference, command=command)
    existing = read_text(card)
    drawn = draw(comparison) if (has_matplotlib() if plots is None else plots) else []
    data, pictures = DATA_FILE, PLOTS_FOLDER
    if card.name != CARD_FILE:
        data, pictures = f"{card.stem}.json", f"{card.stem}-{PLOTS_FOLDER}"
    images = {plot.caption: f"{pictures}/{plot.stem}.png" for plot in drawn}
    text = render_comparison(comparison, images, existing)
    written = [write_changed(card.parent / data, dump(comparison))]
    for plot in drawn:
        path = card.parent / pictures / f"{plot.stem}.png"
        written.append(write_changed(path, plot.content))
    return [write_changed(card, text.encode()), *written]


def _place(folders: Sequence[Path], output: Path | None) -> Path:
    """The file of the card: never the card of a run, which is about its checkpoints one by one."""
    if output is None:
        return folders[0] / FOLDER / CARD_FILE
    card = output / CARD_FILE if output.is_dir() else output
    if card.name == CARD_FILE and (card.parent / REPORT_FILE).is_file():
        raise ConfigError(
            f"-o {output}",
            f"{card} is the card of a run",
            f"Choose another file, for example {card.parent / FOLDER / CARD_FILE}.",
        )
    return card
