"""Values of the causal part as a record stores them, whatever shape it has, and how cards show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from saebench.report.digits import count, number_or_dash
from saebench.report.stored import mapping

CLASSES = {
    "shared": "shared",
    "base_only": "base only",
    "chat_only": "chat only",
    "other": "other",
    "dead": "dead",
    "all": "all",
}


def statistics_of(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The statistics of one class; empty without them."""
    return mapping(mapping(mapping(found.get("classes")).get(name)).get("statistics"))


def class_names(found: Mapping[str, Any]) -> list[str]:
    """The classes that have statistics, in order."""
    return [name for name in CLASSES if statistics_of(found, name)]


def selected(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """How many latents of one class there are, fire often enough, and were ablated; or nothing."""
    rows = (mapping(item) for item in items(found.get("selection")))
    return next((row for row in rows if row.get("class") == name), {})


def items(value: object) -> Sequence[Any]:
    """A list, or nothing."""
    return value if isinstance(value, list | tuple) else ()


def known(value: object) -> TypeGuard[int | float]:
    """Whether it is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown_count(value: object) -> str:
    """A count, or a dash."""
    return count(value) if isinstance(value, int | float) else "–"


def value_of_key(values: Mapping[str, Any], key: str) -> str:
    """The value of one statistic."""
    return number_or_dash(mapping(values.get(key)).get("value"))


def with_bounds(item: Mapping[str, Any]) -> str:
    """``0.81 [0.74, 0.86]``, or what of it there is."""
    value, low, high = (item.get(key) for key in ("value", "low", "high"))
    shown = number_or_dash(value)
    if not known(low) or not known(high):
        return shown
    return f"{shown} [{number_or_dash(low)}, {number_or_dash(high)}]"


def row_bounds(row: Mapping[str, Any], name: str) -> str:
    """:func:`with_bounds` of a column and the two beside it."""
    return with_bounds(
        {"value": row.get(name), "low": row.get(f"{name}_low"), "high": row.get(f"{name}_high")}
    )


def quartiles(item: Mapping[str, Any]) -> str:
    """``0.7 to 0.9``, or a dash."""
    found = items(item.get("quartiles"))
    return " to ".join(number_or_dash(value) for value in found) if len(found) == 2 else "–"
