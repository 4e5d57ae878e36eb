"""The tables of a comparison card, in markdown: values by group, sources against each other, seeds."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from saebench.comparison.document import Comparison, GroupValue
from saebench.comparison.groups import SeedGroup
from saebench.comparison.inference import Spread
from saebench.comparison.pairing import Pairing, Row, Summary, smallest_of
from saebench.comparison.quantities import WHOLE, Quantity
from saebench.comparison.seeds import MEASURES, Seeds
from saebench.comparison.text import (
    NOTHING,
    mean_and_sd,
    p_text,
    tally,
    value_text,
    with_interval,
)
from saebench.report import escape
from saebench.report.table import markdown_grid

LARGEST_P = 0.05  # above this for every row, a corrected p says nothing
MOST_PAIRS = 6  # pairs of checkpoints side by side; of more, mean and range stand for all


def groups_table(groups: Sequence[SeedGroup]) -> str:
    """What the groups are."""
    rows = []
    for group in groups:
        names = ", ".join(escape.code_span(name, cell=True) for name in group.names)
        cells = [cell(text) for text in (group.name, group.source, group.block, group.model)]
        rows.append([*cells, f"{len(group.members)}: {names}"])
    return markdown_grid(["Group", "Source", "Block", "Language model", "Checkpoints"], rows)


def values_table(
    comparison: Comparison, place: tuple[str, str], quantities: Sequence[Quantity]
) -> str:
    """Quantities by source at one (model, block): mean over seeds, sd and n."""
    sources = [group.source for group in comparison.gathered.groups if group.cell == place]
    rows = []
    for quantity in quantities:
        cells = []
        for source in sources:
            found = comparison.value(quantity, source, place)
            if found is None:
                cells.append(NOTHING)
            elif quantity.of_group:
                cells.append(_whole(found))
            else:
                cells.append(_seeds_text(quantity, found.over_seeds))
        if set(cells) != {NOTHING}:
            rows.append([cell(quantity.label), _better(quantity), *cells])
    header = ["Metric", "Better", *map(cell, sources)]
    return markdown_grid(header, rows) if rows else ""


def tasks_table(comparison: Comparison, place: tuple[str, str]) -> str:
    """Quantities that were measured by task, task by task."""
    sources = [group.source for group in comparison.gathered.groups if group.cell == place]
    rows = []
    for quantity in comparison.measured.quantities:
        if not quantity.by_task:
            continue
        found = [comparison.value(quantity, source, place) for source in sources]
        tasks = dict.fromkeys(task for one in found if one for task in one.by_task)
        for task in tasks:
            spreads = [one.by_task.get(task) if one else None for one in found]
            cells = [_seeds_text(quantity, one) if one else NOTHING for one in spreads]
            rows.append([cell(quantity.label), cell(task), *cells])
    return markdown_grid(["Metric", "Task", *map(cell, sources)], rows) if rows else ""


def pairing_table(pairing: Pairing, rows: Sequence[Row]) -> str:
    """Each quantity over all places of two sources; columns that would say nothing are left out."""
    a, b = cell(pairing.a), cell(pairing.b)
    tasks = any(row.overall.n_cells > row.overall.n_places for row in rows)
    corrected = _can_pass(smallest_of(rows))
    grid = []
    for row in rows:
        whole = row.overall
        difference, interval = with_interval(whole.difference, whole.low, whole.high)
        grid.append(
            [
                *(cell(row.quantity.label), _better(row.quantity), str(whole.n_places)),
                *(value_text(whole.mean_a), value_text(whole.mean_b), difference, interval),
                *(p_text(whole.sign.p), p_text(whole.sign.smallest_p)),
                *([p_text(row.p_holm)] if corrected else []),
                tally(whole.sign_test_cells),
                *([p_text(whole.sign_test_cells.p)] if tasks else []),
            ]
        )
    header = [
        *("Metric", "Better", "Places", f"Mean {a}", f"Mean {b}", "Mean difference"),
        *("95 % interval", "Sign test p", "Smallest possible p"),
        *(["p (Holm)"] if corrected else []),
        "Wins–ties–losses",
        *(["Sign test p if cells were independent"] if tasks else []),
    ]
    return markdown_grid(header, grid)


def why_no_holm(smallest: Sequence[float], replicates: str) -> str:
    """Why a table has no corrected p, given the smallest p of its rows; empty where it has one."""
    if _can_pass(smallest):
        return ""
    if not smallest:
        return f"There are too few {replicates} that differ for a test."
    return (
        f"No p is corrected for the number of rows: the smallest p that so few {replicates} allow is "
        f"{p_text(min(smallest))}, so no row could be below {LARGEST_P}."
    )


def by_model_table(rows: Sequence[Row]) -> str:
    """The mean difference, wins, ties and losses of each language model; empty where there is one."""
    models = list(dict.fromkeys(model for row in rows for model in row.by_model))
    if len(models) < 2:
        return ""
    grid = [
        [cell(row.quantity.label), *(_of_model(row.by_model.get(model)) for model in models)]
        for row in rows
    ]
    return markdown_grid(["Metric", *map(cell, models)], grid)


def cells_table(pairing: Pairing, rows: Sequence[Row]) -> str:
    """Every cell behind the summaries."""
    grid = []
    for row in rows:
        for one in row.cells:
            where = [cell(text) for text in (one.model, one.block, one.task)]
            means = [
                f"{value_text(one.mean_a)} (n {one.n_a})",
                f"{value_text(one.mean_b)} (n {one.n_b})",
            ]
            if row.quantity.of_group:
                means = [value_text(one.mean_a), value_text(one.mean_b)]
            grid.append([cell(row.quantity.label), *where, *means, value_text(one.difference)])
    header = ["Metric", "Language model", "Block", "Task", cell(pairing.a), cell(pairing.b)]
    return markdown_grid([*header, "Difference"], grid)


def shuffled_table(pairing: Pairing) -> str:
    """The permutation test over seeds for each quantity, model and block."""
    corrected = _can_pass(smallest_of(pairing.seeds))
    grid = []
    for row in pairing.seeds:
        where = [cell(text) for text in (row.model, row.block)]
        means = [
            f"{value_text(row.mean_a)} (n {row.n_a})",
            f"{value_text(row.mean_b)} (n {row.n_b})",
        ]
        tests = [p_text(row.p), p_text(row.smallest_p)]
        tests += [p_text(row.p_holm)] if corrected else []
        grid.append([cell(row.quantity.label), *where, *means, value_text(row.difference), *tests])
    header = ["Metric", "Language model", "Block", cell(pairing.a), cell(pairing.b), "Difference"]
    header += ["Permutation p", "Smallest possible p", *(["p (Holm)"] if corrected else [])]
    return markdown_grid(header, grid)


def matching_table(groups: Sequence[Seeds]) -> str:
    """How alike the checkpoints of each group are: means over its pairs."""
    grid = []
    for place, (words, _) in enumerate(MEASURES):
        columns = [seeds.column(place) for seeds in groups]
        grid.append([words, *(value_text(fmean(c)) if c else NOTHING for c in columns)])
    proven = [[pair.certified for pair in seeds.pairs] for seeds in groups]
    grid.append(["decoder: proven best", *(f"{c.count(True)} of {len(c)}" for c in proven)])
    grid.append(["checkpoints", *(str(seeds.n_members) for seeds in groups)])
    return markdown_grid(["", *_headings(groups)], grid)


def curve_table(groups: Sequence[Seeds]) -> str:
    """The shared share of decoder rows at every threshold that the records hold; empty without any."""
    curves = [dict(seeds.curve) for seeds in groups]
    grid = [
        [f"{at:g}", *(value_text(curve.get(at)) for curve in curves)]
        for at in sorted({at for curve in curves for at in curve})
    ]
    return markdown_grid(["Cosine above", *_headings(groups)], grid) if grid else ""


def seeds_table(seeds: Seeds) -> str:
    """How alike the checkpoints of a group are: the mean and range over pairs, and each of a few pairs."""
    few = seeds.pairs if len(seeds.pairs) <= MOST_PAIRS else ()
    grid = []
    for place, (words, _) in enumerate(MEASURES):
        found = seeds.column(place)
        if not found:
            continue
        mean = value_text(fmean(found))
        span = (
            f"{value_text(min(found))} to {value_text(max(found))}" if len(found) > 1 else NOTHING
        )
        grid.append([words, mean, span, *(value_text(pair.values[place]) for pair in few)])
    words_of = {True: "yes", False: "no", None: NOTHING}
    certified = [pair.certified for pair in seeds.pairs]
    total = f"{certified.count(True)} of {len(certified)}"
    grid.append(["decoder: proven best", total, NOTHING, *(words_of[p.certified] for p in few)])
    names = [
        f"{escape.code_span(pair.a, cell=True)} and {escape.code_span(pair.b, cell=True)}"
        for pair in few
    ]
    return markdown_grid(["", "Mean over pairs", "Range", *names], grid)


def cell(text: object) -> str:
    """A value as a table cell; the task of what has none is a dash."""
    return NOTHING if text == WHOLE else escape.markdown_cell(text)


def _headings(groups: Sequence[Seeds]) -> list[str]:
    """The names of groups, with their models where there are several."""
    several = len({seeds.model for seeds in groups}) > 1
    return [cell(f"{one.group} ({one.model})" if several else one.group) for one in groups]


def _whole(value: GroupValue) -> str:
    """What was measured on a group as a whole, with its interval."""
    assert value.over_seeds.mean is not None
    text, interval = with_interval(value.over_seeds.mean, value.low, value.high)
    return text if interval == NOTHING else f"{text} {interval}"


def _seeds_text(quantity: Quantity, found: Spread) -> str:
    """Mean, sd and n over seeds; the value alone where no seed can change it."""
    if quantity.fixed and found.n == 1:
        return value_text(found.mean)
    return mean_and_sd(found)


def _can_pass(smallest: Sequence[float]) -> bool:
    """Whether any row could have a p that is usually called significant."""
    return min(smallest, default=1.0) <= LARGEST_P


def _better(quantity: Quantity) -> str:
    return NOTHING if quantity.better == "none" else quantity.better


def _of_model(summary: Summary | None) -> str:
    if summary is None:
        return NOTHING
    difference, interval = with_interval(summary.difference, summary.low, summary.high)
    bounds = "" if interval == NOTHING else f" {interval}"
    return f"{difference}{bounds} ({tally(summary.sign_test_cells)})"
