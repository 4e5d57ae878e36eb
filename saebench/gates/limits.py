"""The grammar of limits: one line of text to a frozen :class:`Limit`, and back.

    >= 0.80    <= 10%    > 0    < 5        one bound (the first two include it)
    60..70                                 a range, both ends included
    64 ± 0.5    64 +- 10%                  around a value, both ends included
    == 16    16                            exactly
    k ± 10%    <= k                        relative to the k that the checkpoint was trained with

Numbers may have underscores and exponents. A percentage is a hundredth, except after ``±``, where
it is a share of the value, unless the value itself is a percentage: ``10% ± 2%`` is 0.08 to 0.12.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

from saebench.errors import ConfigError

Operator = Literal[">=", "<=", ">", "<", "==", "..", "±"]

EXAMPLES = "'>= 0.80', '<= 10%', '> 0', '60..70', '64 ± 0.5' or 'k ± 10%'"

_NUMBER = r"[+-]?(?:\d[\d_]*(?:\.\d[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d+)?\s*%?"
_RANGE = re.compile(rf"(?P<low>{_NUMBER})\s*\.\.\s*(?P<high>{_NUMBER})", re.ASCII)
_AROUND = re.compile(
    rf"(?:==\s*)?(?P<value>k|{_NUMBER})\s*(?:±|\+-|\+/-)\s*(?P<spread>{_NUMBER})", re.ASCII
)
_BOUND = re.compile(rf"(?P<operator>>=|<=|==|>|<|)\s*(?P<value>k|{_NUMBER})", re.ASCII)

_FAILURE = {
    ">=": "is below",
    "<=": "is above",
    ">": "is not above",
    "<": "is not below",
    "==": "differs from",
    "..": "is outside",
    "±": "is outside",
}


@dataclass(frozen=True)
class Limit:
    """What a value has to satisfy; ``str(limit)`` is text that :func:`parse_limit` reads back.

    ``value`` is the bound, the lower end of a range or the middle; None stands for the k of the
    checkpoint. ``other`` is the upper end of ``..`` and the distance of ``±`` (in percent of the
    value where ``relative``).
    """

    operator: Operator
    value: float | None
    other: float = 0.0
    relative: bool = False

    @property
    def needs_k(self) -> bool:
        """Whether the limit refers to the checkpoint's k, which :meth:`at` fills in."""
        return self.value is None

    def at(self, k: int) -> Limit:
        """The same limit with the checkpoint's ``k`` (active latents per token) filled in."""
        return replace(self, value=float(k)) if self.needs_k else self

    @property
    def low(self) -> float:
        """The lower end, ``-inf`` where there is none; raises :class:`ConfigError` without a k."""
        if self.operator in ("<=", "<"):
            return -math.inf
        return self._exact() if self.operator != "±" else float(self._decimal() - self._distance())

    @property
    def high(self) -> float:
        """The upper end, ``inf`` where there is none; raises :class:`ConfigError` without a k."""
        if self.operator in (">=", ">"):
            return math.inf
        if self.operator == "..":
            return self.other
        return self._exact() if self.operator != "±" else float(self._decimal() + self._distance())

    @property
    def two_sided(self) -> bool:
        """Whether both a value too low and a value too high fail."""
        return self.operator in ("==", "..", "±")

    def holds(self, value: float) -> bool:
        """Whether ``value``, unrounded, satisfies the limit; NaN never does."""
        if self.operator == ">":
            return value > self.low
        if self.operator == "<":
            return value < self.high
        return self.low <= value <= self.high

    def shortfall(self, value: float) -> float:
        """How far ``value`` is beyond the nearest end, in its own unit; 0 where it is not."""
        return max(self.low - value, value - self.high, 0.0)

    @property
    def failure(self) -> str:
        """The verb of a failure, from the operator and not from the value: ``is below``."""
        return _FAILURE[self.operator]

    def __str__(self) -> str:
        value = "k" if self.value is None else _text(self.value)
        if self.operator == "..":
            return f"{value}..{_text(self.other)}"
        if self.operator == "±":
            return f"{value} ± {_text(self.other)}{'%' if self.relative else ''}"
        return f"{self.operator} {value}"

    def _exact(self) -> float:
        if self.value is None:
            raise ConfigError(
                f"comparing a value with the limit {self}",
                "the checkpoint states no k",
                "Write the limit with a number for this checkpoint.",
            )
        return self.value

    def _decimal(self) -> Decimal:
        """The middle in decimal: in binary 0.8 − 0.1 is above 0.7, which would then fail."""
        return Decimal(repr(self._exact()))

    def _distance(self) -> Decimal:
        distance = Decimal(repr(self.other))
        return abs(self._decimal()) * distance / 100 if self.relative else distance


def parse_limit(text: str) -> Limit:
    """The limit that ``text`` spells.

    Raises :class:`ConfigError` when the text is not in the grammar, a range is upside down, or one
    of its two numbers is a percentage and the other is not.
    """
    cleaned = text.strip().replace("≥", ">=").replace("≤", "<=")
    if found := _RANGE.fullmatch(cleaned):
        low, high = found["low"], found["high"]
        if ("%" in low) != ("%" in high):
            raise _bad(text, "one end in percent and one not", "Write both ends in the same unit.")
        if _number(low, text) > _number(high, text):
            raise _bad(text, "the lower end is above the upper end", "Swap the two ends.")
        return Limit("..", _number(low, text), _number(high, text))
    if found := _AROUND.fullmatch(cleaned):
        return _around(found["value"], found["spread"], text)
    if found := _BOUND.fullmatch(cleaned):
        value = None if found["value"] == "k" else _number(found["value"], text)
        operator: Operator = found["operator"] or "=="  # type: ignore[assignment]
        return Limit(operator, value)
    raise _bad(text, "no limit that this grammar knows", f"Write for example {EXAMPLES}.")


def _around(value: str, spread: str, text: str) -> Limit:
    centre = None if value == "k" else _number(value, text)
    both_percent = "%" in value and "%" in spread
    if "%" in value and "%" not in spread:
        raise _bad(text, "a percentage ± a plain number", "Write both in percent, or neither.")
    relative = "%" in spread and not both_percent
    distance = _number(spread.replace("%", "") if relative else spread, text)
    if distance < 0:
        raise _bad(text, "a negative distance", "Leave out the sign after ±.")
    return Limit("±", centre, distance, relative)


def _number(text: str, limit: str) -> float:
    """One number of the grammar as a float, a percentage as the float nearest to its hundredth."""
    digits = text.replace("%", "").replace("_", "").strip()
    try:
        value = float(Decimal(digits) / 100 if "%" in text else Decimal(digits))
    except ArithmeticError:  # the exponent does not even fit a decimal
        value = math.inf
    if not math.isfinite(value):
        raise _bad(limit, f"{text.strip()} does not fit a 64-bit float", "Write a smaller number.")
    return value + 0.0  # −0 becomes 0


def _text(number: float) -> str:
    """The shortest text that reads back as ``number``, an integer without its ``.0``."""
    text = repr(number)
    return text[:-2] if text.endswith(".0") else text


def _bad(text: str, found: str, next_step: str) -> ConfigError:
    shown = text if len(text) <= 60 else text[:57] + "..."
    return ConfigError(f"the limit {shown!r}", found, next_step)
