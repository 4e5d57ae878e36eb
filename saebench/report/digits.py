"""Numbers as text, the same everywhere in a report: the digits that the interval supports."""

from __future__ import annotations

from saebench.gates import Limit, shown
from saebench.record import Measurement

MORE_DIGITS = (
    12  # a limit missed by less than this prints as equality, and the verdict says the rest
)


def count(number: int | float) -> str:
    """A count with thousands separators: ``131,072``."""
    return f"{int(number):,}"


def estimate(measurement: Measurement, limit: Limit | None = None) -> tuple[str, str]:
    """``("0.812", "[0.806, 0.818]")``: the value and its interval, or ``("–", "")`` when there is none.

    With a ``limit`` it has as many more digits as it takes for the printed value to be on the same
    side of the limit as the value itself.
    """
    if measurement.value is None:
        return "–", ""
    if _counts_things(measurement):
        return count(measurement.value), ""
    for extra in range(MORE_DIGITS):
        value, _, interval = shown(measurement, extra=extra).partition(" ")
        if limit is None or limit.needs_k:
            break
        if limit.holds(float(value)) == limit.holds(measurement.value):
            break
    return value, interval


def number(value: float) -> str:
    """A number that has no interval."""
    return estimate(Measurement("", value))[0]


def number_or_dash(value: object) -> str:
    """A number without an interval, a dash for whatever else a stored report may hold there."""
    return number(float(value)) if isinstance(value, int | float) else "–"


def significant(value: float, digits: int = 6) -> float:
    """``value`` rounded to ``digits`` significant digits, for files that people also read."""
    return value if value == int(value) else float(f"{value:.{digits}g}")


def _counts_things(measurement: Measurement) -> bool:
    value = measurement.value
    assert value is not None
    return measurement.low is None and value == int(value)


def counted(value: object) -> str:
    """A whole number with separators; a dash for what a record does not hold."""
    return count(value) if isinstance(value, int | float) else "–"
