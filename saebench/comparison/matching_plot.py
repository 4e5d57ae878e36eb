"""The heat map of a comparison: mean matched cosine of every pair of checkpoints that was matched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from saebench.comparison.checkpoints import Checkpoints
from saebench.comparison.groups import SeedGroup
from saebench.comparison.seeds import matched_cosine
from saebench.report.plot_style import FAINT, INK, WIDTH, figure_of, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 24  # checkpoints: beyond that the numbers in the cells are too small to read
COLOURS = "Blues"  # one hue from light to dark, so that it also reads in grey
TURN = 0.6  # above this share of the scale letters are white


def matched_pairs(
    groups: Sequence[SeedGroup], checkpoints: Checkpoints
) -> dict[tuple[str, str], float]:
    """The mean matched cosine by names, for those pairs of members of groups of one model that have it."""
    model = groups[0].model if groups else ""
    names = list(dict.fromkeys(name for group in groups for name in group.names))
    found = {}
    for a in names:
        for b in names:
            pair = checkpoints.pairs.get((model, frozenset({a, b}))) if a != b else None
            value = matched_cosine(pair) if pair is not None else None
            if value is not None:
                found[a, b] = value
    return found


def matching_plot(groups: Sequence[SeedGroup], checkpoints: Checkpoints) -> Figure:
    """A row and a column for each checkpoint of the ``groups`` of one model, at most the first 24.

    Each cell holds its number; lines part the groups; what was not matched is hatched.
    """
    import numpy as np

    from saebench.report.plot_style import one_axes

    pairs = matched_pairs(groups, checkpoints)
    names = list(dict.fromkeys(name for group in groups for name in group.names))[:MOST]
    grid = np.full((len(names), len(names)), np.nan)
    for row, a in enumerate(names):
        for column, b in enumerate(names):
            grid[row, column] = pairs.get((a, b), np.nan)
    axes = one_axes(min(1.4 + 0.42 * len(names), WIDTH))
    axes.set_facecolor("white")
    top = max(1e-9, float(np.nanmax(grid, initial=0.0)))
    low = min(0.0, float(np.nanmin(grid, initial=0.0)))
    axes.imshow(grid, cmap=COLOURS, vmin=low, vmax=max(top, 1.0), aspect="auto")
    _write_cells(axes, grid.tolist(), low, max(top, 1.0))
    _part_groups(axes, groups, names)
    axes.set_xticks(range(len(names)), [short(name) for name in names], rotation=45, ha="right")
    axes.set_yticks(range(len(names)), [short(name) for name in names])
    axes.tick_params(length=0, labelsize=7.5)
    axes.set_title("mean matched cosine of decoder rows")
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure_of(axes)


def _write_cells(axes: Axes, grid: Sequence[Sequence[float]], low: float, high: float) -> None:
    from matplotlib.patches import Rectangle

    size = 8.0 if len(grid) <= 12 else 5.5
    for row, values in enumerate(grid):
        for column, value in enumerate(values):
            if row == column:
                axes.text(
                    column, row, "same", ha="center", va="center", color=FAINT, fontsize=size - 1
                )
                continue
            if value != value:  # not a number: not matched
                box = (column - 0.5, row - 0.5)
                axes.add_patch(
                    Rectangle(box, 1, 1, facecolor="white", edgecolor="#cccccc", hatch="////", lw=0)
                )
                continue
            ink = "white" if (value - low) / (high - low) > TURN else INK
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=size
            )


def _part_groups(axes: Axes, groups: Sequence[SeedGroup], names: Sequence[str]) -> None:
    owner: dict[str, str] = {}
    for group in groups:
        for name in group.names:
            owner.setdefault(name, group.name)
    for place in range(1, len(names)):
        if owner[names[place]] != owner[names[place - 1]]:
            axes.axhline(place - 0.5, color=FAINT, linewidth=1.4)
            axes.axvline(place - 0.5, color=FAINT, linewidth=1.4)
