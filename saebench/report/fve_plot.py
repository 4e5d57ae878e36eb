"""FVE beside what it has to beat: the mean predictor, an untrained SAE, PCA of the same rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from saebench.gates import shown
from saebench.record import Measurement, Record
from saebench.report.plot_style import (
    FAINT,
    GRID,
    INK,
    WIDTH,
    colour,
    figure_of,
    one_axes,
    short,
    spread,
    tint,
)
from saebench.report.results import value_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOWEST_FVE = (
    -0.25
)  # an untrained SAE can be far below zero: there it is drawn at the edge, with its value
# What stands in a row of the FVE plot: the words over the first row, and the marker.
MARKS = {
    "fve_mean_predictor": ("mean predictor", "|"),
    "fve_random_init": ("random-init SAE", "D"),
    "fve_pca": ("PCA, rank L0", "s"),
    "fve": ("this SAE", ""),
}


def fve_plot(records: Sequence[Record]) -> Figure:
    """A row per checkpoint: FVE with its interval, and the baselines it has to beat."""
    axes = one_axes(1.25 + 0.4 * len(records))
    drawn = [(i, record) for i, record in enumerate(records) if value_of(record, "fve") is not None]
    values = [
        v for _, record in drawn for name in MARKS if (v := value_of(record, name)) is not None
    ]
    left = max(min([0.0, *values]), LOWEST_FVE)
    axes.set_xlim(left - 0.04, 1.02)
    axes.set_ylim(len(drawn) - 0.5, -0.95)
    fifths = [tick / 5 for tick in range(-1, 6)]
    axes.vlines(fifths, -0.45, len(drawn) - 0.5, color=GRID, linewidth=0.7)
    for row, (index, record) in enumerate(drawn):
        _fve_row(axes, record, row, colour(index), left)
    names = [short(record.name) for _, record in drawn]
    inches = WIDTH - 1.75 - 0.07 * max(map(len, names))  # what numbers and names leave for the axis
    _name_markers(axes, drawn, left, per_letter=0.062 * (1.06 - left) / inches)
    axes.set_yticks(range(len(drawn)), names)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("fraction of variance explained (FVE), 95 % interval")
    axes.spines["left"].set_visible(False)
    return figure_of(axes)


def _fve_row(axes: Axes, record: Record, row: int, ink: str, left: float) -> None:
    measured = record.get("fve")
    assert measured is not None
    assert measured.value is not None
    for name, (_, marker) in MARKS.items():
        baseline = record.get(name)
        if marker and baseline is not None and baseline.value is not None:
            _baseline(axes, baseline, row, marker, left)
    if measured.low is not None and measured.high is not None:
        low, high = max(measured.low, left), max(measured.high, left)
        axes.barh(row, high - low, 0.5, left=low, color=tint(ink), zorder=3)
    middle = max(measured.value, left)
    axes.vlines(middle, row - 0.25, row + 0.25, color=ink, linewidth=1.3, zorder=4)
    beside = (1.0, row)
    edge = axes.get_yaxis_transform()
    axes.annotate(
        shown(measured),
        beside,
        (8, 0),
        textcoords="offset points",
        xycoords=edge,
        va="center",
        color=ink,
    )


def _baseline(axes: Axes, baseline: Measurement, row: int, marker: str, left: float) -> None:
    """One grey marker, over its interval; what is off the axis becomes an arrow with its value."""
    value = baseline.value
    assert value is not None
    if value < left:
        words, marker = f"{value:.2f}", "<"
        axes.annotate(
            words, (left, row), (6, 0), textcoords="offset points", va="center", color=FAINT
        )
    elif baseline.low is not None and baseline.high is not None:
        ends = [max(baseline.low, left), baseline.high]
        axes.plot(ends, [row, row], color=FAINT, linewidth=1.4, zorder=2)
    face, size = (FAINT, 11) if marker == "|" else ("white", 6)
    style: dict[str, Any] = {
        "color": FAINT,
        "markerfacecolor": face,
        "markersize": size,
        "markeredgewidth": 1.4,
    }
    axes.plot(max(value, left), row, marker, zorder=2, **style)


def _name_markers(
    axes: Axes, drawn: Sequence[tuple[int, Record]], left: float, per_letter: float
) -> None:
    """Words above the first row, each over its first marker, moved apart where they would overlap."""
    found = []
    for name in MARKS:
        values = [v for _, record in drawn if (v := value_of(record, name)) is not None]
        if values:
            found.append((values[0], name))
    sizes = [per_letter * (len(MARKS[name][0]) + 1.5) for _, name in found]
    places = spread([max(value, left) for value, _ in found], sizes)
    for (_, name), place in zip(found, places, strict=True):
        ink = INK if name == "fve" else FAINT
        axes.text(place, -0.5, MARKS[name][0], ha="center", va="bottom", color=ink, fontsize=8)
