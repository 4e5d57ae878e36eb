"""Measurements and records: what was measured, with everything needed to believe it, as plain data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from saebench.errors import OutputError

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Measurement:
    """One measured quantity with its 95 % interval, or the reason why there is none.

    ``metric`` is a definition id with its version (``fve@1``). ``low``/``high`` bound the interval
    (None where the quantity has none), ``interval`` says how it was made. ``detail`` holds plain
    JSON values that belong to this number (the window of a dead fraction, the k of a baseline).
    """

    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n_tokens: int = 0
    n_sequences: int = 0
    interval: str = ""
    reason: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make every number a plain Python one, and refuse values that are not numbers."""
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is None:
                continue
            number = float(number)
            if not math.isfinite(number):
                object.__setattr__(self, "reason", self.reason or f"the {name} is {number}")
                number = None
            object.__setattr__(self, name, number)
        if self.value is None and not self.reason:
            object.__setattr__(self, "reason", "not measured")

    @property
    def name(self) -> str:
        """The metric without its version: ``fve``."""
        return self.metric.split("@")[0]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurement:
        """The inverse of :meth:`to_json`."""
        return cls(**{item.name: data[item.name] for item in fields(cls) if item.name in data})


@dataclass(frozen=True)
class Record:
    """What one part of a run measured on a checkpoint, or on a group, content-addressed by ``key``.

    ``checkpoint``: reference, name, commit, file digests, configuration and where each fact of it
    was read. ``model``: id, revision, digest, dtype, device. ``data``: spec, digest, sequences,
    tokens read and counted, context size. ``policy``: which positions count, resampling, seeds.
    ``measurements`` by metric id; ``curves`` holds the series behind plots; ``definitions`` the
    formula, unit and source of every metric present; ``environment`` the package versions.
    ``part`` names what was measured: "" on the run's own text, ``fake_features``, ``probing``, or
    ``seeds``, whose ``checkpoint`` is a group with a name and ``members``. ``details`` holds the
    tables of each part.
    """

    key: str
    checkpoint: Mapping[str, Any]
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    policy: Mapping[str, Any]
    measurements: Mapping[str, Measurement]
    definitions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    curves: Mapping[str, Any] = field(default_factory=dict)
    passes: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""
    seconds: float = 0.0
    schema_version: int = SCHEMA_VERSION
    part: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The short stable name of the checkpoint, as in test ids and file names."""
        return str(self.checkpoint["name"])

    def get(self, metric: str) -> Measurement | None:
        """The measurement of ``fve@1`` or, by short name, of ``fve`` in its newest version here."""
        if metric in self.measurements:
            return self.measurements[metric]
        versions = [key for key in self.measurements if key.split("@")[0] == metric]
        return self.measurements[max(versions, key=_version)] if versions else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, the measurements by metric id."""
        data = {item.name: getattr(self, item.name) for item in fields(self)}
        data["measurements"] = {key: m.to_json() for key, m in self.measurements.items()}
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        """The inverse of :meth:`to_json`; raises :class:`OutputError` on a foreign schema version."""
        if data.get("schema_version") != SCHEMA_VERSION:
            raise OutputError(
                f"a record of schema version {SCHEMA_VERSION}",
                f"version {data.get('schema_version')!r}",
                "Measure again with this version of saebench, or read it with the one that wrote it.",
            )
        known = {item.name: data[item.name] for item in fields(cls) if item.name in data}
        known["measurements"] = {
            key: Measurement.from_json(value) for key, value in data["measurements"].items()
        }
        return cls(**known)


def united(records: Sequence[Record]) -> Record:
    """The parts of a run on one checkpoint as one record: the first, with what the others measured.

    What the first says of checkpoint, model and data stands; the others keep theirs in ``details``.
    """
    first, *others = records
    if not others:
        return first
    return replace(
        first,
        measurements={key: m for record in records for key, m in record.measurements.items()},
        definitions={key: d for record in records for key, d in record.definitions.items()},
        details={key: value for record in records for key, value in record.details.items()},
        passes=dict(sum((Counter(record.passes) for record in records), Counter())),
        seconds=round(sum(record.seconds for record in records), 3),
    )


def _version(metric: str) -> int:
    return int(metric.rpartition("@")[2]) if "@" in metric else 0
