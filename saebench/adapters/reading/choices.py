"""What the user says about a checkpoint: settings (``--set k=10``) and names of tensors (``--map``).

Adapters ask for what the files leave open; an answer becomes a :class:`Fact` with how ``user``. What
nobody asked for is an error at the end: a misspelt setting must not be ignored.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from saebench.errors import CheckpointError, ConfigError
from saebench.sae import Fact

TRUE = ("true", "yes", "1")
FALSE = ("false", "no", "0")


class Choices:
    """Settings by name and tensor names by role, all as text; each is marked when it is asked for.

    Numbers, booleans and sequences of them become the text that the command line would take. Raises
    :class:`ConfigError` for anything that is no mapping of names to such values.
    """

    def __init__(
        self,
        settings: Mapping[str, Any] | None = None,
        tensors: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = as_texts("settings", settings, '{"k": "10"}')
        self._tensors = as_texts("tensors", tensors, '{"encoder": "W_enc"}')
        self._asked: dict[str, None] = {}
        self._roles: dict[str, None] = {}

    @property
    def given(self) -> dict[str, dict[str, str]]:
        """``settings`` and ``tensors`` as they were given, as text."""
        return {"settings": dict(self._settings), "tensors": dict(self._tensors)}

    def __contains__(self, name: str) -> bool:
        return name in self._settings

    def text(self, name: str, allowed: Sequence[str] = ()) -> Fact | None:
        """A text, one of ``allowed`` where that is given; None where the user says nothing."""
        self._asked[name] = None
        value = self._settings.get(name)
        if value is None:
            return None
        if allowed and value not in allowed:
            raise self._wrong(name, value, f"one of {', '.join(allowed)}")
        return Fact(value, f"--set {name}={value}", "user")

    def flag(self, name: str) -> Fact | None:
        """True or false."""
        fact = self.text(name)
        if fact is None:
            return None
        value = str(fact.value).lower()
        if value not in (*TRUE, *FALSE):
            raise self._wrong(name, fact.value, "true or false")
        return Fact(value in TRUE, fact.source, "user")

    def size(self, name: str) -> Fact | None:
        """A positive integer."""
        fact = self.text(name)
        if fact is None:
            return None
        value = str(fact.value).replace("_", "")
        if not value.isascii() or not value.isdigit() or not 0 < int(value[:20]) < 2**40:
            raise self._wrong(name, fact.value, "a positive integer")
        return Fact(int(value), fact.source, "user")

    def number(self, name: str) -> Fact | None:
        """A finite number."""
        fact = self.text(name)
        if fact is None:
            return None
        try:
            value = float(fact.value)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self._wrong(name, fact.value, "a finite number")
        return Fact(value, fact.source, "user")

    def names(self, name: str) -> Fact | None:
        """Several texts separated by commas, as a tuple."""
        fact = self.text(name)
        if fact is None:
            return None
        values = tuple(part.strip() for part in str(fact.value).split(","))
        if not all(values):
            raise self._wrong(name, fact.value, "names separated by commas")
        return Fact(values, fact.source, "user")

    def numbers(self, name: str) -> Fact | None:
        """Several finite numbers separated by commas, as a tuple."""
        fact = self.names(name)
        if fact is None:
            return None
        try:
            values = tuple(float(part) for part in fact.value)
        except ValueError:
            values = (math.nan,)
        if not all(map(math.isfinite, values)):
            raise self._wrong(name, ",".join(fact.value), "numbers separated by commas")
        return Fact(values, fact.source, "user")

    def tensor(self, role: str) -> str | None:
        """The name of the tensor that the user gives a role (``--map encoder=W_enc``)."""
        self._roles[role] = None
        return self._tensors.get(role)

    def check_used(self, format: str) -> None:
        """Raise :class:`ConfigError` for a setting or a role that nobody asked for."""
        for what, given, known in (
            ("--set", self._settings, self._asked),
            ("--map", self._tensors, self._roles),
        ):
            for name in given:
                if name in known:
                    continue
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                names = ", ".join(sorted(known)) or "nothing"
                raise ConfigError(
                    f"{what} {name}={given[name]}"[:200],
                    f"a {format} checkpoint has no use for it here{hint}",
                    f"It takes {names}.",
                )

    def _wrong(self, name: str, value: object, expected: str) -> CheckpointError:
        return CheckpointError(
            f"--set {name}={value}"[:200], f"not {expected}", f"Give {expected} for {name}."
        )


def as_texts(name: str, given: object, example: str) -> dict[str, str]:
    """A mapping with every value as text; raises :class:`ConfigError` for what is none."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"{name} as a mapping of text to text",
            f"{type(given).__name__} {given!r:.80}",
            f"Give {name}={example}.",
        )
    texts = {}
    for key, value in given.items():
        text = _as_text(value)
        if not isinstance(key, str) or text is None:
            raise ConfigError(
                f"{name} as a mapping of text to text",
                f"{key!r:.80}: {value!r:.80}",
                f"Give {name}={example}.",
            )
        texts[key] = text
    return texts


def _as_text(value: object) -> str | None:
    """``True`` as true, a list as its entries between commas; None for what has no such text."""
    if isinstance(value, list | tuple) and value:
        parts = [_as_text(part) for part in value if not isinstance(part, list | tuple)]
        texts = [part for part in parts if part is not None]
        return ",".join(texts) if len(texts) == len(value) else None
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int | float) else None
