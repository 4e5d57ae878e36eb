"""The checkpoints of several run folders by language model and name, and what pairs of them were matched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from saebench.errors import ConfigError
from saebench.record import Record
from saebench.report.escape import terminal
from saebench.report.places import portable
from saebench.report.stored import StoredReport, mapping

ModelKey = tuple[str, ...]
PairKey = tuple[str, frozenset[str]]  # the model's label and the names of two checkpoints
DIGEST = 8  # characters of a digest that tell two models of one name apart


@dataclass(frozen=True)
class Checkpoints:
    """Records by ``(model, name)``, group records by model, and matchings by pair of names.

    ``model`` is a label that stands for one language model at one precision everywhere in a comparison.
    """

    records: Mapping[tuple[str, str], Record]
    groups: tuple[tuple[str, Record], ...] = ()
    pairs: Mapping[PairKey, Mapping[str, Any]] = field(default_factory=dict)
    thresholds: Mapping[PairKey, Any] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """The language models in the order in which they are met."""
        return list(dict.fromkeys(model for model, _ in self.records))


def pool(reports: Mapping[str, StoredReport]) -> Checkpoints:
    """The checkpoints of reports by folder; one that two folders hold alike counts once.

    Raises :class:`ConfigError` when two folders say different things about a checkpoint of one name.
    """
    labels = name_models(record.model for report in reports.values() for record in report.records)
    found: dict[tuple[str, str], tuple[str, Record]] = {}
    for folder, report in reports.items():
        for record in report.records:
            place = labels[model_key(record.model)], record.name
            before = found.get(place)
            found[place] = folder, record if before is None else _same(before, folder, record)
    groups: list[tuple[str, Record]] = []
    pairs: dict[PairKey, Mapping[str, Any]] = {}
    thresholds: dict[PairKey, Any] = {}
    for report in reports.values():
        for group in report.groups:
            model = _model_of(group, report, labels)
            groups.append((model, group))
            seeds = mapping(mapping(group.details).get("seeds"))
            for pair in _mappings(seeds.get("pairs")):
                key = model, frozenset({str(pair.get("a")), str(pair.get("b"))})
                pairs.setdefault(key, pair)
                thresholds.setdefault(key, seeds.get("threshold"))
    records = {place: record for place, (_, record) in found.items()}
    return Checkpoints(records, tuple(groups), pairs, thresholds)


def members_of(group: Record) -> tuple[str, ...]:
    """The names of the checkpoints of a group record."""
    members = group.checkpoint.get("members")
    return tuple(str(name) for name in members) if isinstance(members, list | tuple) else ()


def model_key(model: Mapping[str, Any]) -> ModelKey:
    """What makes two language models the same: weights (or name and revision) and precision."""
    parts = []
    for one in (model, *_mappings(model.get("others"))):
        weights = one.get("digest") or f"{one.get('id')}@{one.get('revision')}"
        parts += [str(weights), str(one.get("dtype") or "")]
    return tuple(parts)


def name_models(models: Iterable[Mapping[str, Any]]) -> dict[ModelKey, str]:
    """A short label for each model: its name, with precision and digest where names are alike."""
    known = {model_key(model): model for model in models}
    names = {key: _name(model) for key, model in known.items()}
    labels = {}
    for key, model in known.items():
        name = names[key]
        if list(names.values()).count(name) > 1:
            parts = [str(model.get("dtype") or ""), key[0][:DIGEST]]
            name = f"{name} ({', '.join(part for part in parts if part)})"
        labels[key] = name
    return labels


def _name(model: Mapping[str, Any]) -> str:
    names = [portable(one.get("id") or "") for one in (model, *_mappings(model.get("others")))]
    return " + ".join(terminal(name, 80) or "unnamed model" for name in names)


def _model_of(group: Record, report: StoredReport, labels: Mapping[ModelKey, str]) -> str:
    """The model of a group: its members', or its own where it has no members in the report."""
    members = members_of(group)
    models = [record.model for record in report.records if record.name in members]
    key = model_key(models[0] if models else group.model)
    return labels.get(key, _name(group.model))


def _same(before: tuple[str, Record], folder: str, record: Record) -> Record:
    where, known = before
    if known.key != record.key:
        raise ConfigError(
            f"the checkpoint {record.name!r}",
            f"{where} and {folder} have different measurements of it",
            "Leave one of the folders out, or run again with a name of its own for each checkpoint.",
        )
    return replace(
        known,
        measurements={**record.measurements, **known.measurements},
        definitions={**record.definitions, **known.definitions},
        details={**record.details, **known.details},
    )


def _mappings(value: object) -> list[Mapping[str, Any]]:
    items = value if isinstance(value, list | tuple) else ()
    return [item for item in items if isinstance(item, Mapping)]
