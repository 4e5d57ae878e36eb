"""How many latents have fired after so many tokens: a curve that still rises calls nothing dead yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from saebench.record import Record
from saebench.report.plot_style import colour, dash, figure_of, one_axes, quiet_grid, short, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def alive_plot(records: Sequence[Record]) -> Figure:
    """A line per checkpoint: the share of its latents that had fired after so many tokens."""
    axes = one_axes(3.4)
    ends: list[tuple[float, str, str]] = []
    last = 0
    for index, record in enumerate(records):
        curve = record.curves.get("alive")
        n_latents = record.checkpoint.get("cfg", {}).get("d_sae")
        if not curve or not n_latents:
            continue
        tokens = [point["n_tokens"] for point in curve]
        shares = [100 * point["alive"] / n_latents for point in curve]
        axes.plot(tokens, shares, color=colour(index), linestyle=dash(index), linewidth=1.8)
        axes.plot(tokens[-1], shares[-1], "o", color=colour(index), markersize=4)
        ends.append((shares[-1], f"{short(record.name)}  {shares[-1]:.1f} %", colour(index)))
        last = max(last, tokens[-1])
    axes.set_xscale("log")
    axes.set_ylim(0, 104)
    axes.xaxis.set_major_formatter(lambda value, _: _tokens(value))
    axes.set_yticks(range(0, 101, 20), [f"{share} %" for share in range(0, 101, 20)])
    _name_ends(axes, last, ends)
    axes.set_xlabel("tokens read (log scale)")
    axes.set_ylabel("latents that fired at least once")
    quiet_grid(axes, "y")
    return figure_of(axes)


def _name_ends(axes: Axes, last: float, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names at the right, in the order of the lines, each tied to the end of its line."""
    from matplotlib.transforms import offset_copy

    beside = offset_copy(axes.transData, axes.get_figure(root=True), x=22, units="points")
    places = spread([end[0] for end in ends], [6.4] * len(ends), 1, 102)
    for (share, words, ink), place in zip(ends, places, strict=True):
        tie = {"arrowstyle": "-", "color": ink, "linewidth": 0.7, "relpos": (0, 0.5), "shrinkB": 3}
        axes.annotate(
            words,
            (last, share),
            (last, place),
            textcoords=beside,
            va="center",
            color=ink,
            arrowprops=tie,
            annotation_clip=False,
        )


def _tokens(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"
