"""What a card says of checkpoints over two models: their parts, tables across them, and files beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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

PARTS: Mapping[str, tuple[str, Callable[[Record], str]]] = {
    "difference": ("Difference of the models", difference.section),
    "crosscoder": ("Latents of both models", crosscoder.section),
    "causal": ("Causal effects", causal.section),
}
NORMS = "relative_norms"
DIFFERENCE = "difference_fve"


def diffing_sections(record: Record, level: str) -> list[str]:
    """The parts of a card on one checkpoint, under headings of ``level`` (``##``)."""
    parts: list[str] = []
    for name, (title, section) in PARTS.items():
        if name in record.details and (text := section(record)):
            parts += [f"{level} {title}", text]
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
    for record in tested:
        stem = _named(causal_plot.FILE, record, tested).removesuffix(".png")
        drawn[stem] = (_captioned(record, tested), causal_plot.plot(record))
    return drawn


def diffing_tables(records: Sequence[Record]) -> dict[str, bytes]:
    """The content of files beside the report, by name: every ablated latent, as CSV."""
    found = {record.name: record for record in records if causal_table.csv_text(record)}
    return {
        _named(causal_table.FILE, record, list(found.values())): causal_table.csv_text(
            record
        ).encode()
        for record in found.values()
    }


def _named(file: str, record: Record, beside: Sequence[Record]) -> str:
    """The name of a file about one checkpoint; of several, with the name of the checkpoint in it."""
    if len(beside) == 1:
        return file
    stem, dot, kind = file.rpartition(".")
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in record.name)
    return f"{stem}-{safe}{dot}{kind}"


def _captioned(record: Record, beside: Sequence[Record]) -> str:
    words = causal_plot.caption(record)
    return words if len(beside) == 1 else f"{record.name}: {words}"
