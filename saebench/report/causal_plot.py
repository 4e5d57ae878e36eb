"""Decoder cosine against causal correlation, a dot per latent, with the region of the gaps."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any

from saebench.record import Record
from saebench.report.causal_gaps import any_direction_counts, of_any_direction
from saebench.report.causal_stored import items
from saebench.report.causal_table import Rows, rows_of
from saebench.report.digits import count
from saebench.report.plot_style import (
    FAINT,
    PALETTE,
    figure_of,
    one_axes,
    png,
    quiet_grid,
    short,
    spread,
)
from saebench.report.stored import mapping

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILE = "cosine_vs_causal.png"
HEIGHT = 4.6  # inches
MARGIN = 0.04  # of an axis, beyond the outermost dots
COLOURS = {
    "other": PALETTE[2],
    "base_only": PALETTE[1],
    "chat_only": PALETTE[3],
    "shared": PALETTE[0],
}
NULLS = {"random_pearson": "random directions", "mismatched_pearson": "mismatched latents"}
HOLLOW = "gap, random low too"
LINE_HEIGHT = 0.045  # of the axis, that a label takes
NAMES = {"shared": "shared", "other": "other", "base_only": "base only", "chat_only": "chat only"}


def has_data(record: Record) -> bool:
    """Whether a latent has both a cosine and a correlation."""
    return bool(_dots(mapping(record.details.get("causal"))))


def plot(record: Record) -> bytes:
    """The PNG of :func:`causal_plot`; raises :class:`MissingExtraError` without matplotlib."""
    return png(lambda: causal_plot(record))


def caption(record: Record) -> str:
    """What the plot shows, in a sentence for those who do not see it."""
    found = mapping(record.details.get("causal"))
    gaps = mapping(found.get("gaps"))
    n, sure = (len(items(gaps.get(key))) for key in ("latents", "sure"))
    low, tested = any_direction_counts(found)
    null = (
        f"; in {count(low)} of {count(tested)} a random direction is below it, too"
        if tested
        else ""
    )
    return (
        f"Cosine of both decoder rows against the correlation of both models' shifts, "
        f"{count(len(_dots(found)))} latents; {count(n)} in the region of gaps, {count(sure)} for sure{null}"
    )


def causal_plot(record: Record) -> Figure:
    """A dot per latent that has a cosine and a correlation; the gap region is shaded.

    Gaps whose null is below the limit as well are hollow: their contexts differ for any direction.
    """
    found = mapping(record.details.get("causal"))
    dots = _dots(found)
    axes = one_axes(HEIGHT)
    cosines = [float(row["cosine"]) for row in dots]
    left = min([0.0, *cosines]) - MARGIN
    low = min([0.0, *(float(row["pearson"]) for row in dots)]) - MARGIN
    axes.set_xlim(left, 1 + MARGIN)
    axes.set_ylim(low, 1 + MARGIN)
    quiet_grid(axes, "both")
    _gap_region(axes, mapping(found.get("gaps")), low)
    hollow = {row.get("latent") for row in of_any_direction(found)[0]}
    for name, ink in COLOURS.items():
        mine = [row for row in dots if row.get("class") == name]
        _draw(axes, mine, f"{NAMES[name]} ({count(len(mine))})", ink, hollow)
    _null_lines(axes, found)
    axes.set_xlabel("cosine of the decoder rows of both models")
    axes.set_ylabel("correlation of both models' shifts (Pearson's r)")
    axes.set_title(short(record.name))
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1],  # what is drawn last, over the others, is named first
        labels[::-1],
        loc="lower left",
        bbox_to_anchor=(1.0, 0.0),
        frameon=False,
        handletextpad=0.2,
        fontsize=8,
    )
    return figure_of(axes)


def _draw(axes: Axes, dots: Rows, label: str, ink: str, hollow: Container[object]) -> None:
    """The dots of one class; the label counts all of them, those drawn hollow have one of their own."""
    size = 14 if len(dots) <= 1000 else 6
    full: dict[str, Any] = {"color": ink, "linewidths": 0, "alpha": 0.55, "zorder": 3}
    ring: dict[str, Any] = {"facecolors": "none", "edgecolors": ink, "linewidths": 0.9, "zorder": 4}
    rings = [row for row in dots if row.get("latent") in hollow]
    others = [row for row in dots if row.get("latent") not in hollow]
    parts = ((others, label, full), (rings, f"{HOLLOW} ({count(len(rings))})", ring))
    for part, words, style in parts:
        if part:
            xs, ys = [row["cosine"] for row in part], [row["pearson"] for row in part]
            axes.scatter(xs, ys, s=size, label=words, **style)


def _null_lines(axes: Axes, found: Mapping[str, Any]) -> None:
    """The median correlation that each null gives over the shared latents, as a dashed line."""
    shared = mapping(mapping(mapping(found.get("classes")).get("shared")).get("statistics"))
    values = {words: mapping(shared.get(key)).get("value") for key, words in NULLS.items()}
    known = {words: float(v) for words, v in values.items() if isinstance(v, int | float)}
    span = axes.get_ylim()[1] - axes.get_ylim()[0]
    places = spread(list(known.values()), [LINE_HEIGHT * span] * len(known))
    for (words, value), place in zip(known.items(), places, strict=True):
        axes.axhline(value, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=2)
        axes.annotate(
            f"{words} {value:.2f}",
            (1.0, place),
            (6, 0),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            va="center",
            color=FAINT,
            fontsize=8,
        )


def _gap_region(axes: Axes, gaps: Mapping[str, Any], low: float) -> None:
    """The lower right corner, with how many shared latents are in it."""
    cosine, limit = gaps.get("cosine"), gaps.get("equivalence")
    if not isinstance(cosine, int | float) or not isinstance(limit, int | float):
        return
    width = 1 + MARGIN - cosine
    axes.axhspan(
        low,
        limit,
        xmin=1 - width / (axes.get_xlim()[1] - axes.get_xlim()[0]),
        color="#f3e3d8",
        zorder=0,
    )
    n, sure = (len(items(gaps.get(key))) for key in ("latents", "sure"))
    words = f"{count(n)} below, {count(sure)} for sure"
    axes.annotate(
        words,
        (1 + MARGIN, limit),
        (-4, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        color=FAINT,
        fontsize=8,
    )


def _dots(found: Mapping[str, Any]) -> Rows:
    return [
        row for row in rows_of(found) if _inside(row.get("cosine")) and _inside(row.get("pearson"))
    ]


def _inside(value: object) -> bool:
    return isinstance(value, int | float) and -1 <= value <= 1
