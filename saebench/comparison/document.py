"""A whole comparison as plain data: what the card shows, and what ``comparison.json`` holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from saebench.comparison.alike import Alike, alike_by_place
from saebench.comparison.checkpoints import pool
from saebench.comparison.groups import Gathered, SeedGroup, gather
from saebench.comparison.inference import Spread, is_tie, spread
from saebench.comparison.pairing import Pairing, left_out, pair_sources
from saebench.comparison.quantities import (
    WHOLE,
    Measured,
    Quantity,
    by_seed,
    common_tasks,
    dropped_tasks,
    measure,
)
from saebench.comparison.seeds import MEASURES, Seeds, seeds_of
from saebench.report.places import portable, portable_command
from saebench.report.stored import StoredReport

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class GroupValue:
    """A quantity of one group: spread over its seeds, of the mean over tasks and within each task.

    ``low`` and ``high`` bound the interval of what was measured on the group as a whole.
    """

    quantity: Quantity
    source: str
    block: str
    model: str
    over_seeds: Spread
    by_task: Mapping[str, Spread]
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Groups, their values, sources against each other, and how alike seeds are."""

    gathered: Gathered
    measured: Measured
    values: tuple[GroupValue, ...]
    pairings: tuple[Pairing, ...]
    seeds: tuple[Seeds, ...]
    reference: str | None
    command: str
    notes: tuple[str, ...] = ()  # on tasks that means leave out
    alike: tuple[Alike, ...] = ()

    def value(self, quantity: Quantity, source: str, place: tuple[str, str]) -> GroupValue | None:
        """The value of a quantity for one source at one (model, block)."""
        return self._by_place.get((quantity.key, source, *place))

    @cached_property
    def _by_place(self) -> dict[tuple[str, str, str, str], GroupValue]:
        return {(one.quantity.key, one.source, one.model, one.block): one for one in self.values}


def compare(
    reports: Mapping[str, StoredReport],
    patterns: Sequence[tuple[str, str]] = (),
    *,
    reference: str | None = None,
    command: str = "",
) -> Comparison:
    """Compare the groups of reports by folder; the arguments are those of ``saebench compare``.

    Raises :class:`ConfigError` when there are no groups, or they have nothing in common.
    """
    gathered = gather(pool(reports), patterns)
    measured = measure(gathered.groups)
    values, notes = _values(gathered, measured)
    pairings = tuple(pair_sources(gathered, measured, reference))
    seeds = tuple(seeds_of(group) for group in gathered.groups)
    alike = tuple(alike_by_place(gathered))
    return Comparison(gathered, measured, values, pairings, seeds, reference, command, notes, alike)


def dump(comparison: Comparison) -> bytes:
    """The content of ``comparison.json``; the same comparison gives the same bytes."""
    gathered = comparison.gathered
    data = {
        "schema_version": SCHEMA_VERSION,
        "command": portable_command(comparison.command)[0],
        "reference": comparison.reference,
        "groups": [
            {
                "name": group.name,
                "source": group.source,
                "block": group.block,
                "model": group.model,
                "members": [
                    {"name": record.name, "record": record.key} for record in group.members
                ],
            }
            for group in gathered.groups
        ],
        "left_out": [{"model": model, "name": name} for model, name in gathered.left_out],
        "notes": [*gathered.notes, *comparison.notes],
        "quantities": {q.key: asdict(q) for q in comparison.measured.quantities},
        "values": [_plain(value) for value in comparison.values],
        "pairs": [_pairing(pairing) for pairing in comparison.pairings],
        "seeds": [_seeds(seeds) for seeds in comparison.seeds],
        "alike": [asdict(place) for place in comparison.alike],
    }
    return json.dumps(data, indent=1, allow_nan=False).encode() + b"\n"


def portable_folders(folders: Sequence[Path]) -> list[str]:
    """The names of the folders as others can read them, apart from each other."""
    names = [portable(folder) for folder in folders]
    return [
        name if names.count(name) == 1 else f"{name} ({place})"
        for place, name in enumerate(names, start=1)
    ]


def _values(
    gathered: Gathered, measured: Measured
) -> tuple[tuple[GroupValue, ...], tuple[str, ...]]:
    """The values of groups, over the tasks that all checkpoints of a place have; notes on the others."""
    found = []
    dropped: dict[tuple[str, str], dict[str, None]] = {}
    for quantity in measured.quantities:
        for group in gathered.groups:
            values = measured.of(group, quantity)
            if not values:
                continue
            sides = [
                side
                for other in gathered.groups
                if other.cell == group.cell and (side := measured.of(other, quantity))
            ]
            dropped.setdefault(group.cell, {}).update(dict.fromkeys(dropped_tasks(*sides)))
            tasks = {
                task: _spread(quantity, list(scores.values()))
                for task, scores in values.items()
                if task != WHOLE
            }
            whole = _spread(quantity, list(by_seed(values, common_tasks(*sides)).values()))
            place = group.source, group.block, group.model
            found.append(GroupValue(quantity, *place, whole, tasks, *_bounds(quantity, group)))
    notes = tuple(left_out(place, list(tasks)) for place, tasks in dropped.items() if tasks)
    return tuple(found), notes


def _spread(quantity: Quantity, values: Sequence[float]) -> Spread:
    """The spread over seeds; of what no seed changes, the one measurement that all of them repeat."""
    repeated = quantity.fixed and all(is_tie(value, values[0]) for value in values)
    return spread(values[:1] if repeated else values)


def _bounds(quantity: Quantity, group: SeedGroup) -> tuple[float | None, float | None]:
    if not quantity.of_group or group.summary is None:
        return None, None
    measurement = group.summary.measurements[quantity.key]
    return measurement.low, measurement.high


def _plain(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that names a quantity, with the key in place of the quantity."""
    return {**asdict(value), "quantity": value.quantity.key}


def _pairing(pairing: Pairing) -> dict[str, Any]:
    return {
        "a": pairing.a,
        "b": pairing.b,
        "places": [{"model": model, "block": block} for model, block in pairing.places],
        "headline": [_plain(row) for row in pairing.headline],
        "rest": [_plain(row) for row in pairing.rest],
        "seeds": [_plain(row) for row in pairing.seeds],
        "notes": list(pairing.notes),
    }


def _seeds(seeds: Seeds) -> dict[str, Any]:
    keys = [place for _, place in MEASURES]
    pairs = [
        {
            "a": pair.a,
            "b": pair.b,
            "certified": pair.certified,
            "values": dict(zip(keys, pair.values, strict=True)),
        }
        for pair in seeds.pairs
    ]
    return {**asdict(seeds), "pairs": pairs}
