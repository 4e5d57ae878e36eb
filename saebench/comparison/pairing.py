"""Sources against each other: a mean over seeds in each cell, a mean over tasks in each place.

A cell is language model × block × task. All tasks of one language model and block are measured on the
same checkpoints, so the place (model, block) is the replicate of every interval and test, not the cell.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean

from saebench.comparison.groups import Gathered, SeedGroup, listed, nearest
from saebench.comparison.inference import (
    SignTest,
    holm,
    is_tie,
    paired_interval,
    sign_test,
)
from saebench.comparison.permutation import compare_groups
from saebench.comparison.quantities import (
    Measured,
    Quantity,
    by_seed,
    common_tasks,
    dropped_tasks,
)
from saebench.errors import ConfigError


@dataclass(frozen=True)
class Cell:
    """Means over the seeds of two sources in one cell; ``difference`` is a − b."""

    model: str
    block: str
    task: str
    mean_a: float
    n_a: int
    mean_b: float
    n_b: int
    difference: float


@dataclass(frozen=True)
class Summary:
    """Places taken together: means, mean difference, its interval, and in how many a is better.

    ``sign`` is the test over places. ``sign_test_cells`` counts cells, as is often published: its p
    takes the tasks of a place for independent, which they are not, and is too small. Where no direction
    is better, wins are where a is higher.
    """

    n_cells: int
    n_places: int
    mean_a: float
    mean_b: float
    difference: float
    low: float | None
    high: float | None
    interval: str
    sign: SignTest
    sign_test_cells: SignTest


@dataclass(frozen=True)
class Row:
    """One quantity in a table of two sources; ``p_holm`` is corrected for the other rows of the table.

    A quantity without a better direction is no member of that family, and its ``p_holm`` is None.
    """

    quantity: Quantity
    overall: Summary
    by_model: Mapping[str, Summary]
    cells: tuple[Cell, ...]
    p_holm: float | None = None


@dataclass(frozen=True)
class SeedRow:
    """One quantity in one model and block, its seeds shuffled between two sources."""

    quantity: Quantity
    model: str
    block: str
    mean_a: float
    n_a: int
    mean_b: float
    n_b: int
    difference: float
    p: float | None
    smallest_p: float | None
    reason: str = ""
    p_holm: float | None = None


@dataclass(frozen=True)
class Pairing:
    """Source ``a`` against source ``b``: the headline table, the table of the rest, and the seeds.

    ``notes`` say which tasks were left out of a place, since not every checkpoint there has them.
    """

    a: str
    b: str
    places: tuple[tuple[str, str], ...]  # the (model, block) that both have
    headline: tuple[Row, ...]
    rest: tuple[Row, ...]
    seeds: tuple[SeedRow, ...]
    notes: tuple[str, ...] = ()


def smallest_of(rows: Sequence[Row] | Sequence[SeedRow]) -> list[float]:
    """The smallest p that each row could have, of the rows that Holm's correction covers."""
    found = (
        row.overall.sign.smallest_p if isinstance(row, Row) else row.smallest_p
        for row in rows
        if row.quantity.better != "none"
    )
    return [p for p in found if p is not None]


def pair_sources(
    gathered: Gathered, measured: Measured, reference: str | None = None
) -> list[Pairing]:
    """Every pair of sources, or every other source against ``reference`` (a source or a group's name).

    Raises :class:`ConfigError` for an unknown reference, and when no two sources have a cell with a
    common quantity.
    """
    sources = gathered.sources
    if reference is not None:
        base = _source(gathered, reference)
        pairs = [(source, base) for source in sources if source != base]
    else:
        pairs = list(combinations(sources, 2))
    found = [_pairing(a, b, gathered, measured) for a, b in pairs]
    if found and not any(pairing.headline or pairing.rest for pairing in found):
        places = {f"{g.source!r} in {_where(g)}": None for g in gathered.groups}
        raise ConfigError(
            "the groups to compare",
            f"no two sources have a block, a model and a metric in common: {'; '.join(places)}",
            "Give groups that belong side by side the same block, and measure them on the same model.",
        )
    return found


def _source(gathered: Gathered, reference: str) -> str:
    if reference in gathered.sources:
        return reference
    for group in gathered.groups:
        if group.name == reference:
            return group.source
    raise ConfigError(
        f"--reference {reference}", "no group is called so", nearest(reference, gathered.sources)
    )


def _where(group: SeedGroup) -> str:
    return (
        f"block {group.block!r} on {group.model}" if group.block else f"no block on {group.model}"
    )


def _pairing(a: str, b: str, gathered: Gathered, measured: Measured) -> Pairing:
    of_a, of_b = ({g.cell: g for g in gathered.groups if g.source == source} for source in (a, b))
    both = [(of_a[place], of_b[place]) for place in of_a if place in of_b]
    rows, seeds = [], []
    for quantity in measured.quantities:
        cells = [cell for pair in both for cell in _cells(*pair, quantity, measured)]
        if cells:
            rows.append(_row(quantity, cells))
        if quantity.headline and not quantity.of_group:
            seeds += [row for pair in both for row in _seeds(*pair, quantity, measured)]
    corrected = holm([row.p if row.quantity.better != "none" else None for row in seeds])
    return Pairing(
        a,
        b,
        tuple(first.cell for first, _ in both),
        _corrected([row for row in rows if row.quantity.headline]),
        _corrected([row for row in rows if not row.quantity.headline]),
        tuple(replace(row, p_holm=p) for row, p in zip(seeds, corrected, strict=True)),
        tuple(_dropped(both, measured)),
    )


def _cells(a: SeedGroup, b: SeedGroup, quantity: Quantity, measured: Measured) -> list[Cell]:
    of_a, of_b = measured.of(a, quantity), measured.of(b, quantity)
    cells = []
    for task in common_tasks(of_a, of_b):
        first, second = fmean(of_a[task].values()), fmean(of_b[task].values())
        sizes = len(of_a[task]), len(of_b[task])
        difference = first - second
        cells.append(Cell(*a.cell, task, first, sizes[0], second, sizes[1], difference))
    return cells


def _dropped(both: Sequence[tuple[SeedGroup, SeedGroup]], measured: Measured) -> Iterator[str]:
    """A sentence for each place where tasks were left out, whatever the metric."""
    for a, b in both:
        sides = [(measured.of(a, q), measured.of(b, q)) for q in measured.quantities if q.by_task]
        tasks = list(
            dict.fromkeys(task for pair in sides if all(pair) for task in dropped_tasks(*pair))
        )
        if tasks:
            yield left_out(a.cell, tasks)


def left_out(place: tuple[str, str], tasks: Sequence[str]) -> str:
    """Which tasks no mean of a place is over."""
    where = ", ".join(part for part in place if part)
    return (
        f"{where}: means over tasks leave out {listed(tasks)}, which not every checkpoint there has"
    )


def _row(quantity: Quantity, cells: Sequence[Cell]) -> Row:
    models = list(dict.fromkeys(cell.model for cell in cells))
    of_model = {
        model: _summary(quantity, [cell for cell in cells if cell.model == model])
        for model in models
    }
    return Row(quantity, _summary(quantity, cells), of_model, tuple(cells))


def _summary(quantity: Quantity, cells: Sequence[Cell]) -> Summary:
    places = _over_tasks(cells)
    n = len(places)
    interval = paired_interval([a - b for a, b in places])
    return Summary(
        len(cells),
        n,
        math.fsum(a for a, _ in places) / n,
        math.fsum(b for _, b in places) / n,
        math.fsum(a - b for a, b in places) / n,
        interval.low,
        interval.high,
        interval.how or interval.reason or "",
        _signs(quantity, places),
        _signs(quantity, [(cell.mean_a, cell.mean_b) for cell in cells]),
    )


def _over_tasks(cells: Sequence[Cell]) -> list[tuple[float, float]]:
    """The two means of each place over its tasks."""
    places: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        places.setdefault((cell.model, cell.block), []).append(cell)
    return [
        (
            math.fsum(cell.mean_a for cell in tasks) / len(tasks),
            math.fsum(cell.mean_b for cell in tasks) / len(tasks),
        )
        for tasks in places.values()
    ]


def _signs(quantity: Quantity, pairs: Sequence[tuple[float, float]]) -> SignTest:
    """In how many pairs of means the first is better, and the sign test of that."""
    ties = sum(is_tie(a, b) for a, b in pairs)
    higher = sum(a > b and not is_tie(a, b) for a, b in pairs)
    lower = len(pairs) - ties - higher
    wins, losses = (lower, higher) if quantity.better == "lower" else (higher, lower)
    return sign_test(wins, losses, ties)


def _seeds(a: SeedGroup, b: SeedGroup, quantity: Quantity, measured: Measured) -> list[SeedRow]:
    of_a, of_b = measured.of(a, quantity), measured.of(b, quantity)
    tasks = common_tasks(of_a, of_b)
    first, second = (list(by_seed(values, tasks).values()) for values in (of_a, of_b))
    if not first or not second:
        return []
    test = compare_groups(first, second)
    reason = ""
    if len(first) == len(second) == 1:
        reason = "one seed on each side"
    elif all(is_tie(value, first[0]) for value in (*first, *second)):
        reason = "every seed has the same value"
    return [
        SeedRow(
            quantity,
            *a.cell,
            fmean(first),
            len(first),
            fmean(second),
            len(second),
            test.difference,
            None if reason else test.p_value,
            None if reason else test.smallest_p,
            reason,
        )
    ]


def _corrected(rows: Sequence[Row]) -> tuple[Row, ...]:
    tested = [row.overall.sign.p if row.quantity.better != "none" else None for row in rows]
    corrected = holm(tested)
    return tuple(replace(row, p_holm=p) for row, p in zip(rows, corrected, strict=True))
