"""Reading TOML tables that somebody wrote by hand: every key is known and has the right type.

Where it is not so the error names the file, the table, the key and the nearest key that exists.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

from saebench.errors import ConfigError

_KINDS = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    list: "a list",
    dict: "a table",
    date: "a date (2027-01-31)",
}


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file; raises :class:`ConfigError` where there is none."""
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(
            f"the configuration {path}",
            error.strerror or str(error),
            "Check the path, and that the file may be read.",
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"the configuration {path}",
            f"it is not TOML: {error}",
            "Correct the file at that place.",
        ) from None


def nearest(name: str, known: Iterable[str]) -> str:
    """``Did you mean 'fve'?``, or the list of what is known where nothing is near."""
    names = list(known)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known: {', '.join(names)}." if names else "Nothing is known here."


class Table:
    """One table of a configuration, that knows where it is: ``[data] of saebench.toml``.

    Raises :class:`ConfigError` when it is not a table or has a key that is not in ``keys`` (None:
    the keys are free).
    """

    def __init__(self, data: object, where: str, keys: Iterable[str] | None = None) -> None:
        self.where = where
        if not isinstance(data, Mapping):
            raise ConfigError(
                where, f"expected a table, found {_described(data)}", "Write a table."
            )
        self.data: Mapping[str, Any] = data
        if keys is not None:
            known = list(keys)
            for key in self.data:
                if key not in known:
                    raise ConfigError(where, f"unknown key {key!r}", nearest(key, known))

    def text(self, key: str, default: str | None = None) -> str | None:
        """The text at ``key``, which may not be empty."""
        value = self._typed(key, str, default)
        if value is not None and not value.strip():
            raise self.error(key, "empty text", "Write a value, or leave the key out.")
        return value

    def required(self, key: str) -> str:
        """The text at ``key``, which has to be there."""
        value = self.text(key)
        if value is None:
            raise ConfigError(self.where, f"{key!r} is missing", f'Add {key} = "...".')
        return value

    def choice(self, key: str, choices: Iterable[str], default: str) -> str:
        """The text at ``key``, one of ``choices``."""
        value, known = self.text(key, default), list(choices)
        if value not in known:
            raise self.error(key, f"unknown value {value!r}", nearest(str(value), known))
        return str(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """The truth value at ``key``."""
        return bool(self._typed(key, bool, default))

    def count(self, key: str, default: int | None = None, *, least: int = 1) -> int | None:
        """The whole number at ``key``, at least ``least``."""
        value: int | None = self._typed(key, int, default)
        if value is not None and value < least:
            raise self.error(key, f"found {value}", f"Write a whole number of at least {least}.")
        return value

    def day(self, key: str) -> date:
        """The day at ``key``, a TOML date or the text of one."""
        value = self.data.get(key)
        if isinstance(value, str):
            try:
                return date.fromisoformat(value)
            except ValueError:
                raise self.error(key, f"found {value!r}", "Write a date: 2027-01-31.") from None
        if value is None:
            raise ConfigError(self.where, f"{key!r} is missing", f"Add {key} = 2027-01-31.")
        found: date = self._typed(key, date, None)
        return found

    def names(self, key: str, default: Iterable[str] = ()) -> tuple[str, ...]:
        """The list of texts at ``key``."""
        items = self._typed(key, list, list(default))
        for item in items:
            if not isinstance(item, str):
                raise self.error(key, f"found {_described(item)} in it", "Write a list of texts.")
        return tuple(items)

    def items(self, key: str) -> list[Any]:
        """The list of tables or texts at ``key``, which a single text may stand for."""
        value = self.data.get(key, [])
        if isinstance(value, str):
            return [value]
        if not isinstance(value, list):
            raise self.error(
                key,
                f"expected a list, found {_described(value)}",
                f"Write [[{key}]] with two brackets for each.",
            )
        return value

    def error(self, key: str, found: str, next_step: str) -> ConfigError:
        """The error about the value at ``key``."""
        return ConfigError(f"{key!r} in {self.where}", found, next_step)

    def _typed(self, key: str, kind: type, default: Any) -> Any:
        value = self.data.get(key)
        if value is None:
            return default
        # True is an int and a time is a date to Python, and neither is to the person who wrote it
        wrong = isinstance(value, bool) if kind is int else isinstance(value, datetime)
        if wrong or not isinstance(value, kind):
            raise self.error(
                key,
                f"expected {_KINDS[kind]}, found {_described(value)}",
                "Correct the value.",
            )
        return value


def _described(value: object) -> str:
    shown = repr(value) if len(repr(value)) <= 40 else repr(value)[:37] + "..."
    words = _KINDS.get(type(value), "a value")
    return f"{words.partition(' (')[0]} ({shown})"
