"""How alike matched latents are: a histogram of matched cosines per group, with the chance floor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from saebench.comparison.seeds import Histogram, Seeds
from saebench.report.digits import count
from saebench.report.plot_style import FAINT, INK, WIDTH, colour, quiet_grid, short, tint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 12  # panels


def drawn_histograms(groups: Sequence[Seeds]) -> list[tuple[Seeds, Histogram]]:
    """The groups that have a histogram of matched cosines, at most twelve."""
    return [(one, one.histogram) for one in groups if one.histogram is not None][:MOST]


def cosine_plot(groups: Sequence[Seeds]) -> Figure:
    """A panel per group: matched cosines of decoder rows over all pairs, chance floor and threshold."""
    from matplotlib.figure import Figure

    drawn = drawn_histograms(groups)
    columns = 1 if len(drawn) == 1 else 2
    rows = math.ceil(len(drawn) / columns)
    figure = Figure(figsize=(WIDTH, 0.9 + 1.75 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    top = 1.3 * max(max(histogram.counts) for _, histogram in drawn) or 1.0
    left = min(_first_edge(histogram) for _, histogram in drawn)
    for place, (panel, (seeds, histogram)) in enumerate(zip(grid.flat, drawn, strict=False)):
        _panel(panel, seeds, histogram, colour(place), top, left)
    for panel in list(grid.flat)[len(drawn) :]:
        panel.set_visible(False)
        grid[rows - 2][columns - 1].tick_params(labelbottom=True)
    figure.supxlabel("cosine of matched decoder rows", fontsize=9)
    figure.supylabel("pairs of latents", fontsize=9)
    return figure


def _panel(
    axes: Axes, seeds: Seeds, histogram: Histogram, ink: str, top: float, left: float
) -> None:
    axes.set_xlim(left, 1.0)
    axes.set_xticks([tick / 4 for tick in range(math.ceil(4 * left), 5)])
    axes.stairs(histogram.counts, histogram.edges, fill=True, color=tint(ink))
    axes.stairs(histogram.counts, histogram.edges, color=ink, linewidth=1.2)
    if histogram.floor is not None:
        _mark(axes, histogram.floor, f"chance {histogram.floor:.2f}", FAINT, 0.98 * top, (3, 2))
    if seeds.threshold is not None:
        _mark(axes, seeds.threshold, f"shared > {seeds.threshold:g}", INK, 0.86 * top, (1, 1.5))
    pairs = "pair" if histogram.n_pairs == 1 else "pairs"
    axes.set_title(f"{short(seeds.group)}  ({count(histogram.n_pairs)} {pairs})", color=ink)
    axes.set_ylim(0, top)
    quiet_grid(axes, "y")


def _first_edge(histogram: Histogram) -> float:
    """Where something begins to be in it, a quarter or more below 0.25 and not below −1."""
    filled = [edge for edge, n in zip(histogram.edges, histogram.counts, strict=False) if n]
    return max(math.floor(4 * min([0.25, *filled, histogram.floor or 0.25])) / 4 - 0.25, -1.0)


def _mark(
    axes: Axes, place: float, words: str, ink: str, height: float, dashes: tuple[float, float]
) -> None:
    axes.axvline(place, color=ink, linewidth=1, linestyle=(0, dashes))
    right = place > 0.6 * axes.get_xlim()[1]
    axes.text(
        place - 0.01 if right else place + 0.01,
        height,
        words,
        color=ink,
        va="top",
        ha="right" if right else "left",
        fontsize=7.5,
    )
