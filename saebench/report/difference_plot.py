"""How much of the difference of two models is explained, by k and token subset: a panel per site."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saebench.record import Measurement, Record
from saebench.report.digits import count, number_or_dash
from saebench.report.plot_style import FAINT, PALETTE, WIDTH, dash, quiet_grid, short
from saebench.report.stored import mapping

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PART = "difference"
# Metric, words, marker and the share of tokens that the protocol states.
SUBSETS = {
    "diff_fve": ("all tokens", "o", ""),
    "diff_fve_fire": ("fire tokens", "s", ""),
    "diff_fve_top": ("largest ‖δ‖", "^", "top"),
    "diff_fve_bottom": ("smallest ‖δ‖", "D", "bottom"),
}
COLOURS = dict(zip(SUBSETS, PALETTE, strict=False))
SIGNS = {"1-0": "model 1 − model 0", "0-1": "model 0 − model 1"}
MOST_PANELS = 6
MOST_NAMES = 12  # checkpoints of a panel that names them
LOWEST = -0.25  # what is below is drawn at the edge, with its value
SIZE = 3.5  # of a marker, in points
APART = {True: 0.07, False: 0.15}  # between subsets over one k, in doublings, or one name, in names
LONGEST_TICK = 18  # letters of a name that is turned


@dataclass(frozen=True)
class _Panel:
    """Checkpoints at one site: over k where it differs, else by name."""

    title: str
    note: str  # under the title
    records: list[Record]
    over_k: bool


def has_data(record: Record) -> bool:
    """Whether one of the subsets has an FVE."""
    return any(_figure(record, metric) for metric in SUBSETS)


def caption(records: Sequence[Record]) -> str:
    """What the plot shows, in a sentence for those who do not see it."""
    panels = _panels(records)
    kinds = {panel.over_k for panel in panels[:MOST_PANELS]}
    over = "over k (log scale)" if kinds == {True} else "by checkpoint"
    if len(kinds) > 1:
        over = "over k (log scale) or by checkpoint"
    drawn = [one for panel in panels[:MOST_PANELS] for one in panel.records]
    subsets = [_words(metric, drawn) for metric in _present(drawn)]
    words = (
        f"FVE of the difference of the models, about the mean of each subset, {over}, a panel per site: "
        f"{', '.join(subsets)}; bars are 95 % intervals"
    )
    if len(panels) > MOST_PANELS:
        words += f" (first {MOST_PANELS} of {count(len(panels))} panels)"
    return words


def difference_plot(records: Sequence[Record]) -> Figure:
    """A panel per site, six at most: FVE of each subset with its interval, over k or by checkpoint."""
    from matplotlib.figure import Figure

    panels = _panels(records)[:MOST_PANELS]
    drawn = [one for panel in panels for one in panel.records]
    columns = 1 if len(panels) == 1 else 2
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(WIDTH, 1.0 + 2.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    low, sizes = _floor(drawn), _sizes(drawn)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw(axes, panel, low, sizes)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    figure.supylabel("FVE about own mean, 95 % interval", fontsize=9)
    figure.legend(
        handles=_handles(drawn, sizes),
        loc="outside upper center",
        ncols=4,
        fontsize=8,
        frameon=False,
        columnspacing=1.4,
        handlelength=1.6,
    )
    return figure


def _panels(records: Sequence[Record]) -> list[_Panel]:
    """Checkpoints with a figure by site, sign and models, those without a k apart."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in filter(has_data, records):
        found = mapping(record.details.get(PART))
        models = [record.model, *(record.model.get("others") or ())]
        digests = [str(mapping(model).get("digest")) for model in models]
        where = (str(found.get("site")), str(found.get("difference")))
        groups.setdefault((*where, str(_k(record) is None), *digests), []).append(record)
    return [_panel(key[0], key[1], members) for key, members in groups.items()]


def _panel(site: str, sign: str, members: list[Record]) -> _Panel:
    title, note = short(site), [words] if (words := SIGNS.get(sign)) else []
    ks = {_k(record) for record in members}
    if len(ks) > 1:
        ordered = sorted(members, key=lambda record: _k(record) or 0)
        return _Panel(title, ", ".join(note), ordered, over_k=True)
    only = next(iter(ks))
    note += [] if only is None else [f"k = {number_or_dash(only)}"]
    if len(members) > MOST_NAMES:
        note.append(f"first {MOST_NAMES} of {count(len(members))} checkpoints")
    return _Panel(title, ", ".join(note), members[:MOST_NAMES], over_k=False)


def _draw(axes: Axes, panel: _Panel, low: float, sizes: Sequence[int]) -> None:
    present = _present(panel.records)
    for place, metric in enumerate(present):
        shift = APART[panel.over_k] * (place - (len(present) - 1) / 2)
        for size, members in _by_size(panel.records).items():
            points = [
                (_place(panel, record, shift), found)
                for record in members
                if (found := _figure(record, metric)) is not None
            ]
            repeated = len({x for x, _ in points}) < len(points)  # of several runs at one k
            if panel.over_k and not repeated:
                ys = [max(found.value or 0.0, low) for _, found in points]
                line: Any = dash(len(PALETTE) * sizes.index(size)) if size in sizes else "-"
                axes.plot([x for x, _ in points], ys, linestyle=line, color=COLOURS[metric], lw=1)
            for x, found in points:
                _dot(axes, x, found, metric, low)
    axes.set_title(panel.title, pad=17)
    axes.annotate(
        panel.note,
        (0, 1),
        (0, 5),
        xycoords="axes fraction",
        textcoords="offset points",
        va="bottom",
        color=FAINT,
        fontsize=7.5,
    )
    axes.set_ylim(low, 1.03)
    quiet_grid(axes, "y")
    axes.tick_params(labelleft=True)
    _x_axis(axes, panel)


def _x_axis(axes: Axes, panel: _Panel) -> None:
    if panel.over_k:
        ks = sorted({k for record in panel.records if (k := _k(record)) is not None})
        axes.set_xscale("log", base=2)
        axes.set_xlim(ks[0] * 2**-0.4, ks[-1] * 2**0.4)
        axes.set_xticks(ks, [number_or_dash(k) for k in ks])
        axes.minorticks_off()
        axes.set_xlabel("k")
        return
    names = [short(record.name) for record in panel.records]
    crowded = sum(map(len, names)) > 40
    turned: dict[str, Any] = (
        {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    )
    half = LONGEST_TICK // 2
    if crowded:
        names = [n if len(n) <= LONGEST_TICK else f"{n[: half - 1]}…{n[-half:]}" for n in names]
    axes.set_xticks(range(len(names)), names, **turned)
    axes.set_xlim(-0.5, len(names) - 0.5)


def _dot(axes: Axes, x: float, found: Measurement, metric: str, low: float) -> None:
    """A marker over its interval; what is below the axis stands at its edge, with its value."""
    assert found.value is not None
    ink, marker = COLOURS[metric], SUBSETS[metric][1]
    if found.low is not None and found.high is not None:
        ends = [max(found.low, low), max(found.high, low)]
        axes.plot([x, x], ends, "-_", color=ink, linewidth=1.2, markersize=6, clip_on=False)
    y = max(found.value, low)
    axes.plot(x, y, marker, color=ink, markersize=SIZE, markeredgewidth=0, clip_on=False, zorder=3)
    if found.value < low:
        words = f"{found.value:.2f}"
        place: dict[str, Any] = {"xytext": (0, 5), "textcoords": "offset points", "ha": "center"}
        axes.annotate(words, (x, y), color=ink, fontsize=7, rotation=90, **place)


def _handles(records: Sequence[Record], sizes: Sequence[int]) -> list[Any]:
    """A marker for each subset, and a line for each size where there are several."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=COLOURS[metric],
            marker=SUBSETS[metric][1],
            markersize=SIZE,
            linewidth=1,
            label=_words(metric, records),
        )
        for metric in _present(records)
    ]
    if len(sizes) > 1:
        for place, size in enumerate(sizes):
            line: Any = dash(len(PALETTE) * place)
            words = f"{count(size)} latents"
            handles.append(Line2D([], [], color=FAINT, linestyle=line, linewidth=1, label=words))
    return handles


def _words(metric: str, records: Sequence[Record]) -> str:
    """What a subset is called, with its share of the tokens where all records took the same."""
    words, _, name = SUBSETS[metric]
    shares = {
        _finite(mapping(mapping(record.details.get(PART)).get("protocol")).get(name))
        for record in records
    }
    share = shares.pop() if name and len(shares) == 1 else None
    return words if share is None else f"{words} ({number_or_dash(100 * share)} % of tokens)"


def _present(records: Sequence[Record]) -> list[str]:
    return [metric for metric in SUBSETS if any(_figure(record, metric) for record in records)]


def _figure(record: Record, metric: str) -> Measurement | None:
    found = record.get(metric)
    return found if found is not None and found.value is not None else None


def _floor(records: Sequence[Record]) -> float:
    """The lower end of the axis: a little below the lowest figure or interval."""
    found = [m for record in records for metric in SUBSETS if (m := _figure(record, metric))]
    ends = [end for m in found for end in (m.value, m.low) if end is not None]
    return max(LOWEST, math.floor(20 * min([*ends, 0.95]) - 0.5) / 20)


def _place(panel: _Panel, record: Record, shift: float) -> float:
    if panel.over_k:
        return (_k(record) or 1.0) * 2.0**shift
    return next(n for n, one in enumerate(panel.records) if one is record) + shift


def _by_size(records: Sequence[Record]) -> dict[object, list[Record]]:
    groups: dict[object, list[Record]] = {}
    for record in records:
        groups.setdefault(_size(record), []).append(record)
    return groups


def _sizes(records: Sequence[Record]) -> list[int]:
    return sorted({size for record in records if (size := _size(record)) is not None})


def _size(record: Record) -> int | None:
    size = mapping(record.details.get(PART)).get("d_sae")
    return size if isinstance(size, int) else None


def _k(record: Record) -> float | None:
    k = _finite(mapping(record.details.get(PART)).get("k"))
    return k if k is not None and k > 0 else None


def _finite(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if math.isfinite(value) else None
