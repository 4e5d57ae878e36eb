"""The grammar of data specs: what a text such as ``shuffled:hf:org/name#train?random_seed=1`` means.

Light on purpose: configurations are read without torch. ::

    path[#column]   hf:dataset[/config][@revision]#split[:column]
    uniform[?seed=N&special=false&n_sequences=N&n_tokens=N]
    unigram:SPEC[?random_seed=N&special=false&n_sequences=N&n_tokens=N&text_tokens=N]
    shuffled:SPEC[?random_seed=N&within=sequence|corpus]
    faithful:MODEL[?tokens=N&length=L&temperature=T&top_p=P&seed=S]

A spec takes its own keys out of the query, the first of each name, and leaves the rest to the spec inside
it. ``seed`` may stand for ``random_seed``: seeds are given out from the inside, so that a single one is that
of the innermost spec that has one, and the last of several. Specs nest at most eight deep. A file that is
called like one of the words is named with ``./`` in front.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

from saebench.errors import DataError

HUB_PREFIX = "hf:"
WITHIN = ("sequence", "corpus")
TEXT_TOKENS = 2**20  # read for the frequencies of unigram ids: enough for ids of one in 10,000
MAX_DEPTH = 8  # of specs in one another

Pairs = list[tuple[str, str]]
_QUERY = re.compile(r"(.*)\?((?:[a-z_]+=[^&=?]*)(?:&[a-z_]+=[^&=?]*)*)?", re.DOTALL)


@dataclass(frozen=True)
class Text:
    """Documents of files or of the hub: ``path[#column]`` or ``hf:…``."""

    place: str

    @property
    def on_hub(self) -> bool:
        """Whether it names a dataset of the hub."""
        return self.place.startswith(HUB_PREFIX)

    def __str__(self) -> str:
        return f"./{self.place}" if _word(self.place) else self.place


@dataclass(frozen=True)
class Uniform:
    """Ids drawn uniformly from the vocabulary; ``special`` allows special ones."""

    seed: int = 0
    special: bool = True
    n_sequences: int | None = None
    n_tokens: int | None = None

    def __str__(self) -> str:
        return "uniform" + _query(_given(self))


@dataclass(frozen=True)
class Unigram:
    """Ids drawn as often as they occur in the first ``text_tokens`` tokens of another spec."""

    of: DataSource
    random_seed: int = 0
    special: bool = True
    n_sequences: int | None = None
    n_tokens: int | None = None
    text_tokens: int = TEXT_TOKENS

    def __str__(self) -> str:
        return _around("unigram", self, self.of)


@dataclass(frozen=True)
class Shuffled:
    """The tokens of another spec in random order, within each sequence or across all of them."""

    of: DataSource
    random_seed: int = 0
    within: str = "sequence"

    def __str__(self) -> str:
        return _around("shuffled", self, self.of)


@dataclass(frozen=True)
class Faithful:
    """Text that a model generates; None leaves a setting to the generator."""

    model: str
    tokens: int | None = None
    length: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None

    def __str__(self) -> str:
        return f"faithful:{self.model}{_query(_given(self))}"


DataSource: TypeAlias = Text | Uniform | Unigram | Shuffled | Faithful

_WORDS: Mapping[str, Any] = {
    "uniform": Uniform,
    "unigram": Unigram,
    "shuffled": Shuffled,
    "faithful": Faithful,
}


def parse_spec(text: str) -> DataSource:
    """What a data spec means; raises :class:`DataError` on unknown keys and values out of range.

    Reads no file: whether the path or dataset exists shows when it is opened.
    """
    return _parse(text, 1)


def _parse(text: str, depth: int) -> DataSource:
    """What the spec at this depth means; the text of the outermost one has depth 1."""
    word = _word(text)
    if word is None:
        return Text(text)
    if depth > MAX_DEPTH:
        raise DataError(
            f"a data spec of {MAX_DEPTH} words at most",
            f"{text[:40]!r} and more inside {MAX_DEPTH} others",
            "Write fewer words around the text.",
        )
    kind, rest = _WORDS[word], text[len(word) :].removeprefix(":")
    found = _QUERY.fullmatch(rest)
    if found is None and word == "uniform" and rest:
        raise DataError(
            f"the data spec {text!r}",
            f"{rest!r} after {word}",
            "Write uniform?seed=1&n_tokens=100000.",
        )
    inner, query = (found[1], found[2] or "") if found else (rest, "")
    own, others = _split(kind, [_pair(part) for part in query.split("&") if part])
    if "random_seed" in _keys(kind) and "random_seed" not in own:
        own |= _outer_seed(inner, others)
    values = {key: _value(text, key, value) for key, value in own.items()}
    if word == "uniform":
        _refuse(others, kind, text)
        return Uniform(**values)
    if not inner:
        raise DataError(
            f"the data spec {text!r}",
            f"nothing after '{word}:'",
            "Write faithful:MODEL with a model's folder or hub id."
            if word == "faithful"
            else f"Write {word}:SPEC with the text it is made from.",
        )
    if word == "faithful":
        _refuse(others, kind, text)
        return Faithful(inner, **values)
    if _word(inner) is None:
        _refuse(others, kind, text)
    return kind(_parse(inner + _query(others), depth + 1), **values)


def relocate(
    source: DataSource, path: Callable[[str], str], model: Callable[[str], str]
) -> DataSource:
    """The spec with ``path`` applied to the files inside it and ``model`` to models."""
    if isinstance(source, Text):
        return source if source.on_hub else Text(path(source.place))
    if isinstance(source, Faithful):
        return replace(source, model=model(source.model))
    if isinstance(source, Uniform):
        return source
    return replace(source, of=relocate(source.of, path, model))


def _word(text: str) -> str | None:
    """The word that a spec starts with; None for a path or a dataset."""
    if text == "uniform" or text.startswith("uniform?"):
        return "uniform"
    word, colon, _ = text.partition(":")
    return word if colon and word in _WORDS and word != "uniform" else None


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def _split(kind: Any, pairs: Pairs) -> tuple[dict[str, str], Pairs]:
    """The keys that a spec owns, the first of each, and the rest in its order."""
    names = _keys(kind)
    own: dict[str, str] = {}
    others = []
    for key, value in pairs:
        if key in names and key not in own:
            own[key] = value
        else:
            others.append((key, value))
    return own, others


def _outer_seed(inner: str, others: Pairs) -> dict[str, str]:
    """The first ``seed`` of ``others``, taken out, where the specs inside have no use for so many."""
    takers = 0
    while takers <= MAX_DEPTH and (word := _word(inner)) is not None:
        takers += 1
        inner = inner[len(word) :].removeprefix(":")
    seeds = [pair for pair in others if pair[0] == "seed"]
    if len(seeds) <= takers:
        return {}
    others.remove(seeds[0])
    return {"random_seed": seeds[0][1]}


def _keys(kind: Any) -> list[str]:
    return [item.name for item in fields(kind) if item.name not in ("of", "model")]


def _refuse(pairs: Pairs, kind: Any, text: str) -> None:
    """Raise :class:`DataError` for keys that nobody takes."""
    if pairs:
        key = pairs[0][0]
        twice = key in _keys(kind) or (key == "seed" and "random_seed" in _keys(kind))
        raise DataError(
            f"the data spec {text!r}",
            f"{key!r} is given twice" if twice else f"unknown key {key!r}",
            f"Known here are {', '.join(_keys(kind))}.",
        )


_COUNTS = ("n_sequences", "n_tokens", "text_tokens", "tokens", "length")


def _value(spec: str, key: str, text: str) -> Any:
    """The value of a key; raises :class:`DataError` on one of another type or out of range."""
    wanted = "a whole number of 0 or more"
    if key == "special":
        wanted = "true or false"
        if text in ("true", "false"):
            return text == "true"
    elif key == "within":
        wanted = " or ".join(WITHIN)
        if text in WITHIN:
            return text
    elif key in ("temperature", "top_p"):
        wanted = "a number above 0" + (", at most 1" if key == "top_p" else "")
        number = _number(text, float)
        if number is not None and 0 < number <= (1 if key == "top_p" else 1e6):
            return number
    else:
        least = 2 if key == "length" else 1 if key in _COUNTS else 0
        wanted = f"a whole number of {least} or more"
        number = _number(text, int)
        if number is not None and number >= least:
            return number
    raise DataError(f"{key} in the data spec {spec!r}", f"found {text!r}", f"Write {wanted}.")


def _number(text: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(text)
    except ValueError:
        return None


def _given(source: Any, *, every: bool = False) -> Pairs:
    """The keys whose values are not the defaults (``every``: all that have one)."""
    defaults = {item.name: item.default for item in fields(source)}
    pairs = []
    for name in _keys(source):
        value = getattr(source, name)
        if value is not None and (every or value != defaults[name]):
            pairs.append((name, str(value).lower() if isinstance(value, bool) else str(value)))
    return pairs


def _around(word: str, source: Any, inner: DataSource) -> str:
    """A spec around another one; around one with keys all own ones are written, as the first count."""
    text = str(inner)
    if isinstance(inner, Text):
        return f"{word}:{text}{_query(_given(source))}"
    base, _, query = text.partition("?")
    own = _query(_given(source, every=True))
    return f"{word}:{base}{own}{'&' + query if query else ''}"


def _query(pairs: Pairs) -> str:
    return "?" + "&".join(f"{key}={value}" for key, value in pairs) if pairs else ""
