"""Plain values (what JSON can say) out of configs and pickles, bounded in number, depth and size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

MAX_DEPTH = 32
MAX_VALUES = 500_000
MAX_TEXT = 4 * 2**20  # characters in all texts together
CONTAINERS = (Mapping, list, tuple, set, frozenset)


class NotPlain(ValueError):
    """A value that would break whoever computes with it, prints it, or stores it."""


class TooDeep(NotPlain):
    """Values nested deeper than those of any config."""


class _Budget:
    """How much may still come; shared values count each time they are met."""

    def __init__(self) -> None:
        self.values, self.text = MAX_VALUES, MAX_TEXT

    def spend(self, text: str = "") -> None:
        self.values -= 1
        self.text -= len(text)
        if self.values < 0 or self.text < 0:
            raise NotPlain(f"more than {MAX_VALUES:,} values or {MAX_TEXT:,} characters")


def plain(value: Any, leave_out: Callable[[Any], bool] = lambda item: False) -> Any:
    """A copy of the value out of dicts with text keys, lists, texts, numbers, booleans and None.

    Sets and tuples become lists, torch's dtypes and devices texts, and so do ``nan`` and ``inf``:
    an unused one does no harm, and one that is used is found to be no number. What ``leave_out``
    says is skipped. Raises :class:`NotPlain` for anything else, for numbers beyond 64 bits, and
    where there is too much of it.
    """
    return _plain(value, leave_out, 0, _Budget())


def is_plain(value: Any) -> bool:
    """Whether :func:`plain` takes the value, of a container only whether it is one."""
    if isinstance(value, CONTAINERS):
        return True
    try:
        _scalar(value, _Budget())
    except NotPlain:
        return False
    return True


def _plain(value: Any, leave_out: Callable[[Any], bool], depth: int, budget: _Budget) -> Any:
    if not isinstance(value, CONTAINERS):
        return _scalar(value, budget)
    if depth >= MAX_DEPTH:
        raise TooDeep(f"nested deeper than {MAX_DEPTH} levels")
    budget.spend()

    def left_out(item: Any) -> bool:
        """What is left out was looked at, too."""
        if not leave_out(item):
            return False
        budget.spend(item if isinstance(item, str) and len(item) <= MAX_TEXT else "")
        return True

    if isinstance(value, Mapping):
        return {
            _key(key, budget): _plain(item, leave_out, depth + 1, budget)
            for key, item in value.items()
            if not left_out(item)
        }
    items = (item for item in value if not left_out(item))
    return [_plain(item, leave_out, depth + 1, budget) for item in items]


def _key(key: Any, budget: _Budget) -> str:
    if key is None or isinstance(key, str | bool | int | float):
        return str(_scalar(key, budget))
    raise NotPlain(f"a key that is a {type(key).__name__}")


def _scalar(value: Any, budget: _Budget) -> Any:
    no_number = isinstance(value, float) and not math.isfinite(value)
    if no_number or isinstance(value, torch.dtype | torch.device):
        value = str(value)
    if isinstance(value, str):
        budget.spend(value)
        try:
            value.encode()
        except UnicodeEncodeError:
            raise NotPlain("a text with half a character in it (a lone surrogate)") from None
        return value
    budget.spend()
    if isinstance(value, int) and not -(2**63) < value < 2**63:
        raise NotPlain("a number beyond 64 bits")
    if value is None or isinstance(value, bool | int | float):
        return value
    raise NotPlain(f"a {type(value).__name__}")
