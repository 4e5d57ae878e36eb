"""Whether a checkpoint was measured on the model, in the precision, that it says it was trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from saebench.record import Record
from saebench.report.escape import terminal
from saebench.report.places import portable

DIGITS = 12  # of a digest: enough to tell two models apart
LONGEST_ID = 60
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"(?:hf:)?[\w.-]+/(?P<name>[\w.-]+)(?:@.+)?", re.ASCII)


def other_model(record: Record) -> str | None:
    """That a model measured on is not the one that the checkpoint was trained on, or None.

    By the digest in our own provenance, where it is known and comparable: one of files and one of
    tensors tell nothing about each other. Else by the names in the files, for models from the hub:
    what lies in a folder here may have any name. The same of another precision regime. A case says
    itself what it was measured on.
    """
    if record.checkpoint.get("of"):
        return None
    trained, measured = _trained_on(record), record.model
    same = _same_digest(trained, measured)
    if same is None:
        return _by_name(record)
    return _other_regime(trained, measured) if same else _differs(_named(trained), _named(measured))


def _other_regime(trained: Mapping[str, Any], measured: Mapping[str, Any]) -> str | None:
    """That one model was run in two precision regimes, or None."""
    before, now = regime(trained), regime(measured)
    if not before or not now or before == now:
        return None
    return (
        "measured in another precision than it was trained in: "
        f"trained in {terminal(before)}, measured in {terminal(now)}"
    )


def regime(model: Mapping[str, Any]) -> str:
    """The precision regime of a model's identity, empty where none is recorded."""
    precision = model.get("precision")
    return str(precision.get("regime") or "") if isinstance(precision, Mapping) else ""


def _differs(trained: str, measured: str) -> str:
    return (
        "measured on another model than it was trained on: "
        f"trained on {trained}, measured on {measured}"
    )


def _same_digest(trained: Mapping[str, Any], measured: Mapping[str, Any]) -> bool | None:
    """Whether two models have one digest; None where that cannot be known."""
    before, now = trained.get("digest"), measured.get("digest")
    if not (isinstance(before, str) and before and isinstance(now, str) and now):
        return None
    kinds = {part["digest_of"] for part in (trained, measured) if part.get("digest_of")}
    if before != now and len(kinds) > 1:
        return None
    return before == now


def _by_name(record: Record) -> str | None:
    """The same by the hub ids in the files, in the order of the models; None where they fit."""
    cfg: Any = record.checkpoint.get("cfg") or {}
    said = cfg.get("models") or (cfg.get("model"),)
    measured = (record.model, *(record.model.get("others") or ()))
    pairs = [pair for pair in zip(said, measured, strict=False) if _are_others(*pair)]
    if not pairs:
        return None
    return _differs(
        " and ".join(_short(name) for name, _ in pairs),
        " and ".join(_short(model["id"]) for _, model in pairs),
    )


def _are_others(said: object, model: Mapping[str, Any]) -> bool:
    """Whether a hub id and a model loaded from the hub are of two models, whoever has copies of them."""
    found = _HUB_ID.fullmatch(said) if isinstance(said, str) else None
    if found is None or not _COMMIT.fullmatch(str(model.get("revision"))):
        return False
    return _plain(found["name"]) != _plain(str(model["id"]).rpartition("/")[2])


def _plain(name: str) -> str:
    """The name without what a repository lost when it was renamed (Meta-Llama-3.1-8B)."""
    return name.lower().removeprefix("meta-")


def _trained_on(record: Record) -> Mapping[str, Any]:
    part: Any = record.checkpoint.get("provenance")
    for key in ("saebench", "model"):
        part = part.get(key) if isinstance(part, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def _named(model: Mapping[str, Any]) -> str:
    name = _short(model.get("id") or "unnamed model")
    return f"{name} (digest {terminal(model['digest'][:DIGITS])})"


def _short(name: object) -> str:
    return terminal(portable(name), LONGEST_ID)
