"""Reports of small studies with numbers made by hand: groups of seeds, probes by task, matched pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from saebench.metrics.definitions import DEFINITIONS
from saebench.record import Measurement, Record
from saebench.report.stored import StoredReport, dump_report
from tests.report.records import hash_of

COMMAND = "saebench run --config study.toml"


def record(
    name: str, *, model: str = "m", part: Mapping[str, Any] | None = None, **values: Any
) -> Record:
    """A record with these values by short metric name; ``part`` replaces whole fields of it."""
    measurements = {}
    for metric, value in values.items():
        metric = DEFINITIONS[metric].metric if metric in DEFINITIONS else metric
        reason = "not measured here" if value is None else None
        measurements[metric] = Measurement(metric, value, n_tokens=100, reason=reason)
    fields: dict[str, Any] = {
        "key": f"{hash_of(model + name):x}",
        "checkpoint": {"name": name},
        "model": {"id": model, "digest": f"digest-of-{model}", "dtype": "float32"},
        "data": {"digest": "text", "mask": "special", "context_size": 128},
        "policy": {},
        "measurements": measurements,
        "definitions": {
            metric: DEFINITIONS[metric.split("@")[0]].to_json()
            for metric in measurements
            if metric.split("@")[0] in DEFINITIONS
        },
    }
    return Record(**{**fields, **(part or {})})


def probed(name: str, tasks: Mapping[str, Mapping[str, Any]], **more: Any) -> Record:
    """A record with probe scores: ``{"sst2": {"latents": {"accuracy": 0.8}}}``."""
    details = {"probing": {"tasks": {task: {"arms": arms} for task, arms in tasks.items()}}}
    return record(name, **more, part={"details": details})


def group(
    name: str,
    members: Sequence[str],
    *,
    model: str = "m",
    pairs: Sequence[Mapping[str, Any]] = (),
    source: str | None = None,
    block: str | None = None,
    **values: float,
) -> Record:
    """A group record; ``values`` were measured on the group as a whole."""
    places = {"source": source, "block": block}
    checkpoint = {"name": name, "members": list(members)}
    checkpoint |= {key: text for key, text in places.items() if text is not None}
    seeds = {"threshold": 0.7, "members": list(members), "pairs": list(pairs)}
    part = {"checkpoint": checkpoint, "part": "seeds", "details": {"seeds": seeds}}
    return record(name, model=model, part=part, **values)


def matched(a: str, b: str, cosine: float, **more: Any) -> dict[str, Any]:
    """The table of a pair of checkpoints; ``more`` replaces parts of it."""
    decoder = {
        "matched_cosine": cosine,
        "shared": 0.5,
        "certified": True,
        "histogram": {"edges": [-1.0, 0.0, 0.5, 1.0], "counts": [1, 2, 5]},
    }
    floor = {"matched_cosine": 0.2, "shared": 0.0, "alive": None}
    return {"a": a, "b": b, "decoder": decoder, "floor": floor, **more}


def report(records: Sequence[Record], groups: Sequence[Record] = ()) -> StoredReport:
    """What a run folder holds."""
    return StoredReport(tuple(records), (), COMMAND, groups=tuple(groups))


def save(folder: Path, stored: StoredReport) -> Path:
    """A run folder with this report."""
    folder.mkdir(parents=True, exist_ok=True)
    content = dump_report(stored.records, stored.verdicts, stored.command, groups=stored.groups)
    assert json.loads(content)
    (folder / "report.json").write_bytes(content)
    return folder


def small_study(
    sources: Sequence[str] = ("faithful", "web"), blocks: Sequence[str] = ("k8", "k16")
):
    """Two seeds of each source in each block, matched in pairs; the second source is better by 0.01."""
    records, groups = [], []
    for place, source in enumerate(sources):
        for rank, block in enumerate(blocks):
            names = [f"{source}-{block}-s{seed}" for seed in range(2)]
            for seed, name in enumerate(names):
                shift = 0.01 * place + 0.001 * seed + 0.1 * rank
                records.append(record(name, fve=0.7 + shift, l0=8.0 * (rank + 1), mse=4 - shift))
            pairs = [matched(a, b, 0.6) for a, b in combinations(names, 2)]
            made = group(
                f"{source}-{block}", names, source=source, block=block, pairs=pairs,
                shared_decoder=0.5 + 0.1 * place,
            )  # fmt: skip
            groups.append(made)
    return report(records, groups)
