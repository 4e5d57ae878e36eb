"""The tables of a configuration about single suites: groups, and the protocol of each suite."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from saebench.config.tables import Table
from saebench.errors import ConfigError
from saebench.protocols import (
    CausalProtocol,
    ConceptsProtocol,
    CrosscoderProtocol,
    CrossValidation,
    DifferenceProtocol,
    FakeProtocol,
    Group,
    PortabilityProtocol,
    ProbingProtocol,
    SeedsProtocol,
    SteeringProtocol,
    Task,
)

T = TypeVar(
    "T",
    FakeProtocol,
    ProbingProtocol,
    SeedsProtocol,
    PortabilityProtocol,
    ConceptsProtocol,
    CrossValidation,
    SteeringProtocol,
    DifferenceProtocol,
    CrosscoderProtocol,
    CausalProtocol,
)
POOLINGS = ("mean", "max", "last")

TASK_KEYS = ("name", "train", "test", "text", "label", "document")
_OPEN = (0.0, float("inf"))
LARGEST = 1000  # a bound that is worth telling
# name: smallest and largest value, both allowed
RANGES: Mapping[str, tuple[float, float]] = {
    "share": (0, 1),
    "n_sequences": (1, 2**40),
    "length": (2, 2**31),
    "max_train": (2, 2**31),
    "max_test": (1, 2**31),
    "n_tokens": (2, 2**40),
    "top_k": (1, 2**31),
    "seed": (0, 2**63 - 1),
    "fve_drop": (0, 100),
    "alive_shift": (0, 100),
    "fve_margin": (1e-9, 100),
    "alive_margin": (1e-9, 100),
    "survival": (-1, 1),
    "at_once": (1, 1000),
    "held_out": (0.05, 0.95),
    "n_permutations": (19, 10**7),
    "n_resamples": (2, 10**6),
    "min_firings": (1, 2**31),
    "n_examples": (0, 100),
    "max_texts": (4, 2**31),
    "folds": (2, 1000),
    "repeats": (1, 10_000),
    "c": (1e-12, 1e12),
    "n_path": (0, 1000),
    "ks": (1, 2**31),
    "latent": (0, 2**31),
    "alphas": (-1e6, 1e6),
    "n_prompts": (2, 2**31),
    "max_new_tokens": (1, 2**20),
    "temperature": (0, 100),
    "n_random": (0, 10_000),
    "n_latents": (0, 10_000),
    "top": (1e-6, 1 - 1e-6),
    "bottom": (1e-6, 1 - 1e-6),
    "max_tokens": (2, 2**40),
    "n_compared": (1, 2**31),
    "max_latents": (1, 2**31),
    "n_controls": (0, 2**31),
    "n_probes": (2, 1000),
    "min_probes": (3, 1000),
    "gap_cosine": (-1, 1),
    "gap_equivalence": (-1, 1),
}
_SEED = re.compile(r"(?:[-_.]s|[-_.]?seed)[-_=]?\d+(?=$|[-_.])", re.IGNORECASE)


def parse_protocol(kind: type[T], data: object, where: str, known: T | None = None) -> T:
    """A protocol from its table: plain values of its fields, each of the field's type.

    ``known`` has the values of keys that are not there. Raises :class:`ConfigError`.
    """
    names = [item.name for item in fields(kind) if item.name != "tasks"]
    table = Table(data, where, names)
    hints = get_type_hints(kind)
    found = {name: _value(table, name, hints[name]) for name in table.data}
    protocol = replace(known or kind(), **found)
    if isinstance(protocol, ConceptsProtocol) and not _is_pooling(protocol.pooling):
        raise table.error(
            "pooling",
            f"found {protocol.pooling!r}",
            "Write mean, max or last, or the place of a token in quotes: 0 is the first, -1 the last.",
        )
    if isinstance(protocol, SeedsProtocol) and not protocol.threshold < 1:
        raise table.error(
            "threshold",
            f"found {protocol.threshold:g}",
            "A cosine above 1 cannot be; 0.7 is usual.",
        )
    if isinstance(protocol, FakeProtocol) and protocol.relative and not 0 < protocol.threshold < 1:
        raise table.error(
            "threshold",
            f"found {protocol.threshold} as a quantile",
            "A relative threshold is a quantile between 0 and 1, such as 0.9.",
        )
    return protocol


def _is_pooling(text: str) -> bool:
    return text in POOLINGS or bool(re.fullmatch(r"-?\d{1,6}", text))


def parse_pairs(kind: type[T], pairs: Mapping[str, str], option: str, known: T) -> T:
    """A protocol with the values of options ``NAME=VALUE``."""
    hints = get_type_hints(kind)
    data = {name: _from_text(text, hints.get(name, str)) for name, text in pairs.items()}
    return parse_protocol(kind, data, f"the options {option}", known)


def parse_probing(data: object, place: Any) -> ProbingProtocol:
    """``[probing]``: ``tasks``, a list of names, folders or tables, and how probes are trained."""
    where = f"[probing] of {place.where}"
    if not isinstance(data, dict):
        raise ConfigError(where, f"found {data!r:.80}", 'Write tasks = ["labelled/part"].')
    rest = {key: value for key, value in data.items() if key != "tasks"}
    protocol = parse_protocol(ProbingProtocol, rest, where)
    items = data.get("tasks", [])
    if not isinstance(items, list):
        raise ConfigError(f"'tasks' in {where}", f"found {items!r:.80}", "Write a list of tasks.")
    return replace(protocol, tasks=parse_tasks(items, place))


def parse_tasks(items: Sequence[object], place: Any) -> tuple[Task, ...]:
    """Tasks from names that are known, folders (also as ``NAME=FOLDER``), or tables of their own."""
    tasks = tuple(_task(item, place) for item in items)
    for task in tasks:
        if sum(other.name == task.name for other in tasks) > 1:
            raise ConfigError(
                f"tasks of {place.where}",
                f"two are called {task.name!r}",
                "Give each a name of its own: --task NAME=FOLDER, or name = in its table.",
            )
    return tasks


def _task(item: object, place: Any) -> Task:
    if isinstance(item, str):
        name, equals, folder = item.partition("=")
        if equals and not Path(item).exists():
            return Task(name, place.path(folder, local=False), "")
        return Task(Path(item).name, place.path(item, local=False), "")
    table = Table(item, f"a task of {place.where}", TASK_KEYS)
    return Task(
        table.required("name"),
        place.path(table.required("train")),
        place.path(table.required("test")),
        table.text("text", "text") or "text",
        table.text("label", "label") or "label",
        table.text("document", "document") or "document",
    )


def parse_group(data: object, number: int, where: str) -> tuple[Group, Any]:
    """A ``[[group]]`` and its ``gates`` table."""
    table = Table(data, f"[[group]] number {number} of {where}", (*_GROUP_KEYS, "gates"))
    saes = tuple(table.items("saes"))
    if not saes or not all(isinstance(name, str) for name in saes):
        raise table.error("saes", f"found {saes!r:.80}", 'Name its checkpoints: saes = ["topk-*"].')
    group = Group(
        table.required("name"), saes, table.text("source") or "", table.text("block") or ""
    )
    return group, table.data.get("gates", {})


_GROUP_KEYS = tuple(item.name for item in fields(Group))


def groups_by_seed(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Checkpoints whose names differ in a seed only, ``topk-s0`` and ``topk-s1``, by the name of the group.

    That is what the names share or, where a checkpoint goes by it, the same with ``-seeds``.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        short = _SEED.sub("", name)
        if short and short != name:
            found.setdefault(short, []).append(name)
    return {
        f"{short}-seeds" if short in names else short: tuple(members)
        for short, members in found.items()
        if members[1:]
    }


def _value(table: Table, name: str, hint: Any) -> Any:
    """The value at ``name``, checked against the type of its field and its range."""
    value = table.data[name]
    options = _options(hint)
    choices = [c for option in options if get_origin(option) is Literal for c in get_args(option)]
    if choices:
        return table.choice(name, choices, choices[0])
    if bool in options:
        return table.flag(name)
    if str in options and get_origin(hint) is tuple:
        return tuple(table.names(name))
    if str in options:
        return str(value) if type(value) is int and name == "pooling" else table.text(name)
    if get_origin(hint) is tuple:
        return _numbers(table, name, options[0])
    if isinstance(value, bool) or not isinstance(value, int | (float if float in options else int)):
        kind = "a number" if float in options else "a whole number"
        raise table.error(name, f"expected {kind}, found {value!r:.80}", "Correct the value.")
    low, high = RANGES.get(name, _OPEN)
    if not low <= value <= high:
        least = f"a value from {low:g} to {high:g}" if high <= LARGEST else f"at least {low:g}"
        raise table.error(name, f"found {value}", f"Write {least}.")
    return float(value) if float in options else value


def _numbers(table: Table, name: str, kind: type) -> tuple[Any, ...]:
    """A list of different numbers, all of them in the range of the field."""
    items = table.data[name]
    low, high = RANGES[name]
    if not isinstance(items, list) or not items:
        raise table.error(name, f"found {items!r:.80}", "Write a list of numbers.")
    for item in items:
        numeric = isinstance(item, int | float) and not isinstance(item, bool)
        if not numeric or not low <= item <= high or (kind is int and item != int(item)):
            raise table.error(
                name, f"{item!r:.40} in it", f"Write numbers from {low:g} to {high:g}."
            )
    return tuple(sorted({kind(item) for item in items}))


def _options(hint: Any) -> tuple[Any, ...]:
    """The types that a field takes, one or those of a union."""
    if get_origin(hint) is Literal:
        return (hint,)
    if get_origin(hint) is tuple:
        return get_args(hint)[:1]
    return get_args(hint) or (hint,)


def _from_text(text: str, hint: Any) -> Any:
    """What an option means where a value of that type is wanted; the text itself where it is none."""
    options = _options(hint)
    if get_origin(hint) is tuple:
        return [_from_text(part.strip(), options[0]) for part in text.split(",")]
    if bool in options and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        if kind in options:
            try:
                return kind(text.replace("_", ""))
            except ValueError:
                continue
    return text
