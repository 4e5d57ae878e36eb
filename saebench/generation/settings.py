"""What to sample from a model, as plain values; light, so that configurations are read without torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from saebench.errors import ConfigError, ModelError
from saebench.precision import parse_precision

DEFAULT_LENGTH = 128
SEED_LIMIT = 2**63


@dataclass(frozen=True)
class GenerationSettings:
    """How much text a model writes, and how it is sampled.

    ``tokens`` is the exact number of sampled tokens; the start token of each sequence is not counted.
    ``length`` is that of a sequence with its start token; None takes the model's context or 128,
    whichever is smaller. ``top_p`` keeps the smallest set of tokens that holds this much probability;
    1 keeps all. ``batch_size`` sequences are sampled together. ``precision`` is the one that the model
    runs in (:mod:`saebench.precision`), kept under its canonical name.

    Raises :class:`ConfigError` for a value that means nothing.
    """

    tokens: int = 1_000_000
    length: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    batch_size: int = 64
    precision: str = "float32"

    def __post_init__(self) -> None:
        """Refuse what cannot be sampled."""
        _whole("tokens", self.tokens, 1)
        _whole("batch_size", self.batch_size, 1)
        _whole("seed", self.seed, 0, SEED_LIMIT)
        if self.length is not None:
            _whole("length", self.length, 2)
        if not _is_number(self.temperature) or not 0 < self.temperature < math.inf:
            raise _wrong(
                "temperature", self.temperature, "a number above 0; 1 is the model as it is"
            )
        if not _is_number(self.top_p) or not 0 < self.top_p <= 1:
            raise _wrong("top_p", self.top_p, "a number above 0 and at most 1; 1 keeps every token")
        try:
            object.__setattr__(self, "precision", str(parse_precision(self.precision)))
        except ConfigError as error:
            asked = f"generation setting precision = {self.precision!r}"
            raise ConfigError(asked, error.found, error.next_step) from error

    def resolved(self, context_size: int | None) -> GenerationSettings:
        """The same settings with the length that a model with this context makes of them.

        Raises :class:`ModelError` when the length is beyond the context.
        """
        if self.length is None:
            return replace(self, length=min(DEFAULT_LENGTH, context_size or DEFAULT_LENGTH))
        if context_size is not None and self.length > context_size:
            raise ModelError(
                f"sequences of length {self.length}",
                f"the model's context is {context_size} tokens",
                f"Set length to {context_size} or less",
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(name: str, value: object, low: int, limit: int | None = None) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (limit is not None and value >= limit):  # type: ignore[operator]
        below = f" and below {limit}" if limit is not None else ""
        raise _wrong(name, value, f"a whole number, {low} or more{below}")


def _wrong(name: str, value: object, right: str) -> ConfigError:
    return ConfigError(f"generation setting {name} = {value!r}", "not usable", f"Give {right}")
