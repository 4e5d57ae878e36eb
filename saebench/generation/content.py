"""Whether the JSON of a ``generation.json`` is one that saebench wrote: nothing of it is believed unread."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from saebench.errors import ConfigError
from saebench.generation.settings import GenerationSettings
from saebench.generation.shards import shard_name

UNFINISHED, FINISHED = "unfinished", "finished"
LARGEST = 2**63  # above every count; a number beyond it cannot be shown or computed with
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DISTANCES = ("total_variation", "jensen_shannon", "kl")
_ALWAYS_MEASURED = ("hashed_share", "window_hashed_share")


def check_content(data: Any, statistics: Iterable[str]) -> None:
    """Raise :class:`ValueError`, naming the field, for a value that saebench does not write there.

    ``statistics`` are the names of a text's statistics. A finished text has all its tokens, and all of
    what is written at the end; an unfinished one has no more tokens than it shall have.
    """
    data = _mapping(data, "the whole")
    settings = _settings(data.get("settings"))
    _need(isinstance(_mapping(data.get("model"), "model").get("digest"), str), "model: digest")
    vocabulary = _mapping(data.get("vocabulary"), "vocabulary")
    _need(_is_digest(vocabulary.get("digest")), "vocabulary: digest")
    _need(_is_count(vocabulary.get("start_id")), "vocabulary: start_id")
    eos_id = vocabulary.get("eos_id")
    _need(eos_id is None or _is_count(eos_id), "vocabulary: eos_id")
    status = data.get("status")
    _need(status in (UNFINISHED, FINISHED), "status")
    done = _shards(data.get("shards"))
    finished = status == FINISHED
    _need(
        done == settings.tokens if finished else done <= settings.tokens,
        f"shards: {done} tokens of {settings.tokens}, and the status {status}",
    )
    versions = data.get("versions", [])
    _need(isinstance(versions, list) and (bool(versions) or not finished), "versions")
    for number, version in enumerate(versions):
        _mapping(version, f"versions[{number}]")
    if finished or data.get("statistics") is not None:
        _statistics(data.get("statistics"), statistics, "statistics")
    if data.get("reference") is not None:
        _reference(_mapping(data["reference"], "reference"), statistics)


def _settings(values: Any) -> GenerationSettings:
    """The settings, with their length: it is resolved before anything is written."""
    try:
        settings = GenerationSettings(**_mapping(values, "settings"))
    except (ConfigError, TypeError) as error:
        raise ValueError(f"settings: {error}") from error
    _need(settings.length is not None, "settings: length")
    return settings


def _shards(shards: Any) -> int:
    """The number of tokens in all shards, each of which has the name of its place."""
    _need(isinstance(shards, list), "shards")
    for number, shard in enumerate(shards):
        where = f"shards[{number}]"
        shard = _mapping(shard, where)
        _need(shard.get("file") == shard_name(number), f"{where}: file")
        _need(_is_digest(shard.get("sha256")), f"{where}: sha256")
        for name in ("n_tokens", "n_sequences"):
            _need(_is_count(shard.get(name)) and shard[name] > 0, f"{where}: {name}")
    return sum(shard["n_tokens"] for shard in shards)


def _reference(reference: Mapping[str, Any], statistics: Iterable[str]) -> None:
    for name in ("spec", "cut"):
        _need(isinstance(reference.get(name), str), f"reference: {name}")
    _statistics(reference.get("statistics"), statistics, "reference: statistics")
    distances = _mapping(reference.get("distances"), "reference: distances")
    for name in _DISTANCES:
        _need(_is_number(distances.get(name)), f"reference: distances: {name}")


def _statistics(table: Any, names: Iterable[str], where: str) -> None:
    table = _mapping(table, where)
    _need(set(table) == set(names), f"{where}: other names than this version's")
    for name, value in table.items():
        unmeasured = value is None and name not in _ALWAYS_MEASURED
        _need(unmeasured or _is_number(value), f"{where}: {name}")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    _need(isinstance(value, Mapping), where)
    return value


def _need(holds: bool, where: str) -> None:
    if not holds:
        raise ValueError(f"{where} is not what saebench writes")


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST


def _is_number(value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    return whole or (isinstance(value, float) and math.isfinite(value))
