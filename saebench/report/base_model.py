"""Whether a checkpoint was measured on the model that it says it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saebench.record import Record
from saebench.report.escape import terminal
from saebench.report.places import portable

DIGITS = 12  # of a digest: enough to tell two models apart
LONGEST_ID = 60


def other_model(record: Record) -> str | None:
    """That the model measured on is not the one in the checkpoint's provenance, or None.

    None as well where a digest is unknown, or where one is of files and the other of tensors: then
    they tell nothing about each other.
    """
    trained, measured = _trained_on(record), record.model
    before, now = trained.get("digest"), measured.get("digest")
    if not (isinstance(before, str) and before and isinstance(now, str) and now) or before == now:
        return None
    kinds = {part["digest_of"] for part in (trained, measured) if part.get("digest_of")}
    if len(kinds) > 1:
        return None
    return (
        "measured on another model than it was trained on: "
        f"trained on {_named(trained)}, measured on {_named(measured)}"
    )


def _trained_on(record: Record) -> Mapping[str, Any]:
    part: Any = record.checkpoint.get("provenance")
    for key in ("saebench", "model"):
        part = part.get(key) if isinstance(part, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def _named(model: Mapping[str, Any]) -> str:
    name = terminal(portable(model.get("id") or "unnamed model"), LONGEST_ID)
    return f"{name} (digest {terminal(model['digest'][:DIGITS])})"
