"""Keyword rules: a text is of the class whose words its first characters hold.

A file of rules is TOML::

    n_chars = 200            # how much of the text is looked at, from its beginning
    first = false            # true: where several classes match, the earliest match decides
    default = "other"        # optional: the class of a text that none matches; without it ambiguous

    [[class]]
    name = "refusal"
    any = ["sorry", "cannot"]            # whole words
    phrases = ["I am not able to"]       # words in a row, any white space between them
    regex = ['\\bas an? (AI|assistant)\\b'] # Python's; one text or a list

    [[class]]
    name = "compliance"
    phrases = ["of course", "here is"]

Upper and lower case are alike (``(?-i:…)`` in a regex minds them), curly and straight quotes too. A text is
decisive where exactly one class matches, and ambiguous where several do, or none and there is no default.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from saebench.errors import ConfigError
from saebench.labelling.patterns import Pattern, expression, first_place, phrase, straight, word

N_CHARS = 200
MAX_CHARS = 100_000
_KEYS = ("n_chars", "first", "default", "class")
_CLASS_KEYS = ("name", "any", "phrases", "regex")


@dataclass(frozen=True)
class ClassRule:
    """The words, phrases and regular expressions of one class, as written, and compiled."""

    name: str
    any: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    regex: tuple[str, ...] = ()
    patterns: tuple[Pattern, ...] = field(default=(), compare=False, repr=False)

    def describe(self) -> dict[str, Any]:
        """The rule as plain JSON values."""
        return {
            "name": self.name,
            "any": list(self.any),
            "phrases": list(self.phrases),
            "regex": list(self.regex),
        }


@dataclass(frozen=True)
class Rules:
    """Rules that label texts; see the module for what they may say. Made by :func:`load_rules`."""

    rules: tuple[ClassRule, ...]
    n_chars: int = N_CHARS
    first: bool = False
    default: str | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that a text can get, in the order of the file."""
        names = tuple(rule.name for rule in self.rules)
        return names if self.default is None or self.default in names else (*names, self.default)

    def label(self, text: str) -> str | None:
        """The class of a text, None where it is ambiguous."""
        beginning = straight(text[: self.n_chars])
        found = {
            rule.name: place
            for rule in self.rules
            if (place := first_place(rule.patterns, beginning)) is not None
        }
        if not found:
            return self.default
        if self.first:
            earliest = min(found.values())
            found = {name: place for name, place in found.items() if place == earliest}
        return next(iter(found)) if len(found) == 1 else None

    def label_all(self, texts: Iterable[str]) -> list[str | None]:
        """The class of each text, None where it is ambiguous."""
        return [self.label(text) for text in texts]

    def describe(self) -> dict[str, Any]:
        """The rules and their digest, as plain JSON values."""
        return {**self._meaning(), "digest": self.digest}

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what the rules say, whatever the file's layout and comments."""
        return hashlib.sha256(json.dumps(self._meaning(), sort_keys=True).encode()).hexdigest()

    def _meaning(self) -> dict[str, Any]:
        return {
            "n_chars": self.n_chars,
            "first": self.first,
            "default": self.default,
            "class": [rule.describe() for rule in self.rules],
        }


def load_rules(path: str | Path) -> Rules:
    """The rules of a TOML file; raises :class:`ConfigError` that says what is wrong and where."""
    path = Path(path).expanduser()
    try:
        data = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(
            f"the label rules {path}", error.strerror or str(error), "Check the path."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"the label rules {path}", f"it is not TOML: {error}", "Correct the file at that place."
        ) from None
    return parse_rules(data, str(path))


def parse_rules(data: Mapping[str, Any], where: str) -> Rules:
    """Rules from the content of a file that ``where`` names; raises :class:`ConfigError`."""
    _known(data, _KEYS, where)
    n_chars = data.get("n_chars", N_CHARS)
    if not isinstance(n_chars, int) or isinstance(n_chars, bool) or not 1 <= n_chars <= MAX_CHARS:
        raise _wrong("n_chars", where, n_chars, f"a whole number from 1 to {MAX_CHARS}")
    first = data.get("first", False)
    if not isinstance(first, bool):
        raise _wrong("first", where, first, "true or false")
    default = data.get("default")
    if default is not None and not _is_name(default):
        raise _wrong("default", where, default, "the name of a class")
    tables = data.get("class", [])
    if not isinstance(tables, list) or not all(isinstance(item, dict) for item in tables):
        raise _wrong("class", where, tables, "[[class]] with two brackets for each class")
    rules = tuple(_class(item, i, n_chars, where) for i, item in enumerate(tables, start=1))
    found = Rules(rules, n_chars, first, default)
    names = [rule.name for rule in rules]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(
            f"the classes of {where}",
            f"two are called {twice[0]!r}",
            "Write all words of a class in one [[class]].",
        )
    for rule in rules:
        if not rule.patterns and rule.name != default:
            raise ConfigError(
                f"the class {rule.name!r} of {where}",
                "nothing that a text could match",
                "Write any =, phrases = or regex = in it.",
            )
    if len(found.classes) < 2:
        raise ConfigError(
            f"two classes or more in {where}",
            f"{len(found.classes)}: {', '.join(map(repr, found.classes)) or 'none'}",
            'Write another [[class]], or default = "…" for texts that none matches.',
        )
    return found


def _class(data: Mapping[str, Any], number: int, n_chars: int, where: str) -> ClassRule:
    name = data.get("name")
    if not _is_name(name):
        raise _wrong("name", f"[[class]] {number} of {where}", name, "a text, as short as you like")
    where = f"the class {name!r} of {where}"
    _known(data, _CLASS_KEYS, where)
    words, phrases, regex = (_texts(data, key, where) for key in _CLASS_KEYS[1:])
    patterns = (
        *(word(item, where) for item in words),
        *(phrase(item, where) for item in phrases),
        *(expression(item, where, n_chars) for item in regex),
    )
    return ClassRule(str(name), words, phrases, regex, patterns)


def _texts(data: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """A list of texts, which a single text may stand for."""
    value = data.get(key, [])
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise _wrong(key, where, value, "a text or a list of texts")
    return tuple(items)


def _known(data: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in data:
        if key not in keys:
            near = get_close_matches(key.lower(), keys, n=1, cutoff=0.5)
            raise ConfigError(
                where,
                f"unknown key {key!r}",
                f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(keys)}.",
            )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _wrong(key: str, where: str, value: object, right: str) -> ConfigError:
    shown = "nothing" if value is None else repr(value)
    return ConfigError(
        f"{key!r} in {where}",
        f"found {shown if len(shown) <= 60 else shown[:59] + '…'}",
        f"Write {right}.",
    )
