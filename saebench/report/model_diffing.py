"""What a card says of checkpoints over two models: their parts, tables across them, and files beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count

from saebench.record import Record
from saebench.report import (
    causal,
    causal_plot,
    causal_table,
    crosscoder,
    difference,
    difference_plot,
)
from saebench.report.crosscoder_plot import crosscoder_plot, relative_norms
from saebench.report.difference_sweep import overview
from saebench.report.plot_style import png
from saebench.report.stored import mapping

PARTS: Mapping[str, tuple[str, Callable[[Record], str]]] = {
    "difference": ("Difference of the models", difference.section),
    "crosscoder": ("Latents of both models", crosscoder.section),
    "causal": ("Causal effects", causal.section),
}
NORMS = "relative_norms"
DIFFERENCE = "difference_fve"


def diffing_sections(record: Record, level: str, beside: Sequence[Record]) -> list[str]:
    """The parts of a card on one checkpoint, under headings of ``level`` (``##``).

    ``beside`` are all checkpoints of the card, this one included: the table of latents is named after it
    where there are several.
    """
    parts: list[str] = []
    for name, (title, section) in PARTS.items():
        if name in record.details and (text := section(record)):
            parts += [f"{level} {title}", text]
    if causal_table.rows_of(mapping(record.details.get("causal"))):
        file = _names(causal_table.FILE, _tabled(beside))[record.name]
        parts += [f"Every ablated latent, with all statistics, is a row of [{file}]({file})."]
    return parts


def across(records: Sequence[Record], level: str) -> list[str]:
    """Tables of difference SAEs side by side, under a heading; empty without one that was measured."""
    found = overview(records)
    return [f"{level} Layers and active latents", found] if found else []


def diffing_plots(records: Sequence[Record]) -> dict[str, tuple[str, bytes]]:
    """Caption and PNG by file stem, for as many as the records have data.

    Raises :class:`MissingExtraError` when matplotlib is not installed.
    """
    drawn: dict[str, tuple[str, bytes]] = {}
    subtracted = [record for record in records if difference_plot.has_data(record)]
    if subtracted:
        words = difference_plot.caption(subtracted)
        drawn[DIFFERENCE] = (words, png(lambda: difference_plot.difference_plot(subtracted)))
    normed = [record for record in records if relative_norms(record)]
    if normed:
        words = "Latents by the share of their decoder norm that is the second model's, by class"
        drawn[NORMS] = (words, png(lambda: crosscoder_plot(normed)))
    tested = [record for record in records if causal_plot.has_data(record)]
    names = _names(causal_plot.FILE, tested)
    for record in tested:
        stem = names[record.name].removesuffix(".png")
        drawn[stem] = (_captioned(record, tested), causal_plot.plot(record))
    return drawn


def diffing_tables(records: Sequence[Record]) -> dict[str, bytes]:
    """The content of files beside the report, by name: every ablated latent, as CSV."""
    found = _tabled(records)
    names = _names(causal_table.FILE, found)
    return {names[record.name]: causal_table.csv_text(record).encode() for record in found}


def _tabled(records: Sequence[Record]) -> list[Record]:
    """The checkpoints of which a latent was ablated."""
    return [one for one in records if causal_table.rows_of(mapping(one.details.get("causal")))]


def _names(file: str, records: Sequence[Record]) -> dict[str, str]:
    """The name of the file about each checkpoint; of several, with the name of the checkpoint in it.

    Names that differ in what a file name cannot hold are numbered.
    """
    if len(records) == 1:
        return {records[0].name: file}
    stem, dot, kind = file.rpartition(".")
    found: dict[str, str] = {}
    for record in records:
        safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in record.name)
        candidates = (safe if n == 1 else f"{safe}-{n}" for n in count(1))
        taken = set(found.values())
        found[record.name] = next(
            name for one in candidates if (name := f"{stem}-{one}{dot}{kind}") not in taken
        )
    return found


def _captioned(record: Record, beside: Sequence[Record]) -> str:
    words = causal_plot.caption(record)
    return words if len(beside) == 1 else f"{record.name}: {words}"
