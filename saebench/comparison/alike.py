"""How alike checkpoints are within and across sources, those of equal training seeds told apart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from saebench.comparison.groups import Gathered, SeedGroup
from saebench.comparison.inference import Spread, spread
from saebench.comparison.seeds import chance_cosine, matched_cosine
from saebench.record import Record

SUFFIX = re.compile(r"(?:^|[^a-z])(?:s|seed)[-_ ]?(\d+)$", re.IGNORECASE)
# Where the files of a checkpoint say which seed its weights were drawn with; the first that is there counts.
STORED = ("saebench.seeds.weights", "saebench.recipe.seed", "seed")


@dataclass(frozen=True)
class Alike:
    """Mean matched cosines of decoder rows of the pairs of one (model, block).

    ``within`` are pairs of one source and ``across`` of two; of those across, ``equal`` were trained with
    the same seed, ``different`` with two. ``chance`` is the mean floor of all these pairs. ``by_source``
    has the mean within each source, ``equal_by_sources`` that of equal seeds for each two sources.
    """

    model: str
    block: str
    within: Spread
    across: Spread
    equal: Spread
    different: Spread
    chance: float | None
    by_source: tuple[tuple[str, float], ...] = ()
    equal_by_sources: tuple[tuple[str, str, float], ...] = ()


def alike_by_place(gathered: Gathered) -> Iterator[Alike]:
    """The pairs of each (model, block) that were matched, places without any left out."""
    for place in dict.fromkeys(group.cell for group in gathered.groups):
        groups = [group for group in gathered.groups if group.cell == place]
        found = _of_place(place, groups, gathered.checkpoints.pairs)
        if found is not None:
            yield found


def training_seed(record: Record) -> str | None:
    """The seed that a checkpoint's files name, or else the number its name ends in: ``…-s1``, ``…_seed1``."""
    for path in STORED:
        value: Any = record.checkpoint.get("provenance")
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    ending = SUFFIX.search(record.name)
    return str(int(ending[1])) if ending else None


def _of_place(
    place: tuple[str, str], groups: Sequence[SeedGroup], pairs: Mapping[Any, Mapping[str, Any]]
) -> Alike | None:
    sources: dict[str, list[str]] = {}
    seeds: dict[str, str | None] = {}
    for group in groups:
        for record in group.members:
            sources.setdefault(record.name, []).append(group.source)
            seeds[record.name] = training_seed(record)
    within: dict[str, list[float]] = {}
    equal: dict[tuple[str, str], list[float]] = {}
    across: list[float] = []
    different: list[float] = []
    chance: list[float | None] = []
    for a, b in combinations(sources, 2):
        pair = pairs.get((place[0], frozenset({a, b})))
        cosine = matched_cosine(pair) if pair is not None else None
        if pair is None or cosine is None:
            continue
        chance.append(chance_cosine(pair))
        shared = [source for source in sources[a] if source in sources[b]]
        for source in shared[:1]:
            within.setdefault(source, []).append(cosine)
        if shared:
            continue
        across.append(cosine)
        if seeds[a] is not None and seeds[a] == seeds[b]:
            equal.setdefault((sources[a][0], sources[b][0]), []).append(cosine)
        elif seeds[a] is not None and seeds[b] is not None:
            different.append(cosine)
    if not (within or across):
        return None
    return Alike(
        *place,
        spread([cosine for each in within.values() for cosine in each]),
        spread(across),
        spread([cosine for each in equal.values() for cosine in each]),
        spread(different),
        spread([floor for floor in chance if floor is not None]).mean,
        tuple((source, fmean(each)) for source, each in within.items()),
        tuple((*both, fmean(each)) for both, each in equal.items()),
    )
