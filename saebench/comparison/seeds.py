"""How alike the seeds of a group are: the matchings of its pairs of checkpoints, as far as they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from saebench.comparison.groups import SeedGroup
from saebench.comparison.quantities import finite

FLOOR = "decoder: chance floor of matched cosine"

# Words, and where the number stands in the details of a pair.
MEASURES: tuple[tuple[str, str], ...] = (
    ("decoder: mean matched cosine", "decoder.matched_cosine"),
    (FLOOR, "floor.matched_cosine"),
    ("decoder: mean matched absolute cosine", "decoder.matched_abs_cosine"),
    ("decoder: shared, of all latents", "decoder.shared"),
    ("decoder: chance floor of shared", "floor.shared"),
    ("decoder: shared, of alive latents", "decoder.shared_alive"),
    ("decoder: chance floor of shared alive", "floor.alive.shared"),
    ("decoder: max-cosine shared, first to second", "decoder.max_cosine_shared_a"),
    ("decoder: max-cosine shared, second to first", "decoder.max_cosine_shared_b"),
    ("encoder: mean matched cosine", "encoder.matched_cosine"),
    ("encoder: shared, of all latents", "encoder.shared"),
    ("decoder and encoder agree: shared", "shared_both"),
    ("functional: mean correlation", "functional.correlation"),
    ("functional: chance of correlation", "functional.null"),
    ("functional: shared", "functional.shared"),
    ("Jaccard of firing", "firing_jaccard"),
    ("overlap of the most frequent latents", "top_k_overlap"),
    ("chance of that overlap", "top_k_chance"),
    ("latents that could be matched", "latents.both"),
    ("of them alive", "alive.both"),
)


@dataclass(frozen=True)
class Histogram:
    """Counts of matched cosines of decoder rows over all pairs of a group, and the mean chance floor."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    n_pairs: int
    floor: float | None


@dataclass(frozen=True)
class PairRow:
    """Two checkpoints and their numbers in the order of :data:`MEASURES`.

    ``certified`` says whether the matching is proven to be the best there is, None where not recorded.
    """

    a: str
    b: str
    values: tuple[float | None, ...]
    certified: bool | None


@dataclass(frozen=True)
class Seeds:
    """The pairs of a group; ``threshold`` is the cosine above which a pair of latents is shared.

    ``curve`` is ``(threshold, shared share of all latents)``, a mean over pairs.
    """

    group: str
    model: str
    n_members: int
    threshold: float | None
    pairs: tuple[PairRow, ...]
    histogram: Histogram | None
    curve: tuple[tuple[float, float], ...] = ()

    def column(self, place: int) -> list[float]:
        """The numbers of one measure, of the pairs that have it."""
        values = (pair.values[place] for pair in self.pairs)
        return [value for value in values if value is not None]


def seeds_of(group: SeedGroup) -> Seeds:
    """What the matchings of a group's pairs say; what is missing or no number is None."""
    rows = tuple(_row(pair) for pair in group.pairs)
    return Seeds(
        group.name,
        group.model,
        len(group.members),
        group.threshold,
        rows,
        _histogram(group.pairs),
        _curve(group.pairs),
    )


def matched_cosine(pair: Mapping[str, Any]) -> float | None:
    """The mean matched cosine of the decoder rows of a pair."""
    return _at(pair, "decoder.matched_cosine")


def chance_cosine(pair: Mapping[str, Any]) -> float | None:
    """The mean matched cosine that two random dictionaries of the sizes of a pair would have."""
    return _row(pair).values[[words for words, _ in MEASURES].index(FLOOR)]


def _row(pair: Mapping[str, Any]) -> PairRow:
    values = tuple(_at(pair, place) for _, place in MEASURES)
    decoder = pair.get("decoder")
    certified = decoder.get("certified") if isinstance(decoder, Mapping) else None
    known = certified if isinstance(certified, bool) else None
    return PairRow(str(pair.get("a")), str(pair.get("b")), values, known)


def _histogram(pairs: Sequence[Mapping[str, Any]]) -> Histogram | None:
    """The histograms of pairs added up: those that have the bins of the first."""
    edges: tuple[float, ...] = ()
    total: list[int] = []
    n_pairs = 0
    for pair in pairs:
        bins, counts = (_numbers(pair, f"decoder.histogram.{part}") for part in ("edges", "counts"))
        if len(bins) != len(counts) + 1 or len(counts) == 0 or (edges and bins != edges):
            continue
        edges = bins
        total = [
            int(n) + before for n, before in zip(counts, total or [0] * len(counts), strict=True)
        ]
        n_pairs += 1
    if not n_pairs:
        return None
    place = [words for words, _ in MEASURES].index(FLOOR)
    floors = [value for pair in pairs if (value := _row(pair).values[place]) is not None]
    floor = fmean(floors) if floors else None
    return Histogram(edges, tuple(total), n_pairs, floor)


def _curve(pairs: Sequence[Mapping[str, Any]]) -> tuple[tuple[float, float], ...]:
    """The mean over pairs of the shared share at each threshold that all of them have."""
    found: dict[float, list[float]] = {}
    n_pairs = 0
    for pair in pairs:
        at, shared = (_numbers(pair, f"decoder.curve.{part}") for part in ("thresholds", "shared"))
        if at and len(at) == len(shared):
            n_pairs += 1
            for threshold, share in zip(at, shared, strict=True):
                found.setdefault(threshold, []).append(share)
    return tuple((at, fmean(all_)) for at, all_ in sorted(found.items()) if len(all_) == n_pairs)


def _numbers(pair: Mapping[str, Any], path: str) -> tuple[float, ...]:
    found = _follow(pair, path)
    values = [finite(value) for value in found] if isinstance(found, list | tuple) else []
    return tuple(value for value in values if value is not None) if None not in values else ()


def _at(pair: Mapping[str, Any], path: str) -> float | None:
    return finite(_follow(pair, path))


def _follow(data: object, path: str) -> object:
    for key in path.split("."):
        data = data.get(key) if isinstance(data, Mapping) else None
    return data
