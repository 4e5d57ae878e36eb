"""The plots of a report as PNG files: which there are, what each shows, and how many checkpoints fit."""

from __future__ import annotations

from collections.abc import Sequence

from saebench.record import Record
from saebench.report.alive_plot import alive_plot
from saebench.report.density_plot import density_plot
from saebench.report.digits import count
from saebench.report.fve_plot import fve_plot
from saebench.report.plot_style import png
from saebench.report.results import sample, value_of

MOST_PANELS = 12


def draw_plots(records: Sequence[Record]) -> dict[str, bytes]:
    """PNG by file stem (``fve``, ``density``, ``alive``), for as many as the records have data.

    At most twelve checkpoints are drawn, the first ones. The same records give the same bytes.
    Raises :class:`MissingExtraError` when matplotlib is not installed.
    """
    few = list(records)[:MOST_PANELS]
    drawn = {}
    if any(value_of(record, "fve") is not None for record in few):
        drawn["fve"] = png(lambda: fve_plot(few))
    if any(record.curves.get("density") for record in few):
        drawn["density"] = png(lambda: density_plot(few))
    if any(record.curves.get("alive") for record in few):
        drawn["alive"] = png(lambda: alive_plot(few))
    return drawn


def caption(stem: str, records: Sequence[Record]) -> str:
    """What a plot shows, in a sentence for those who do not see it."""
    few = records[:MOST_PANELS]
    others = {on for record in few if (on := sample(record, "fve_random_init"))}
    on = f" (on {others.pop() if len(others) == 1 else 'other sequences'})" if others else ""
    words = {
        "fve": f"FVE with its 95 % interval beside the mean predictor, an untrained SAE{on} and PCA",
        "density": "Histogram of firing densities, with the latents that never fired",
        "alive": "Share of latents that fired at least once, over tokens read",
    }[stem]
    if len(records) > MOST_PANELS:
        words += f" (first {MOST_PANELS} of {count(len(records))} checkpoints)"
    return words
