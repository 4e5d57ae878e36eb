"""The schema of a configuration: its frozen dataclasses, and how tables of it become them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from saebench.config.cases import parse_concepts, parse_variants, precision_at
from saebench.config.defaults import (
    Rules,
    measured_suites,
    metric_names,
    parse_rules,
    suite_names,
    suite_of,
)
from saebench.config.parts import parse_group, parse_probing, parse_protocol
from saebench.config.tables import Table, nearest
from saebench.data_specs import HUB_PREFIX, parse_spec, relocate
from saebench.errors import ConfigError, DataError
from saebench.gates import Waiver
from saebench.protocols import (
    CausalProtocol,
    Concept,
    ConceptsProtocol,
    CrosscoderProtocol,
    CrossValidation,
    DifferenceProtocol,
    FakeProtocol,
    Group,
    PortabilityProtocol,
    ProbingProtocol,
    SeedsProtocol,
    SteeringProtocol,
    Variant,
)

TOP_KEYS = (
    *("model", "data", "out", "batch_size", "device", "confidence", "suites"),
    *("gates", "sae", "waiver", "group", "seeds", "fake_features", "probing", "sae_dtype"),
    *("variant", "portability", "concept", "concepts", "cv_probing", "steering"),
    *("difference", "crosscoder", "causal"),
)
SAE_DTYPES = ("float32", "bfloat16", "float16")
MASKS = ("special", "bos", "none")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?|xpu(:\d+)?")


@dataclass(frozen=True)
class ModelSpec:
    """A language model: a folder or hub id, its revision, and the precision regime it runs in.

    ``precision`` is the canonical text of a :class:`~saebench.precision.Precision`.
    """

    ref: str
    revision: str | None = None
    precision: str = "float32"


@dataclass(frozen=True)
class DataSpec:
    """The text to measure on; ``n_sequences`` or ``n_tokens`` bounds how much of it is read."""

    spec: str
    context_size: int = 128
    n_sequences: int | None = None
    n_tokens: int | None = None
    mask: str = "special"
    pack: bool = True


@dataclass(frozen=True)
class SAESpec:
    """A checkpoint, or a folder of them, with what overrides its own facts and the common gates.

    ``settings`` say what the files leave open, ``tensors`` which tensor has which role.
    """

    ref: str
    name: str | None = None
    site: str | None = None
    allow_pickle: bool = False
    gates: Rules = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class GroupSpec:
    """A group of checkpoints that differ in their seed, with limits of its own."""

    group: Group
    gates: Rules = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """Everything a run is asked to do; ``source`` is the file it was read from.

    ``others`` are the models after the first, where checkpoints read several. ``overrides`` are gates
    given as options, which win over ``gates`` and those of each checkpoint. ``sae_dtype`` is the
    precision of the checkpoints' products, whatever that of the model.
    """

    model: ModelSpec | None = None
    others: tuple[ModelSpec, ...] = ()
    data: DataSpec | None = None
    saes: tuple[SAESpec, ...] = ()
    out: Path = Path(".saebench")
    batch_size: int = 32
    device: str = "auto"
    sae_dtype: str = "float32"
    confidence: bool = False
    suites: tuple[str, ...] = field(default_factory=measured_suites)
    gates: Rules = field(default_factory=dict)
    overrides: Rules = field(default_factory=dict)
    waivers: tuple[Waiver, ...] = ()
    groups: tuple[GroupSpec, ...] = ()
    seeds: SeedsProtocol = field(default_factory=SeedsProtocol)
    fake_features: FakeProtocol = field(default_factory=FakeProtocol)
    probing: ProbingProtocol = field(default_factory=ProbingProtocol)
    variants: tuple[Variant, ...] = ()
    portability: PortabilityProtocol = field(default_factory=PortabilityProtocol)
    concepts: tuple[Concept, ...] = ()
    concept_statistics: ConceptsProtocol = field(default_factory=ConceptsProtocol)
    cross_validation: CrossValidation = field(default_factory=CrossValidation)
    steering: SteeringProtocol = field(default_factory=SteeringProtocol)
    difference: DifferenceProtocol = field(default_factory=DifferenceProtocol)
    crosscoder: CrosscoderProtocol = field(default_factory=CrosscoderProtocol)
    causal: CausalProtocol = field(default_factory=CausalProtocol)
    source: Path | None = None


@dataclass(frozen=True)
class Place:
    """Where a table stands: its name for messages, and what its relative paths are relative to."""

    where: str
    base: Path
    cwd: Path

    def path(self, text: str, *, local: bool = True) -> str:
        """``text`` as a path from ``cwd``, or as it is where it names something on the hub.

        ``local`` False is for names that may mean either: then only what exists, or starts with a
        dot, is a path.
        """
        if text.startswith(HUB_PREFIX):
            return text
        there = self.base / Path(text).expanduser()
        if not local and not text.startswith((".", "~")) and not there.exists():
            return text
        full = os.path.normpath(there)
        if not Path(full).is_relative_to(self.cwd):
            return full
        below = os.path.relpath(full, self.cwd)
        return f"./{below}" if below.startswith(HUB_PREFIX) else below

    def data(self, spec: str) -> str:
        """A data spec with the paths inside it as :meth:`path` gives them."""
        try:
            source = parse_spec(spec)
        except DataError as error:
            raise ConfigError(
                f"{error.asked} of {self.where}", error.found, error.next_step
            ) from error
        return str(relocate(source, self.path, partial(self.path, local=False)))


DATA_KEYS = ("spec", "context_size", "n_sequences", "n_tokens", "mask", "pack")


def check_top(data: Mapping[str, Any], where: str) -> None:
    """Raise :class:`ConfigError` for keys of the data that stand beside it."""
    for key in data:
        name = {"sequences": "n_sequences", "tokens": "n_tokens"}.get(key, key)
        if key not in TOP_KEYS and name in DATA_KEYS:
            raise ConfigError(
                where, f"unknown key {key!r}", f'Write data = {{ spec = "…", {name} = … }}.'
            )


def parse_config(table: Table, place: Place) -> Config:
    """The configuration that the top ``table`` of a file spells."""
    data = table.data
    settings = parse_settings(table, place)
    if "model" in data:
        settings["model"], *others = parse_models(data["model"], place)
        settings["others"] = tuple(others)
    if "data" in data:
        settings["data"] = parse_data(data["data"], place)
    suites = settings.get("suites", measured_suites())
    common = _rules(data.get("gates", {}), f"[gates] of {place.where}", suites)
    return Config(
        **settings,
        saes=_saes(table, place, suites),
        gates=common,
        waivers=tuple(_waiver(item, place) for item in table.items("waiver")),
        groups=_groups(table, place, suites),
        variants=parse_variants(table.items("variant"), place),
        concepts=parse_concepts(table.items("concept"), place),
        **_protocols(data, place),
    )


# the table of a suite's protocol, and the field of a configuration where it is called otherwise
PROTOCOLS: Mapping[str, Any] = {
    "seeds": SeedsProtocol,
    "fake_features": FakeProtocol,
    "portability": PortabilityProtocol,
    "concepts": ConceptsProtocol,
    "cv_probing": CrossValidation,
    "steering": SteeringProtocol,
    "difference": DifferenceProtocol,
    "crosscoder": CrosscoderProtocol,
    "causal": CausalProtocol,
}
FIELDS = {"concepts": "concept_statistics", "cv_probing": "cross_validation"}


def _protocols(data: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """The tables about single suites that are there."""
    found: dict[str, Any] = {
        FIELDS.get(suite, suite): parse_protocol(kind, data[suite], f"[{suite}] of {place.where}")
        for suite, kind in PROTOCOLS.items()
        if suite in data
    }
    if "steering" in found and found["steering"].prompts:
        asked = found["steering"]
        found["steering"] = replace(asked, prompts=place.data(asked.prompts))
    if "difference" in found:
        asked = found["difference"]
        found["difference"] = replace(
            asked,
            text=place.data(asked.text) if asked.text else "",
            base_saes=tuple(map(place.path, asked.base_saes)),
        )
    if "probing" in data:
        found["probing"] = parse_probing(data["probing"], place)
    return found


def _groups(top: Table, place: Place, suites: Sequence[str]) -> tuple[GroupSpec, ...]:
    specs = []
    for number, item in enumerate(top.items("group"), start=1):
        group, gates = parse_group(item, number, place.where)
        specs.append(GroupSpec(group, _rules(gates, f"gates of group {group.name!r}", suites)))
    names = [spec.group.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"[[group]] of {place.where}", f"two are called {name!r}", "Name each its own."
            )
    return tuple(specs)


def parse_settings(table: Table, place: Place) -> dict[str, Any]:
    """The plain values of the top table that are there."""
    found: dict[str, Any] = {}
    if (out := table.text("out")) is not None:
        found["out"] = Path(place.path(out))
    if (batch_size := table.count("batch_size")) is not None:
        found["batch_size"] = batch_size
    if (device := table.text("device")) is not None:
        if not _DEVICE.fullmatch(device):
            raise table.error("device", f"found {device!r}", "Write auto, cpu, cuda, cuda:0, mps.")
        found["device"] = device
    if "sae_dtype" in table.data:
        found["sae_dtype"] = table.choice("sae_dtype", SAE_DTYPES, "float32")
    if "confidence" in table.data:
        found["confidence"] = table.flag("confidence")
    if "suites" in table.data:
        found["suites"] = tuple(dict.fromkeys(table.names("suites")))
        if not found["suites"]:
            raise table.error("suites", "an empty list", "Name a suite, or leave the key out.")
        for name in found["suites"]:
            if name not in suite_names():
                raise table.error("suites", f"unknown suite {name!r}", nearest(name, suite_names()))
    return found


def parse_models(data: object, place: Place) -> list[ModelSpec]:
    """One model, or a list of them in the order in which checkpoints count their sources."""
    items = data if isinstance(data, list) else [data]
    if not items:
        raise ConfigError(f"model of {place.where}", "an empty list", "Name a model.")
    return [parse_model(item, place) for item in items]


def parse_model(data: object, place: Place) -> ModelSpec:
    """A model from its reference or its table."""
    data = {"ref": data} if isinstance(data, str) else data
    table = Table(data, f"[model] of {place.where}", ("ref", "revision", "precision"))
    ref = place.path(table.required("ref"), local=False)
    return ModelSpec(ref, table.text("revision"), precision_at(table) or "float32")


def parse_data(data: object, place: Place) -> DataSpec:
    """A data set from its spec or its table."""
    data = {"spec": data} if isinstance(data, str) else data
    table = Table(data, f"[data] of {place.where}", DATA_KEYS)
    n_sequences, n_tokens = table.count("n_sequences"), table.count("n_tokens")
    if n_sequences is not None and n_tokens is not None:
        raise ConfigError(
            table.where, "both n_sequences and n_tokens", "Keep the one that should bound the run."
        )
    # the first token of a sequence predicts, the last is predicted: one alone measures nothing
    context_size = table.count("context_size", 128, least=2)
    assert context_size is not None
    mask = table.choice("mask", MASKS, "special")
    spec = place.data(table.required("spec"))
    return DataSpec(spec, context_size, n_sequences, n_tokens, mask, table.flag("pack", True))


def _saes(top: Table, place: Place, suites: Sequence[str]) -> tuple[SAESpec, ...]:
    saes = unique(
        _sae(item, number, place, suites) for number, item in enumerate(top.items("sae"), start=1)
    )
    names = [spec.name for spec in saes if spec.name is not None]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"[[sae]] of {place.where}", f"two are called {name!r}", "Give each its own name."
            )
    return saes


def _sae(data: object, number: int, place: Place, suites: Sequence[str]) -> SAESpec:
    data = {"ref": data} if isinstance(data, str) else data
    where = f"[[sae]] number {number} of {place.where}"
    keys = ("ref", "name", "site", "allow_pickle", "gates", "set", "map")
    table = Table(data, where, keys)
    return SAESpec(
        place.path(table.required("ref")),
        table.text("name"),
        table.text("site"),
        table.flag("allow_pickle"),
        _rules(table.data.get("gates", {}), f"gates of {where}", suites),
        _texts(table, "set"),
        _texts(table, "map"),
    )


def _texts(table: Table, key: str) -> dict[str, str]:
    """A table of plain values as the texts that they would be on the command line."""
    data = table.data.get(key, {})
    if not isinstance(data, dict) or not all(
        isinstance(value, str | int | float) for value in data.values()
    ):
        raise table.error(key, f"found {data!r:.80}", 'Write { k = 10, activation = "topk" }.')
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in data.items()
    }


def _rules(data: object, where: str, suites: Sequence[str]) -> Rules:
    """The rules of a table in the file, none of which may be left unchecked by ``suites``."""
    rules = parse_rules(data, where)
    for metric, rule in rules.items():
        if rule is not None and suite_of(metric) not in suites:
            raise ConfigError(
                f"{metric!r} in {where}",
                f"its suite {suite_of(metric)!r} is not in suites",
                "Add the suite, or take the gate out.",
            )
    return rules


def _waiver(data: object, place: Place) -> Waiver:
    table = Table(data, f"[[waiver]] of {place.where}", ("sae", "metric", "reason", "expires"))
    metric = table.choice("metric", metric_names(), table.required("metric"))
    return Waiver(table.required("sae"), metric, table.required("reason"), table.day("expires"))


def unique(saes: Iterable[SAESpec]) -> tuple[SAESpec, ...]:
    """The checkpoints without repetitions, in their order."""
    kept: list[SAESpec] = []
    for spec in saes:
        if spec not in kept:
            kept.append(spec)
    return tuple(kept)
