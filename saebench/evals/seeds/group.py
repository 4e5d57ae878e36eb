"""Seed reproducibility of a group of checkpoints: every pair compared, then means over the pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from saebench.evals.seeds.pair import Member, compare
from saebench.matching import chance_floor
from saebench.metrics.catalogue.seeds import SEEDS
from saebench.metrics.definitions import definition
from saebench.metrics.estimates import estimate
from saebench.protocols import SeedsProtocol
from saebench.record import Measurement
from saebench.stats import Interval, jackknife

Pair = Mapping[str, Any]
ONE_PAIR = "two checkpoints make one pair"
FLOORS = {"matched_cosine_floor": "matched_cosine", "shared_floor": "shared"}
ABOVE_FLOOR = "matched_cosine_above_floor"
FUNCTIONAL = ("functional_correlation", "functional_shared", "firing_jaccard")


class SeedsEval:
    """The comparison of two or more members, each pair once; the order of members does not matter.

    ``watched`` hands on the pairs that are to be compared, one after another, and may show how far it is.
    """

    def __init__(
        self,
        members: Sequence[Member],
        protocol: SeedsProtocol,
        watched: Callable[[list[list[Member]]], Iterable[list[Member]]] = iter,
    ) -> None:
        self.members = list(members)
        self.protocol = protocol
        ordered = [sorted(pair, key=_name) for pair in combinations(self.members, 2)]
        self.pairs = [compare(a, b, protocol, self._floor) for a, b in watched(ordered)]

    def measurements(self, *, n_tokens: int, n_sequences: int) -> dict[str, Measurement]:
        """Every metric of the family by metric id: the mean over pairs."""
        found = [self._measure(one.id, n_tokens, n_sequences) for one in SEEDS]
        return {item.metric: item for item in found}

    def details(self) -> dict[str, Any]:
        """The table of pairs, as JSON values."""
        return {
            **self.protocol.to_json(),
            "members": [member.name for member in self.members],
            "pairs": self.pairs,
        }

    def _measure(self, name: str, n_tokens: int, n_sequences: int) -> Measurement:
        dead = [member.name for member in self.members if not member.alive.any()]
        unknown = dead and name not in FLOORS  # what matches then is where training started
        values = [None if unknown else _value(name, pair) for pair in self.pairs]
        known = [value for value in values if value is not None]
        mean = _mean(values)
        bounds = None if name in FLOORS else self._interval(name, values, mean)
        if name in FUNCTIONAL:  # measured on the codes kept
            sample = self.pairs[0]["functional"]
            n_tokens, n_sequences = sample["n_tokens"], sample["n_sequences"]
        return estimate(
            name,
            mean,
            bounds,
            n_tokens=n_tokens,
            n_sequences=n_sequences,
            reason=self._reason(name),
            detail={
                "n_checkpoints": len(self.members),
                "n_pairs": len(known),
                "lowest": min(known, default=None),
                "highest": max(known, default=None),
                **_context(name, self.pairs, self.protocol),
            },
        )

    def _interval(
        self, name: str, values: Sequence[float | None], mean: float | None
    ) -> Interval | None:
        if mean is None:
            return None
        low, high = definition(name).range
        limits = (-math.inf if low is None else low, math.inf if high is None else high)
        ends = [(pair["a"], pair["b"]) for pair in self.pairs]
        names = sorted(member.name for member in self.members)
        return jackknife_over_checkpoints(names, ends, values, limits)

    def _reason(self, name: str) -> str | None:
        """Why a metric has no value in any pair."""
        dead = [member.name for member in self.members if not member.alive.any()]
        if dead:
            return (
                f"all latents of {', '.join(sorted(dead))} are dead on this text: read more of it, or "
                "check hook point, activation function and threshold"
            )
        pair = self.pairs[0]
        if name in FUNCTIONAL:
            return pair["functional"]["reason"]
        side = "encoder" if "encoder" in name else "decoder"
        return None if name in FLOORS else pair[side]["reason"]

    def _floor(self, m_a: int, m_b: int, d: int) -> dict[str, Any]:
        found = chance_floor(m_a, m_b, d, threshold=self.protocol.threshold)
        return {
            "matched_cosine": found.mean_matched,
            "matched_abs_cosine": found.mean_absolute,
            "shared": found.share_matched,
            "max_cosine": found.mean_best,
            "max_cosine_shared": found.share_best,
            **{name: getattr(found, name) for name in ("m_a", "m_b", "d", "certified", "how")},
        }


def jackknife_over_checkpoints(
    names: Sequence[str],
    ends: Sequence[tuple[str, str]],
    values: Sequence[float | None],
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> Interval:
    """The mean of ``values`` of pairs ``ends`` with an interval whose unit is the checkpoint.

    Each of ``names`` is left out once, with all its pairs. Two checkpoints have no interval: a pair has no
    spread. Pairs without a value are left out.
    """
    if len(names) < 3:
        return Interval(None, None, reason=ONE_PAIR)
    pairs = list(zip(ends, values, strict=True))
    means = [_mean([v for pair, v in pairs if name not in pair]) for name in names]
    mean, without = _mean(values), [one for one in means if one is not None]
    if mean is None or len(without) < len(names):
        return Interval(None, None, reason="undefined without one of the checkpoints")
    found = jackknife(mean, without, bounds=limits)
    return replace(found, how=found.how.replace("block", "checkpoint"))


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of what is there, the same in whatever order; None of nothing."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _name(member: Member) -> str:
    return member.name


def _value(name: str, pair: Pair) -> float | None:
    """A metric of one pair, from its table."""
    if name in FLOORS:
        return pair["floor"][FLOORS[name]]
    if name == ABOVE_FLOOR:
        matched, chance = pair["decoder"]["matched_cosine"], pair["floor"]["matched_cosine"]
        return None if matched is None or chance is None else matched - chance
    if name in ("functional_correlation", "functional_shared"):
        return pair["functional"][name.removeprefix("functional_")]
    if name in pair:
        return pair[name]
    side = "decoder" if "decoder" in name else "encoder"
    table = pair[side]
    if name.startswith("max_cosine"):
        both = [table["max_cosine_shared_a"], table["max_cosine_shared_b"]]
        return None if None in both else sum(both) / 2
    return table[name.replace(f"_{side}", "")]


def _context(name: str, pairs: Sequence[Pair], protocol: SeedsProtocol) -> dict[str, Any]:
    """What a number is relative to: its threshold, and how many latents stand under the line."""
    if name == "top_k_overlap":
        chance = _mean([pair["top_k_chance"] for pair in pairs])
        return {"top_k": protocol.top_k, "chance": chance}
    if name in FUNCTIONAL:
        tables = [pair["functional"] for pair in pairs]
        found: dict[str, Any] = {"n_scored": sum(table["n_scored"] for table in tables)}
        if name == "functional_correlation":
            found["null"] = _mean([table["null"] for table in tables])
        return {**found, **({"threshold": protocol.threshold} if "shared" in name else {})}
    under = "alive" if name.endswith("_alive") else "latents"
    found = {"denominators": sorted({pair[under]["both"] for pair in pairs})}
    if "shared" in name:
        found["threshold"] = protocol.threshold
    return found
