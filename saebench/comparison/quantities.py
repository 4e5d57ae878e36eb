"""What groups are compared by: every metric of their records, and every score of their probes by task."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saebench.comparison.groups import SeedGroup
from saebench.metrics.definitions import DEFINITIONS
from saebench.record import Measurement, Record

# In the order of a table; whatever else is measured stands in a table of its own, by name.
HEADLINES = ("fve", "ce_recovered", "l0", "dead_fraction", "fake_token", "fake_sequence")
OF_GROUPS = (
    *("shared_decoder", "shared_decoder_alive", "shared_encoder", "matched_cosine_decoder"),
    *("functional_correlation", "firing_jaccard", "top_k_overlap"),
)
FLOORS = {
    "shared_floor": "shared_decoder_alive",
    "matched_cosine_floor": "matched_cosine_decoder",
}  # after
LABELS = {
    "shared_floor": "Shared latents (decoder, chance)",
    "matched_cosine_floor": "Matched cosine (decoder, chance)",
}
# What the text, the language model or the sizes of the SAE decide, whatever its seed.
FIXED = (
    *("ce_clean", "ce_zero", "ce_mean", "kl_zero", "kl_mean", "l2_norm_in"),
    *("fve_mean_predictor", "fve_pca", "fve_random_init"),
    *("probe_accuracy_baseline", "probe_f1_baseline"),
    *("probe_accuracy_majority", "probe_f1_majority"),
    *FLOORS,
)
PROBES = "probe_"
SCORES = {"accuracy": ("accuracy", "accuracy"), "macro_f1": ("f1", "macro-F1")}  # id, words
WHOLE = ""  # the task of what is not measured by task

Values = Mapping[str, Mapping[str, float]]  # task → checkpoint → value


@dataclass(frozen=True)
class Quantity:
    """One row of the tables: a versioned metric id, or ``probing/ARM/SCORE``, which has tasks.

    ``of_group`` has one value for a whole group, over the pairs of its members, and so no seeds.
    ``beside`` stands among the headline values, which have to be read against it: a baseline or a floor.
    ``fixed`` does not depend on the seed: where all seeds agree they are one measurement, not many.
    """

    key: str
    label: str
    unit: str = ""
    better: str = "none"
    headline: bool = False
    of_group: bool = False
    by_task: bool = False
    beside: bool = False
    fixed: bool = False


@dataclass(frozen=True)
class Measured:
    """The quantities in the order of the tables, and the values of each group under its key."""

    quantities: tuple[Quantity, ...]
    values: Mapping[tuple[str, str, str], Mapping[str, Values]]

    def of(self, group: SeedGroup, quantity: Quantity) -> Values:
        """Task → checkpoint → value of a quantity in a group, empty where it was not measured."""
        return self.values[group.source, group.block, group.model].get(quantity.key, {})


def measure(groups: Sequence[SeedGroup]) -> Measured:
    """Everything that the groups can be compared by."""
    known: dict[str, Quantity] = {}
    values: dict[tuple[str, str, str], dict[str, dict[str, dict[str, float]]]] = {}
    for group in groups:
        place = values.setdefault((group.source, group.block, group.model), {})
        for quantity, task, name, value in _all(group):
            known.setdefault(quantity.key, quantity)
            place.setdefault(quantity.key, {}).setdefault(task, {})[name] = value
    for key, tasks in _superseded(known):
        for place in values.values():
            if tasks in place:
                place.pop(key, None)
        if not any(key in place for place in values.values()):
            known.pop(key)
    return Measured(tuple(sorted(known.values(), key=_place)), values)


def common_tasks(*sides: Values) -> list[str]:
    """The tasks on which every checkpoint of every side was measured, in the order of the first side.

    Means over other tasks than these would be means over different things.
    """
    if not sides:
        return []
    needed = [{name for scores in side.values() for name in scores} for side in sides]
    return [
        task
        for task in sides[0]
        if all(
            names and names <= set(side.get(task, ()))
            for side, names in zip(sides, needed, strict=True)
        )
    ]


def dropped_tasks(*sides: Values) -> list[str]:
    """The tasks that some checkpoint has and :func:`common_tasks` leaves out."""
    kept = common_tasks(*sides)
    return list(dict.fromkeys(task for side in sides for task in side if task not in kept))


def by_seed(values: Values, tasks: Sequence[str] | None = None) -> dict[str, float]:
    """The value of each checkpoint: its mean over ``tasks``, by default those that all of them have."""
    names = list(dict.fromkeys(name for scores in values.values() for name in scores))
    tasks = common_tasks(values) if tasks is None else tasks
    if not tasks:
        return {}
    return {name: math.fsum(values[task][name] for task in tasks) / len(tasks) for name in names}


def finite(value: object) -> float | None:
    """``value`` as a float, None where it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _superseded(known: Mapping[str, Quantity]) -> list[tuple[str, str]]:
    """Metrics that are the mean of scores by task, with the key of those, which are compared instead."""
    found = []
    for key in known:
        for tasks, quantity in known.items():
            if quantity.by_task and key.partition("@")[0] == _probe_id(*tasks.split("/")[1:]):
                found.append((key, tasks))
    return found


def _probe_id(arm: str, score: str) -> str:
    return f"{PROBES}{SCORES[score][0]}_{arm}"


def _all(group: SeedGroup) -> Iterator[tuple[Quantity, str, str, float]]:
    """``(quantity, task, checkpoint, value)`` of everything measured on a group."""
    for record in group.members:
        for measurement in record.measurements.values():
            if measurement.value is not None:
                quantity = _metric(record, measurement, of_group=False)
                yield quantity, WHOLE, record.name, measurement.value
        yield from _probes(record)
    summary = group.summary
    if summary is not None:
        for measurement in summary.measurements.values():
            if measurement.value is not None:
                quantity = _metric(summary, measurement, of_group=True)
                yield quantity, WHOLE, group.name, measurement.value


def _metric(record: Record, measurement: Measurement, *, of_group: bool) -> Quantity:
    key = measurement.metric
    own: Mapping[str, Any] = record.definitions.get(key, {})
    if not own and (shipped := DEFINITIONS.get(measurement.name)) and shipped.metric == key:
        own = shipped.to_json()
    better = _direction(own.get("better"))
    headline = measurement.name in (OF_GROUPS if of_group else HEADLINES)
    if key.startswith(PROBES):
        headline = better != "none" and not measurement.name.endswith("_gap")
    return Quantity(
        key,
        LABELS.get(measurement.name) or str(own.get("label") or key),
        str(own.get("unit") or ""),
        better,
        headline,
        of_group,
        beside=of_group and measurement.name in FLOORS,
        fixed=measurement.name in FIXED,
    )


def _probes(record: Record) -> Iterator[tuple[Quantity, str, str, float]]:
    details = record.details
    probing = details.get("probing") if isinstance(details, Mapping) else None
    tasks = probing.get("tasks") if isinstance(probing, Mapping) else None
    for task, result in tasks.items() if isinstance(tasks, Mapping) else ():
        arms = result.get("arms") if isinstance(result, Mapping) else None
        for arm, scores in arms.items() if isinstance(arms, Mapping) else ():
            for score in SCORES:
                value = finite(scores.get(score)) if isinstance(scores, Mapping) else None
                if value is not None:
                    yield _probe(str(arm).replace("/", "_"), score), str(task), record.name, value


def _probe(arm: str, score: str) -> Quantity:
    """One score of the probes of one arm; what does not read the SAE has no better direction."""
    words = SCORES[score][1]
    known = DEFINITIONS.get(_probe_id(arm, score))
    label, better = f"Probe {words} on {arm}", "higher"
    if known is not None:
        label, better = known.label, known.better
    reads_it = better != "none"
    key = f"probing/{arm}/{score}"
    fixed = _probe_id(arm, score) in FIXED
    return Quantity(
        key, label, words, better, reads_it, by_task=True, beside=not reads_it, fixed=fixed
    )


def _place(quantity: Quantity) -> tuple[int, int, str]:
    name = quantity.key.partition("@")[0]
    if not (quantity.headline or quantity.beside):
        return 3, 0, quantity.key
    if quantity.of_group:
        return 2, 2 * OF_GROUPS.index(FLOORS.get(name, name)) + (name in FLOORS), quantity.key
    first = HEADLINES.index(name) if name in HEADLINES else len(HEADLINES)
    return int(quantity.by_task or name not in HEADLINES), first, quantity.key


def _direction(better: object) -> str:
    return better if better in ("higher", "lower") else "none"
