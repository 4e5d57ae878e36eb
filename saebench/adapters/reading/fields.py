"""Config files read key by key: every value comes with where it was read, or an error names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saebench.errors import CheckpointError
from saebench.sae import Fact, SAEConfig

_MISSING = object()
K_KEYS = {"k", "top_k", "trainer.k"}  # what --set k=… stands in for
MAX_SIZE = 2**40  # nothing here is a width or a count above it


class Fields:
    """The values of one config, each as a :class:`Fact` naming file and key.

    Keys are dotted paths (``metadata.hook_name``). Where an older version of a format used another
    name, several are given and the first that is present wins; null counts as absent.
    """

    def __init__(self, file: str, data: Mapping[str, Any]) -> None:
        self.file = file
        self.data = data

    def __contains__(self, key: str) -> bool:
        return self._lookup(key) is not _MISSING

    def value(self, *keys: str) -> Any:
        """The value under the first key present, or None."""
        return next((v for v in map(self._lookup, keys) if v is not _MISSING), None)

    def size(self, *keys: str) -> Fact:
        """A positive integer that has to be there."""
        fact = self.optional_size(*keys)
        return fact if fact is not None else self._absent(keys, "a positive integer")

    def optional_size(self, *keys: str) -> Fact | None:
        """A positive integer, or None where no key is present."""
        fact = self._first(keys)
        if fact is None:
            return None
        value = fact.value
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < MAX_SIZE or value != int(value):
            raise self._wrong(fact, "a positive integer")
        return Fact(int(value), fact.source)

    def average(self, *keys: str) -> Fact | None:
        """A positive number rounded to an integer (a k that holds on average), or None."""
        fact = self._first(keys)
        if fact is None:
            return None
        number = isinstance(fact.value, int | float) and not isinstance(fact.value, bool)
        if not number or not 0 < fact.value < MAX_SIZE:
            raise self._wrong(fact, "a positive number")
        return Fact(max(1, round(fact.value)), fact.source)

    def text(self, *keys: str) -> Fact | None:
        """A string, or None where no key is present."""
        fact = self._first(keys)
        if fact is not None and not isinstance(fact.value, str):
            raise self._wrong(fact, "a string")
        return fact

    def check_table(self, key: str) -> None:
        """Raise :class:`CheckpointError` when something else than a table is under the key."""
        fact = self._first((key,))
        if fact is not None and not isinstance(fact.value, dict):
            raise self._wrong(fact, "a table")

    def flag(self, *keys: str, default: bool) -> Fact:
        """A boolean; where absent the format's documented default."""
        fact = self._first(keys)
        if fact is None:
            return Fact(default, f"not in {self.file}: {keys[0]} defaults to {default}", "assumed")
        if not isinstance(fact.value, bool):
            raise self._wrong(fact, "true or false")
        return fact

    def one_of(self, allowed: tuple[str, ...], *keys: str) -> Fact | None:
        """A string out of a closed list, or None where no key is present."""
        fact = self.text(*keys)
        if fact is not None and fact.value not in allowed:
            raise self._wrong(fact, f"one of {', '.join(allowed)}")
        return fact

    def _first(self, keys: tuple[str, ...]) -> Fact | None:
        for key in keys:
            value = self._lookup(key)
            if value is not _MISSING:
                return Fact(value, f"{self.file}: {key}")
        return None

    def _lookup(self, key: str) -> Any:
        value: Any = self.data
        for part in key.split("."):
            if not isinstance(value, dict) or value.get(part) is None:
                return _MISSING
            value = value[part]
        return value

    def _is_null(self, key: str) -> bool:
        """Whether the key is written in the file, with null for a value."""
        parent, _, name = key.rpartition(".")
        table = self._lookup(parent) if parent else self.data
        return isinstance(table, Mapping) and name in table and table[name] is None

    def _absent(self, keys: tuple[str, ...], expected: str) -> Fact:
        null = next((key for key in keys if self._is_null(key)), None)
        raise CheckpointError(
            f"{null or keys[0]} in {self.file} ({expected})",
            "null" if null else "no such key",
            "Add it to the config, or fetch the config that belongs to these weights"
            + (", or give --set k=…, the latents kept per token." if K_KEYS & set(keys) else "."),
        )

    def _wrong(self, fact: Fact, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{fact.source} ({expected})",
            repr(fact.value)[:200],
            "Correct the config, or fetch the config that belongs to these weights.",
        )


def config_from(
    facts: Mapping[str, Fact | None], *, format: str, notes: list[str], provenance: dict[str, Any]
) -> SAEConfig:
    """The configuration whose fields hold the values of ``facts``; a fact of None is left out.

    Facts that are no field of the configuration (the rule for b_dec, say) are kept as facts only.
    """
    known = {name: fact for name, fact in facts.items() if fact is not None}
    values = {name: known[name].value for name in SAEConfig.__dataclass_fields__ if name in known}
    return SAEConfig(
        **values, format=format, facts=known, notes=tuple(notes), provenance=provenance
    )
