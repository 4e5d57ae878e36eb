"""What the hub reads in a card: tags, base model, library, and every headline number in model-index."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from saebench.record import Measurement, Record
from saebench.report.digits import count, significant
from saebench.report.escape import terminal
from saebench.report.results import HEADLINES, label
from saebench.report.stored import mapping

TAGS = ("sparse-autoencoder", "mechanistic-interpretability", "saebench")
TASK = {"type": "feature-extraction", "name": "Sparse autoencoder evaluation"}
SAELENS_FORMATS = frozenset({"native", "saelens", "saelens-v6"})
SAELENS_FILES = frozenset({"cfg.json", "sae_weights.safetensors"})

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def front_matter(records: Sequence[Record], existing: Mapping[str, Any]) -> dict[str, Any]:
    """Our front-matter keys for these records, given the ``existing`` front matter of the card.

    The author's tags stay, first; the author's base model stays. ``library_name`` is claimed only
    when SAELens can load every checkpoint. Results of other evaluations stay in model-index.
    """
    ours: dict[str, Any] = {"tags": _tags(existing.get("tags"))}
    bases = base_models(records)
    if bases and not existing.get("base_model"):
        ours["base_model"] = bases[0] if len(bases) == 1 else bases
    if records and all(loads_in_saelens(record) for record in records):
        ours["library_name"] = "saelens"
    ours["model-index"] = model_index(records, existing.get("model-index"))
    return ours


def loads_in_saelens(record: Record) -> bool:
    """Whether the files have the format and the names that SAELens itself reads."""
    checkpoint = record.checkpoint
    kind = checkpoint.get("format") or checkpoint.get("cfg", {}).get("format")
    names = {name.rpartition("/")[2] for name in checkpoint.get("files", {})}
    return kind in SAELENS_FORMATS and names >= SAELENS_FILES


def base_models(records: Sequence[Record]) -> list[str]:
    """Hub ids of the models measured on; one from local files has no id that the hub could link."""
    found = set()
    for model in (model for record in records for model in models_measured(record)):
        name, revision = model.get("id"), model.get("revision")
        if (
            isinstance(revision, str)
            and _COMMIT.fullmatch(revision)
            and _HUB_ID.fullmatch(str(name))
        ):
            found.add(str(name))
    return sorted(found)


def models_measured(record: Record) -> list[Mapping[str, Any]]:
    """Every model that was run: model 0, then those beside it."""
    others = record.model.get("others")
    beside = others if isinstance(others, list | tuple) else ()
    return [record.model, *(model for model in beside if isinstance(model, Mapping))]


def card_name(records: Sequence[Record]) -> str:
    """What the card is about: the checkpoint, the one repository of all, or how many there are."""
    if len(records) == 1:
        return terminal(records[0].name, 120)
    repos = {repository(record) for record in records}
    only = repos.pop() if len(repos) == 1 else None
    return only or f"{count(len(records))} {_noun(records)}"


def _noun(records: Sequence[Record]) -> str:
    """What several checkpoints are called together: crosscoders where all are."""
    crossed = {is_crosscoder(mapping(record.checkpoint.get("cfg"))) for record in records}
    if len(crossed) > 1:
        return "checkpoints"
    return "crosscoders" if crossed == {True} else "sparse autoencoders"


def is_crosscoder(cfg: Mapping[str, Any]) -> bool:
    """Whether several activations are read side by side, and the same ones written."""
    return (cfg.get("n_sources") or 1) != 1 and not writes_elsewhere(cfg)


def writes_elsewhere(cfg: Mapping[str, Any]) -> bool:
    """Whether what is written are other activations than those read."""
    pairs = (("site", "site_out"), ("sites", "sites_out"))
    return any(cfg.get(out) not in (None, [], (), cfg.get(read)) for read, out in pairs)


def repository(record: Record) -> str | None:
    """``org/repo`` of a checkpoint that came from the hub."""
    found = re.fullmatch(
        r"hf:([\w.-]+/[\w.-]+)(?:[@:].*)?", str(record.checkpoint.get("reference"))
    )
    return found[1] if found else None


def model_index(records: Sequence[Record], existing: object = None) -> list[dict[str, Any]]:
    """One model entry with a result per data set; results in ``existing`` that are not ours stay."""
    name, foreign = _foreign(existing)
    groups: dict[str, dict[str, Any]] = {}
    for record in records:
        dataset = _dataset(record)
        result = groups.setdefault(
            repr(dataset), {"task": dict(TASK), "dataset": dataset, "metrics": []}
        )
        result["metrics"] += _metrics(record)
    ours = [result for result in groups.values() if result["metrics"]]
    return [{"name": name or card_name(records), "results": [*foreign, *ours]}]


def _tags(existing: object) -> list[str]:
    authors = [existing] if isinstance(existing, str) else existing
    kept = [str(tag) for tag in authors] if isinstance(authors, list) else []
    return [*kept, *(tag for tag in TAGS if tag not in kept)]


def _foreign(existing: object) -> tuple[str | None, list[Any]]:
    """The author's model name, if there are results of other evaluations to keep, and these."""
    entries = (
        [entry for entry in existing if isinstance(entry, dict)]
        if isinstance(existing, list)
        else []
    )
    kept = [
        (entry.get("name"), result)
        for entry in entries
        for result in entry.get("results") or []
        if isinstance(result, dict) and (result.get("task") or {}).get("name") != TASK["name"]
    ]
    return (str(kept[0][0]) if kept else None), [result for _, result in kept]


def _dataset(record: Record) -> dict[str, Any]:
    data = record.data
    if data.get("dataset"):
        name = terminal(data["dataset"], 120)
        hub = {"type": name, "name": name, "config": data.get("config"), "split": data.get("split")}
        hub["revision"] = data.get("commit")
        return {key: terminal(value, 120) for key, value in hub.items() if value}
    spec = terminal(data.get("spec") or "unnamed data", 200)
    local = {"type": "text", "name": re.split(r"[\\/]", spec.rstrip("\\/"))[-1] or spec}
    # the hub groups results by type, split and revision: the digest keeps data sets apart
    digest = terminal(data.get("digest") or "", 80)
    return {**local, "revision": digest} if digest else local


def _metrics(record: Record) -> list[dict[str, Any]]:
    found = (record.get(name) for name in HEADLINES)
    return [_metric(record, m) for m in found if m is not None and m.value is not None]


def _metric(record: Record, measurement: Measurement) -> dict[str, Any]:
    assert measurement.value is not None
    numbers = {"low": measurement.low, "high": measurement.high}
    args: dict[str, Any] = {
        "definition": measurement.metric,
        "sae_id": terminal(record.name, 120),
        "n_tokens": measurement.n_tokens,
        "n_sequences": measurement.n_sequences,
        **{key: significant(value) for key, value in numbers.items() if value is not None},
    }
    seed = record.policy.get("seed")
    if isinstance(seed, int):
        args["seed"] = seed
    return {
        "type": measurement.name,
        "name": terminal(label(record, measurement.metric), 60),
        "value": significant(measurement.value),
        "args": args,
    }
