"""Completions on disk: JSON lines, and beside them where they come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saebench.environment import environment
from saebench.errors import OutputError
from saebench.whole_files import put_bytes, put_json

SCHEMA_VERSION = 1
OWN_COLUMNS = ("prompt", "completion", "seed", "prompt_id", "n_new", "ended")
"""The columns of a file of completions; other columns of the prompts come along."""


def provenance_path(path: str | Path) -> Path:
    """The file beside ``NAME.jsonl`` that says where its completions come from."""
    path = Path(path)
    return path.with_name(f"{path.stem}.completions.json")


def write_completions(
    path: str | Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    model: Mapping[str, Any],
    settings: Mapping[str, Any],
    prompts: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
) -> Path:
    """Write rows as JSON lines and their provenance beside them; returns the path of the latter.

    ``model`` is its identity, ``prompts`` describes where the prompts are from, ``more`` is added to the
    provenance. The same rows and settings in the same environment give the same bytes. The provenance of
    an older file is removed first, so that a kill leaves no wrong one. Raises :class:`OutputError`.
    """
    path = Path(path)
    beside = provenance_path(path)
    lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    content = lines.encode("utf-8", "surrogatepass")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"writing to {path}", error.strerror or str(error), "Choose another place."
        ) from error
    put_bytes(path, content)
    put_json(
        beside,
        {
            "schema_version": SCHEMA_VERSION,
            "file": path.name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "n_completions": len(rows),
            "model": dict(model),
            "settings": dict(settings),
            "prompts": dict(prompts),
            **(more or {}),
            "environment": environment(),
        },
    )
    return beside


def carry_provenance(found: Mapping[str, Any], path: str | Path, more: Mapping[str, Any]) -> None:
    """Put the provenance of a file of completions, and ``more``, beside one that was made of it.

    Raises :class:`OutputError`.
    """
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    put_json(
        provenance_path(path),
        {**found, "file": Path(path).name, "sha256": digest, "made_of": found["sha256"], **more},
    )


def read_provenance(path: str | Path) -> dict[str, Any] | None:
    """Where the completions of a file come from; None where nothing says so, or not of this content."""
    path = Path(path)
    try:
        found = json.loads(provenance_path(path).read_bytes())
        same = found["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if same else None
