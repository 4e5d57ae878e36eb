"""How prompts are completed, as plain values; light, so that it is read without torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from saebench.errors import ConfigError
from saebench.generation.settings import SEED_LIMIT


@dataclass(frozen=True)
class CompletionSettings:
    """The seeds with which each prompt is completed, how far, and how tokens are drawn.

    ``temperature`` 0 takes the most probable token; ``top_p`` keeps the smallest set of tokens that holds
    this much probability. ``batch_size`` completions at most are sampled together.

    Raises :class:`ConfigError` for a value that means nothing.
    """

    seeds: tuple[int, ...] = (0,)
    max_new_tokens: int = 24
    temperature: float = 1.0
    top_p: float = 1.0
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Refuse what cannot be sampled."""
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise _wrong("seeds", list(self.seeds), "one seed or more, each once")
        for seed in self.seeds:
            if not _is_whole(seed) or not 0 <= seed < SEED_LIMIT:
                raise _wrong("seeds", seed, f"whole numbers of 0 or more, below {SEED_LIMIT}")
        for name in ("max_new_tokens", "batch_size"):
            value = getattr(self, name)
            if not _is_whole(value) or value < 1:
                raise _wrong(name, value, "a whole number of 1 or more")
        if not _is_number(self.temperature) or not 0 <= self.temperature < math.inf:
            raise _wrong(
                "temperature", self.temperature, "0 (most probable token) or a number above"
            )
        if not _is_number(self.top_p) or not 0 < self.top_p <= 1:
            raise _wrong("top_p", self.top_p, "a number above 0 and at most 1; 1 keeps every token")

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {**asdict(self), "seeds": list(self.seeds)}


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _wrong(name: str, value: object, right: str) -> ConfigError:
    return ConfigError(f"{name} = {value!r} of completions", "not usable", f"Give {right}.")
