"""Words, phrases and regular expressions as compiled patterns whose search ends in bounded time.

Python's matcher backtracks: how often it tries is bounded here before any text is seen, from the
pattern's own choices and the number of characters that it is let loose on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from saebench.errors import ConfigError

MAX_STEPS = 2e8  # tries of one search in the worst case: some five seconds
_ATOMIC = ("POSSESSIVE_REPEAT", "ATOMIC_GROUP", "ASSERT", "ASSERT_NOT")
_CURLY = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"'})

Pattern = re.Pattern[str]


def straight(text: str) -> str:
    """The text with straight quotes for curly ones, of the same length."""
    return text.translate(_CURLY)


def word(text: str, where: str) -> Pattern:
    """A whole word in any case; raises :class:`ConfigError` where it is none."""
    if len(text.split()) != 1:
        raise ConfigError(
            f"the word {text!r} in {where}",
            "more than one" if text.strip() else "nothing",
            "Write single words in any =, and several in phrases =.",
        )
    return phrase(text, where)


def phrase(text: str, where: str) -> Pattern:
    """Words one after another in any case, with any white space between them.

    An end of the phrase that is a letter or digit is the end of a word in the text as well.
    """
    parts = straight(text).split()
    if not parts:
        raise ConfigError(f"a phrase in {where}", "empty text", "Write it, or leave it out.")
    before = r"(?<!\w)" if re.match(r"\w", parts[0]) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", parts[-1]) else ""
    # possessive: white space that was passed over is not given back
    return re.compile(before + r"\s++".join(map(re.escape, parts)) + after, re.IGNORECASE)


def expression(text: str, where: str, n_chars: int) -> Pattern:
    """A regular expression in any case (``(?-i:…)`` minds it), to search ``n_chars`` characters with.

    Raises :class:`ConfigError` where it is malformed, or its search could take more than
    :data:`MAX_STEPS` steps: one unbounded repeat in another, or several in a row.
    """
    if not text:
        raise ConfigError(f"a regular expression in {where}", "empty text", "Leave it out.")
    try:
        pattern = re.compile(text, re.IGNORECASE)
        steps = _steps(text, n_chars)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(
            f"the regular expression {text!r} in {where}", str(error), "Correct it."
        ) from None
    if not steps <= MAX_STEPS:
        raise ConfigError(
            f"the regular expression {text!r} in {where}",
            f"a search of {n_chars} characters may try "
            + (
                f"{steps:.0e} ways to match" if steps < math.inf else "endlessly many ways to match"
            ),
            r"Bound its repeats ({0,20}), make them possessive (\s++, (?>…)), nest none in "
            "another, or lower n_chars.",
        )
    return pattern


def first_place(patterns: Iterable[Pattern], text: str) -> int | None:
    """Where the earliest match of any of the patterns starts, None where none matches."""
    found = [match.start() for pattern in patterns if (match := pattern.search(text))]
    return min(found, default=None)


def _steps(text: str, n_chars: int) -> float:
    """An upper bound, up to a small factor, on the tries of a search through ``n_chars`` characters."""
    parsed = re._parser.parse(text, re.IGNORECASE)  # type: ignore[attr-defined]
    found = _of_sequence(parsed, n_chars)
    # repeats one after another share the characters: their lengths and the start sum to at most n
    share = math.factorial(min(found.unbounded + 1, 20))
    return n_chars * found.ways / share * found.inside


class _Ways(NamedTuple):
    """In how many ways a part of a pattern may match, all of which a failure after it has tried.

    ``unbounded`` of its repeats in a row have no bound; ``inside`` is the most that one of its atomic
    parts (lookaround, possessive) tries: these are not entered again once they match.
    """

    ways: float = 1.0
    unbounded: int = 0
    inside: float = 1.0


def _of_sequence(parsed: Any, n_chars: int) -> _Ways:
    ways, unbounded, inside = 1.0, 0, 1.0
    for kind, value in parsed:
        own = _of_part(str(kind), value, n_chars)
        ways *= own.ways
        unbounded += own.unbounded
        inside = max(inside, own.inside)
    return _Ways(ways, unbounded, inside)


def _of_part(kind: str, value: Any, n_chars: int) -> _Ways:
    if kind in ("MAX_REPEAT", "MIN_REPEAT"):
        low, high, body = value
        return _of_repeat(int(low), int(high), body, n_chars)
    if kind == "SUBPATTERN":
        return _of_sequence(value[-1], n_chars)
    if kind in ("BRANCH", "GROUPREF_EXISTS"):
        bodies = value[1] if kind == "BRANCH" else [body for body in value[1:] if body]
        branches = [_of_sequence(body, n_chars) for body in bodies]
        ways = sum(branch.ways for branch in branches)
        return _Ways(ways, 0, max(branch.inside for branch in branches))
    if kind in _ATOMIC:
        body = value if kind == "ATOMIC_GROUP" else value[-1]
        found = _of_sequence(body, n_chars)
        return _Ways(1.0, 0, found.ways * found.inside)
    if kind == "GROUPREF":  # compared character by character
        return _Ways(float(n_chars))
    return _Ways()


def _of_repeat(low: int, high: int, body: Any, n_chars: int) -> _Ways:
    """A repeat: a choice of how often and, where its body has choices, these each time."""
    within = _of_sequence(body, n_chars)
    times = min(high, n_chars)
    if within.ways == 1:
        return _Ways(max(times - low, 0) + 1.0, int(high >= n_chars), within.inside)
    try:
        ways = times * within.ways**times + 1
    except OverflowError:
        ways = math.inf
    return _Ways(ways, 0, within.inside)
