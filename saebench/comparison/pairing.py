"""Sources against each other cell by cell: language model × block × task, a mean over seeds in each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from saebench.comparison.groups import Gathered, SeedGroup, nearest
from saebench.comparison.inference import (
    SignTest,
    holm,
    is_tie,
    paired_interval,
    sign_test,
)
from saebench.comparison.quantities import Measured, Quantity, Values, by_seed
from saebench.errors import ConfigError
from saebench.metrics.group_comparison import compare_groups


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
    """Cells taken together: means, mean difference, its interval, and in how many a is better.

    Where no direction is better, ``sign.wins`` counts the cells where a is higher.
    """

    n_cells: int
    mean_a: float
    mean_b: float
    difference: float
    low: float | None
    high: float | None
    interval: str
    sign: SignTest


@dataclass(frozen=True)
class Row:
    """One quantity in a table of two sources; ``p_holm`` is corrected for the other rows of the table."""

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
    """Source ``a`` against source ``b``: the headline table, the table of the rest, and the seeds."""

    a: str
    b: str
    places: tuple[tuple[str, str], ...]  # the (model, block) that both have
    headline: tuple[Row, ...]
    rest: tuple[Row, ...]
    seeds: tuple[SeedRow, ...]


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
    corrected = holm([row.p for row in seeds])
    return Pairing(
        a,
        b,
        tuple(first.cell for first, _ in both),
        _corrected([row for row in rows if row.quantity.headline]),
        _corrected([row for row in rows if not row.quantity.headline]),
        tuple(replace(row, p_holm=p) for row, p in zip(seeds, corrected, strict=True)),
    )


def _cells(a: SeedGroup, b: SeedGroup, quantity: Quantity, measured: Measured) -> list[Cell]:
    of_a, of_b = measured.of(a, quantity), measured.of(b, quantity)
    cells = []
    for task in of_a:
        if task in of_b:
            first, second = _mean(of_a[task]), _mean(of_b[task])
            sizes = len(of_a[task]), len(of_b[task])
            difference = first - second
            cells.append(Cell(*a.cell, task, first, sizes[0], second, sizes[1], difference))
    return cells


def _row(quantity: Quantity, cells: Sequence[Cell]) -> Row:
    models = list(dict.fromkeys(cell.model for cell in cells))
    of_model = {
        model: _summary(quantity, [cell for cell in cells if cell.model == model])
        for model in models
    }
    return Row(quantity, _summary(quantity, cells), of_model, tuple(cells))


def _summary(quantity: Quantity, cells: Sequence[Cell]) -> Summary:
    n = len(cells)
    differences = [cell.difference for cell in cells]
    ties = sum(is_tie(cell.mean_a, cell.mean_b) for cell in cells)
    higher = sum(cell.difference > 0 and not is_tie(cell.mean_a, cell.mean_b) for cell in cells)
    lower = n - ties - higher
    wins, losses = (lower, higher) if quantity.better == "lower" else (higher, lower)
    interval = paired_interval(differences)
    return Summary(
        n,
        math.fsum(cell.mean_a for cell in cells) / n,
        math.fsum(cell.mean_b for cell in cells) / n,
        math.fsum(differences) / n,
        interval.low,
        interval.high,
        interval.how or interval.reason or "",
        sign_test(wins, losses, ties),
    )


def _seeds(a: SeedGroup, b: SeedGroup, quantity: Quantity, measured: Measured) -> list[SeedRow]:
    of_a, of_b = measured.of(a, quantity), measured.of(b, quantity)
    tasks = [task for task in of_a if task in of_b]
    first, second = (_by_seed(values, tasks) for values in (of_a, of_b))
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
            test.a.mean,
            len(first),
            test.b.mean,
            len(second),
            test.difference,
            None if reason else test.p_value,
            None if reason else test.smallest_p,
            reason,
        )
    ]


def _by_seed(values: Values, tasks: Sequence[str]) -> list[float]:
    return list(by_seed({task: values[task] for task in tasks}).values())


def _corrected(rows: Sequence[Row]) -> tuple[Row, ...]:
    corrected = holm([row.overall.sign.p for row in rows])
    return tuple(replace(row, p_holm=p) for row, p in zip(rows, corrected, strict=True))


def _mean(values: Mapping[str, float]) -> float:
    return math.fsum(values.values()) / len(values)
