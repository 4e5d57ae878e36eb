"""Gates: a measurement and a limit make a verdict, and the verdict says why in one line.

What was measured is compared unrounded; the message shows as many digits as it takes for the number
in it to be on the same side of the limit. What could not be measured fails as NOT_EVALUABLE.
A waiver turns a failure into WAIVED until the day it expires.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum
from fnmatch import fnmatchcase

from saebench.gates.limits import Limit
from saebench.metrics.definitions import definition
from saebench.record import Measurement, Record

SIGNIFICANT = 3  # digits of a value, unless its interval or its limit needs more
FIXED_FROM, FIXED_BELOW = 1e-4, 1e9  # outside of these a number is shown with an exponent


class Status(StrEnum):
    """What became of a gate."""

    PASS = "PASS"
    FAIL = "FAIL"
    NOT_EVALUABLE = "NOT_EVALUABLE"
    WAIVED = "WAIVED"


@dataclass(frozen=True)
class Gate:
    """A limit on a metric.

    With ``confidence`` the end of the interval that is unfavourable has to satisfy the limit (both
    ends, where the limit has two sides), else the estimate. ``reason`` and ``source`` say why the
    limit is what it is; ``shipped`` marks those that saebench comes with.
    """

    metric: str
    limit: Limit
    confidence: bool = False
    suite: str = ""
    reason: str = ""
    source: str = ""
    shipped: bool = False

    def at(self, k: int | None) -> Gate | None:
        """The gate for a checkpoint with this ``k``.

        Without a k a shipped limit that refers to it does not apply (None); one that somebody wrote
        stays as it is, and is not evaluable.
        """
        if not self.limit.needs_k:
            return self
        if k is None:
            return None if self.shipped else self
        return replace(self, limit=self.limit.at(k))

    def __str__(self) -> str:
        return f"{self.metric} {self.limit}{' (interval)' if self.confidence else ''}"


@dataclass(frozen=True)
class Waiver:
    """A failure that is accepted for a reason, up to and including the day ``expires``.

    ``sae`` is the name of a checkpoint or a glob over names; ``metric`` the metric of the gate.
    """

    sae: str
    metric: str
    reason: str
    expires: date

    def covers(self, name: str, metric: str) -> bool:
        """Whether it is about this metric of the checkpoint called ``name``."""
        return _short(metric) == _short(self.metric) and fnmatchcase(name, self.sae)


@dataclass(frozen=True)
class Verdict:
    """What became of one gate on one checkpoint, called ``name``; ``message`` is one line of text.

    ``waiver`` is the one that covers this gate, whether it was needed, not needed, or has expired.
    """

    status: Status
    gate: Gate
    measurement: Measurement | None
    message: str
    name: str = ""
    waiver: Waiver | None = None

    @property
    def passed(self) -> bool:
        """Whether the gate lets the checkpoint through; a waived failure does."""
        return self.status in (Status.PASS, Status.WAIVED)


def judge(
    gate: Gate,
    measurement: Measurement | None,
    *,
    name: str = "",
    waivers: Sequence[Waiver] = (),
    today: date | None = None,
) -> Verdict:
    """The verdict on a ``measurement`` (None: there is none) of the checkpoint ``name``.

    ``today`` decides which waivers have expired and is the current day when not given.
    """
    status, message = _compare(gate, measurement)
    covering = [waiver for waiver in waivers if waiver.covers(name, gate.metric)]
    if not covering:
        return Verdict(status, gate, measurement, message, name)
    waiver = max(covering, key=lambda waiver: waiver.expires)
    day = f"{waiver.expires:%Y-%m-%d}"
    reason = " ".join(waiver.reason.split())
    if status is Status.PASS:
        message += f"; no longer needs the waiver that runs until {day} ({reason})"
    elif (today or date.today()) > waiver.expires:
        message += f"; its waiver expired on {day} ({reason})"
    else:
        status = Status.WAIVED
        message += f"; waived until {day} ({reason})"
    return Verdict(status, gate, measurement, message, name, waiver)


def judge_record(
    gates: Sequence[Gate],
    record: Record,
    *,
    waivers: Sequence[Waiver] = (),
    today: date | None = None,
) -> tuple[Verdict, ...]:
    """The verdict of each of ``gates`` on what the ``record`` holds."""
    return tuple(
        judge(gate, record.get(gate.metric), name=record.name, waivers=waivers, today=today)
        for gate in gates
    )


def shown(measurement: Measurement, *, extra: int = 0) -> str:
    """``0.812 [0.806, 0.818]``: the value and its interval, with the digits that the latter allows.

    ``extra`` asks for more digits; raises :class:`ValueError` when there is no value.
    """
    if measurement.value is None:
        raise ValueError(f"{measurement.metric} has no value: {measurement.reason}")
    decimals = _decimals(measurement) + extra
    text = _fixed(measurement.value, decimals, extra)
    if measurement.low is None or measurement.high is None:
        return text
    low, high = (_fixed(end, decimals, extra) for end in (measurement.low, measurement.high))
    return f"{text} [{low}, {high}]"


def _compare(gate: Gate, measurement: Measurement | None) -> tuple[Status, str]:
    """The verdict before waivers, and its message."""
    problem = _not_evaluable(gate, measurement)
    label = definition(gate.metric).label
    if problem is not None:
        counted = _counted(measurement) if measurement is not None else ""
        message = f"{label} cannot be judged against the gate {gate.limit}: {problem}{counted}"
        return Status.NOT_EVALUABLE, message
    assert measurement is not None
    limit = gate.limit
    where, number = max(_judged(gate, measurement), key=lambda pair: _severity(limit, pair[1]))
    extra, text = _distinct(limit, number, measurement)
    subject = f"{label} {shown(measurement, extra=extra)}"
    if where:
        subject = f"the {where} bound {text} of {subject}"
    held = limit.holds(number)
    relation = "meets" if held else limit.failure
    message = f"{subject} {relation} the gate {limit}{_counted(measurement)}"
    return (Status.PASS if held else Status.FAIL), message


def _not_evaluable(gate: Gate, measurement: Measurement | None) -> str | None:
    """Why there is nothing to compare, or None when there is."""
    if measurement is None:
        return "the record has no such measurement"
    if measurement.value is None:
        return " ".join((measurement.reason or "it was not measured").split())
    if gate.limit.needs_k:
        return "the checkpoint states no k"
    missing = [where for where, number in _bounds(gate, measurement) if number is None]
    if gate.confidence and missing:
        return f"the gate is on the interval, and the measurement has no {missing[0]} bound"
    return None


def _bounds(gate: Gate, measurement: Measurement) -> list[tuple[str, float | None]]:
    """The ends of the interval at which the limit is hardest to satisfy."""
    lower, upper = ("lower", measurement.low), ("upper", measurement.high)
    if gate.limit.two_sided:
        return [lower, upper]
    return [upper] if gate.limit.operator in ("<=", "<") else [lower]


def _judged(gate: Gate, measurement: Measurement) -> list[tuple[str, float]]:
    """The numbers that have to satisfy the limit, each with its name (none for the estimate)."""
    if not gate.confidence:
        assert measurement.value is not None
        return [("", measurement.value)]
    return [(where, bound) for where, bound in _bounds(gate, measurement) if bound is not None]


def _severity(limit: Limit, number: float) -> tuple[bool, float]:
    return not limit.holds(number), limit.shortfall(number)


def _distinct(limit: Limit, number: float, measurement: Measurement) -> tuple[int, str]:
    """How many extra digits it takes until the number shown gets the verdict of the number.

    A number that fails is also not shown as the bound itself, unless it is that.
    """
    decimals, held = _decimals(measurement), limit.holds(number)
    for extra in range(18):
        text = _fixed(number, decimals + extra, extra)
        rounded_to_end = float(text) in (limit.low, limit.high) and float(text) != number
        if limit.holds(float(text)) == held and (held or not rounded_to_end):
            return extra, text
    return 17, repr(number)


def _decimals(measurement: Measurement) -> int:
    """Decimals for three significant digits of the value and one of the interval's half-width."""
    assert measurement.value is not None
    decimals = SIGNIFICANT - 1 - _magnitude(measurement.value)
    if measurement.low is not None and measurement.high is not None:
        width = (measurement.high - measurement.low) / 2
        if width > 0:
            decimals = max(decimals, min(-_magnitude(width), decimals + SIGNIFICANT))
    return max(decimals, 0)


def _magnitude(number: float) -> int:
    """The power of ten of the first digit; 0 for zero, which has none."""
    return math.floor(math.log10(abs(number))) if number else 0


def _fixed(number: float, decimals: int, extra: int) -> str:
    if number and not FIXED_FROM <= abs(number) < FIXED_BELOW:
        return f"{number:.{SIGNIFICANT - 1 + extra}e}"
    return f"{number + 0.0:.{decimals}f}"  # −0 becomes 0


def _counted(measurement: Measurement) -> str:
    """What the number rests on: ``   (131,072 tokens, 512 sequences, fve@1)``."""
    parts = []
    for count, noun in ((measurement.n_tokens, "token"), (measurement.n_sequences, "sequence")):
        if count:
            parts.append(f"{count:,} {noun}{'' if count == 1 else 's'}")
    return f"   ({', '.join([*parts, measurement.metric])})"


def _short(metric: str) -> str:
    return metric.partition("@")[0]
