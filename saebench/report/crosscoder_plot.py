"""Which model latents of a crosscoder belong to: a histogram of relative norms, coloured by class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saebench.record import Record
from saebench.report.digits import count
from saebench.report.plot_style import FAINT, PALETTE, WIDTH, quiet_grid, short, tint
from saebench.report.stored import mapping

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLASSES = ("base_only", "shared", "chat_only", "other")  # the dead are named, not drawn
WORDS = {"base_only": "base only", "shared": "shared", "chat_only": "chat only", "other": "other"}
COUNTS_SIZE, LINE_POINTS = 7.5, 11  # of the counts under a title: letters, and lines with the gaps
LINE_LENGTH = 112  # letters of that size across the figure
COLOURS = dict(zip(CLASSES, (PALETTE[0], PALETTE[2], PALETTE[1], FAINT), strict=True))


def crosscoder_plot(records: Sequence[Record]) -> Figure:
    """A panel per crosscoder: how many latents have which relative norm, stacked by class; log counts."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    drawn = [(record, found) for record in records if (found := relative_norms(record))]
    columns = 1 if len(drawn) == 1 else 2
    rows = math.ceil(len(drawn) / columns)
    figure = Figure(figsize=(WIDTH, 0.9 + 2.1 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    for panel, (record, found) in zip(grid.flat, drawn, strict=False):
        _panel(panel, record, found, LINE_LENGTH // columns)
    for panel in list(grid.flat)[len(drawn) :]:
        panel.set_visible(False)
        grid[rows - 2][columns - 1].tick_params(labelbottom=True)
    figure.legend(
        # made by hand: a class without a latent has no bar to take its colours from
        handles=[
            Patch(facecolor=tint(COLOURS[name]), edgecolor=COLOURS[name], label=WORDS[name])
            for name in CLASSES
        ],
        loc="outside upper center",
        ncols=len(CLASSES),
        fontsize=8,
        frameon=False,
        handlelength=1.0,
        columnspacing=1.4,
    )
    figure.supxlabel("relative norm ‖d chat‖ / (‖d base‖ + ‖d chat‖)", fontsize=9)
    figure.supylabel("latents (log scale)", fontsize=9)
    return figure


def relative_norms(record: Record) -> Mapping[str, Any]:
    """The histogram of a record; empty where it has none that could be drawn."""
    tables = mapping(mapping(record.details.get("crosscoder")).get("histograms"))
    found = mapping(tables.get("relative_norm"))
    edges, counts = found.get("edges"), mapping(found.get("counts"))
    if not isinstance(edges, list) or len(edges) < 2 or any(not _number(edge) for edge in edges):
        return {}
    bars = {name: counts.get(name) for name in CLASSES}
    whole = all(
        isinstance(bar, list) and len(bar) == len(edges) - 1 and all(map(_number, bar))
        for bar in bars.values()
    )
    return found if whole else {}


def _panel(axes: Axes, record: Record, found: Mapping[str, Any], length: int) -> None:
    edges, counts = found["edges"], found["counts"]
    below = [0.0] * (len(edges) - 1)
    for name in CLASSES:
        ink = COLOURS[name]
        filled = [place for place, n in enumerate(counts[name]) if n]
        # on a log scale a bar begins where the one below it ends, and the first below a single latent
        bottoms = [max(below[place], 0.5) for place in filled]
        tops = [below[place] + counts[name][place] for place in filled]
        axes.bar(
            [edges[place] for place in filled],
            [top - bottom for top, bottom in zip(tops, bottoms, strict=True)],
            [edges[place + 1] - edges[place] for place in filled],
            bottoms,
            align="edge",
            color=tint(ink),
            edgecolor=ink,
        )
        below = [low + n for low, n in zip(below, counts[name], strict=True)]
    _axes(axes, edges, max(below))
    lines = _counted(record, counts, length)
    axes.set_title(short(record.name), pad=5 + LINE_POINTS * len(lines))
    axes.annotate(
        "\n".join(lines),
        (0, 1),
        (0, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        va="bottom",
        color=FAINT,
        fontsize=COUNTS_SIZE,
        linespacing=1.2,
    )


def _axes(axes: Axes, edges: Sequence[float], most: float) -> None:
    axes.set_yscale("log")
    axes.set_ylim(0.5, 3 * max(most, 1.0))
    powers = range(math.floor(math.log10(max(most, 1.0))) + 1)
    axes.set_yticks([10.0**power for power in powers], [count(10**power) for power in powers])
    axes.minorticks_off()
    axes.set_xlim(edges[0] - 0.01, edges[-1] + 0.01)
    quiet_grid(axes, "y")


def _counted(record: Record, counts: Mapping[str, Any], length: int) -> list[str]:
    """How many latents each class has, and how many never fired, in lines of ``length`` letters."""
    dead = mapping(mapping(record.details["crosscoder"]).get("window")).get("dead")
    parts = [f"{count(sum(counts[name]))} {WORDS[name]}" for name in CLASSES]
    parts += [f"{count(dead)} never fired"] if _number(dead) and dead else []
    lines = [""]
    for part in parts:
        if lines[-1] and len(lines[-1]) + 2 + len(part) > length:
            lines[-1] += ","
            lines.append("")
        lines[-1] += f", {part}" if lines[-1] else part
    return lines


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
