"""How often latents fire: a histogram of log10 density, and a bar for those that never did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from saebench.record import Record
from saebench.report.digits import count
from saebench.report.plot_style import FAINT, WIDTH, colour, quiet_grid, short, tint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def density_plot(records: Sequence[Record]) -> Figure:
    """A histogram per checkpoint of log10 firing density; a bar of its own for what never fired."""
    from matplotlib.figure import Figure

    drawn = [(i, record) for i, record in enumerate(records) if record.curves.get("density")]
    columns = 1 if len(drawn) == 1 else 2
    rows = math.ceil(len(drawn) / columns)
    figure = Figure(figsize=(WIDTH, 0.9 + 1.75 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    spectra = [record.curves["density"] for _, record in drawn]
    left = min(_first_edge(spectrum) for spectrum in spectra)
    top = 1.18 * max(max(spectrum["counts"], default=1) for spectrum in spectra) or 1.0
    for panel, (index, record) in zip(grid.flat, drawn, strict=False):
        _density_panel(panel, record, colour(index), left, top)
    for panel in list(grid.flat)[len(drawn) :]:
        panel.set_visible(False)
        grid[rows - 2][columns - 1].tick_params(labelbottom=True)
    figure.supxlabel("share of tokens on which a latent fires (log scale)", fontsize=9)
    figure.supylabel("latents", fontsize=9)
    return figure


def _density_panel(axes: Axes, record: Record, ink: str, left: float, top: float) -> None:
    spectrum = record.curves["density"]
    edges, counts = spectrum["log10_edges"], spectrum["counts"]
    filled = [place for place, n in enumerate(counts) if n]
    if filled:
        first, last = filled[0], filled[-1] + 1
        values, bounds = counts[first:last], edges[first : last + 1]
        axes.stairs(values, bounds, fill=True, color=tint(ink))
        axes.stairs(values, bounds, color=ink, linewidth=1.2)
    _never(axes, int(spectrum["dead"]), sum(counts), left - 1, top)
    n = int(spectrum.get("n_tokens") or 0)
    if n:
        bound = math.log10(3 / n)
        axes.axvline(bound, color=FAINT, linewidth=1, linestyle=(0, (3, 2)))
        words = f"3/n, n = {count(n)}"
        axes.text(bound + 0.06, 0.98 * top, words, color=FAINT, va="top", fontsize=7.5)
    axes.set_title(short(record.name), color=ink)
    ticks = range(math.ceil(left), 1)
    axes.set_xticks([left - 1, *ticks], ["never", *(_power(tick) for tick in ticks)])
    axes.set_xlim(left - 1.35, 0.1)
    axes.set_ylim(0, top)
    quiet_grid(axes, "y")


def _never(axes: Axes, dead: int, alive: int, place: float, top: float) -> None:
    """The bar of the latents that never fired, cut at the ``top`` of the panel; its number stands beside."""
    axes.bar(place, min(dead, top), width=0.36, color="#a8a8a8")
    share = f"\n{100 * dead / (dead + alive):.1f} %" if dead + alive else ""
    height = min(max(dead, 0.2 * top), 0.98 * top)
    axes.text(place + 0.25, height, f"{count(dead)}{share}", va="top", fontsize=8, linespacing=1.1)


def _first_edge(spectrum: Any) -> float:
    """Where the histogram begins to have something in it, or the 3/n bound if that is further left."""
    edges, counts = spectrum["log10_edges"], spectrum["counts"]
    filled = [edge for edge, n in zip(edges, counts, strict=False) if n]
    bound = [math.log10(3 / spectrum["n_tokens"])] if spectrum.get("n_tokens") else []
    return math.floor(min([-3.0, *filled, *bound]))


def _power(exponent: int) -> str:
    digits = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    return f"10{str(exponent).translate(digits)}" if exponent else "1"
