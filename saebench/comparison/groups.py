"""Groups of checkpoints that differ in their seed: from stored runs, or from names and patterns."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import combinations
from typing import Any

from saebench.comparison.checkpoints import Checkpoints, members_of
from saebench.errors import ConfigError
from saebench.record import Record

LISTED = 6  # names in a message


@dataclass(frozen=True)
class SeedGroup:
    """Checkpoints of one ``source`` in one ``block`` on one language ``model``; seeds replicate it.

    ``block`` is what it has in common with groups of other sources (a k, a layer), "" for nothing.
    ``summary`` is the record of the group as a whole, ``pairs`` the matchings of two members each,
    ``threshold`` what counts as shared in them.
    """

    name: str
    source: str
    block: str
    model: str
    members: tuple[Record, ...]
    summary: Record | None = None
    pairs: tuple[Mapping[str, Any], ...] = ()
    threshold: float | None = None

    @property
    def cell(self) -> tuple[str, str]:
        """Where groups of different sources meet: the model and the block."""
        return self.model, self.block

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the members."""
        return tuple(member.name for member in self.members)


@dataclass(frozen=True)
class Gathered:
    """All that is compared, the checkpoints ``left_out`` of every group, and ``notes`` on both."""

    groups: tuple[SeedGroup, ...]
    checkpoints: Checkpoints
    left_out: tuple[tuple[str, str], ...] = ()  # model, name
    notes: tuple[str, ...] = ()

    @property
    def sources(self) -> list[str]:
        """The sources in the order of the groups."""
        return list(dict.fromkeys(group.source for group in self.groups))


@dataclass(frozen=True)
class _Asked:
    name: str
    source: str
    block: str
    model: str
    names: tuple[str, ...]
    summary: Record | None = None


def parse_group(text: str) -> tuple[str, str]:
    """``(name, pattern)`` of ``NAME=GLOB``; raises :class:`ConfigError` for anything else."""
    name, sign, pattern = text.partition("=")
    if not (sign and name.strip() and pattern.strip()):
        raise ConfigError(
            f"--group {text!r}",
            "not a name and a pattern",
            "Write NAME=GLOB, for example --group 'faithful/k8=faithful-k8-*'.",
        )
    return name.strip(), pattern.strip()


def gather(checkpoints: Checkpoints, patterns: Sequence[tuple[str, str]] = ()) -> Gathered:
    """The groups that ``patterns`` (name and glob) make, or else those of the stored runs.

    A name ``source/block`` in ``patterns`` says both. Groups of one name on one model are united.
    Raises :class:`ConfigError` when there are none, a pattern matches nothing, or two groups of
    different names share source, block and model.
    """
    notes: list[str] = []
    asked = list(_from_patterns(checkpoints, patterns) if patterns else _stored(checkpoints))
    if not asked:
        raise ConfigError(
            "the groups to compare",
            "the stored runs have none",
            "Name groups with --group NAME=GLOB, or as [[group]] in the run's configuration.",
        )
    united: dict[tuple[str, str, str], list[_Asked]] = {}
    for one in asked:
        united.setdefault((one.name, one.source, f"{one.block}\n{one.model}"), []).append(one)
    groups = [_unite(parts, checkpoints, notes) for parts in united.values()]
    kept = tuple(group for group in groups if group.members and not _holds(group, groups, notes))
    _refuse_doubles(kept)
    used = {(group.model, name) for group in kept for name in group.names}
    left_out = tuple(place for place in checkpoints.records if place not in used)
    return Gathered(kept, checkpoints, left_out, (*notes, *_shared_members(kept)))


def _stored(checkpoints: Checkpoints) -> Iterator[_Asked]:
    for model, record in checkpoints.groups:
        known = record.checkpoint
        source, block = str(known.get("source") or record.name), str(known.get("block") or "")
        yield _Asked(record.name, source, block, model, members_of(record), record)


def _from_patterns(
    checkpoints: Checkpoints, patterns: Sequence[tuple[str, str]]
) -> Iterator[_Asked]:
    summaries = {
        (model, frozenset(members_of(record))): record for model, record in checkpoints.groups
    }
    globs: dict[str, list[str]] = {}
    for name, pattern in patterns:
        globs.setdefault(name, []).append(pattern)
        if not any(fnmatchcase(known, pattern) for _, known in checkpoints.records):
            raise ConfigError(
                f"--group {name}={pattern}",
                "no checkpoint has such a name",
                f"There are: {listed([known for _, known in checkpoints.records])}.",
            )
    for name, chosen in globs.items():
        source, _, block = name.partition("/")
        for model in checkpoints.models:
            names = tuple(
                known
                for where, known in checkpoints.records
                if where == model and any(fnmatchcase(known, pattern) for pattern in chosen)
            )
            if names:
                summary = summaries.get((model, frozenset(names)))
                yield _Asked(name, source or name, block, model, names, summary)


def _unite(parts: Sequence[_Asked], checkpoints: Checkpoints, notes: list[str]) -> SeedGroup:
    first = parts[0]
    names = list(dict.fromkeys(name for part in parts for name in part.names))
    members = []
    for name in names:
        record = checkpoints.records.get((first.model, name))
        if record is None:
            notes.append(f"{first.name}: its member {name} has no record in the reports")
        else:
            members.append(record)
    if not members:
        notes.append(f"{first.name}: left out, none of its members has a record")
    present = [member.name for member in members]
    keys = [(first.model, frozenset(pair)) for pair in combinations(present, 2)]
    pairs = tuple(checkpoints.pairs[key] for key in keys if key in checkpoints.pairs)
    given = (checkpoints.thresholds.get(key) for key in keys)
    threshold = next((float(value) for value in given if isinstance(value, int | float)), None)
    # what was measured on the group as a whole holds for exactly these members
    whole = (part.summary for part in parts if set(part.names) == set(present))
    return SeedGroup(
        first.name,
        first.source,
        first.block,
        first.model,
        tuple(members),
        next((summary for summary in whole if summary is not None), None),
        pairs,
        threshold,
    )


def _holds(group: SeedGroup, groups: Sequence[SeedGroup], notes: list[str]) -> bool:
    """Whether it holds all of another group and more: then its pairs are of use, and it is no side."""
    own = set(group.names)
    within = [
        other.name
        for other in groups
        if other.model == group.model and other.members and set(other.names) < own
    ]
    if within:
        notes.append(
            f"{group.name} holds all of {listed(within)}: only its matched pairs are shown, in the heat map"
        )
    return bool(within)


def _refuse_doubles(groups: Sequence[SeedGroup]) -> None:
    seen: dict[tuple[str, str, str], str] = {}
    for group in groups:
        place = group.source, *group.cell
        if place in seen:
            block = f" in block {group.block!r}" if group.block else ""
            raise ConfigError(
                f"the groups {seen[place]!r} and {group.name!r}",
                f"both are source {group.source!r}{block} on {group.model}",
                "Give each group of a source a block of its own.",
            )
        seen[place] = group.name


def _shared_members(groups: Sequence[SeedGroup]) -> Iterator[str]:
    for a, b in combinations(groups, 2):
        both = [name for name in a.names if name in b.names and a.model == b.model]
        if both:
            yield (
                f"{a.name} and {b.name} share {listed(both)}: they are not independent of each other"
            )


def nearest(name: str, known: Sequence[str]) -> str:
    """``Did you mean …? There are: …`` for a name that is not known."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"{f'Did you mean {close[0]!r}? ' if close else ''}There are: {listed(known)}."


def listed(names: Sequence[str]) -> str:
    """Some names in one line: all of a few, the first of many and how many more."""
    few = list(dict.fromkeys(names))
    more = f" and {len(few) - LISTED} more" if len(few) > LISTED else ""
    return ", ".join(few[:LISTED]) + more
