"""The golden checkpoints of every family, each with what the user has to say about it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from saebench.files import CheckpointFiles
from saebench.loading import open_checkpoint

GOLDEN = Path(__file__).parents[1] / "oracles" / "golden"


FEW = 4  # layers or models of a case: a tensor with one more dimension than this is a matrix


def is_matrix(shape: tuple[int, ...]) -> bool:
    """Whether a tensor of a case is more than a vector for each of a few layers or models."""
    return sum(size > FEW for size in shape) > 1


def golden_paths() -> list[Path]:
    """The folder of every case, by family."""
    folders = (path for path in sorted(GOLDEN.glob("*/*")) if path.is_dir())
    return [path for path in folders if path.name != "expected"]


def golden_parameters() -> list[Any]:
    """The same as parameters of a test."""
    return [pytest.param(path, id=f"{path.parent.name}-{path.name}") for path in golden_paths()]


@cache
def _settings(family: Path) -> dict[str, Any]:
    written = family / "settings.json"
    return json.loads(written.read_text()) if written.exists() else {}


def given(path: Path) -> dict[str, Any]:
    """The arguments that a case needs beside its path."""
    return {"allow_pickle": True, **_settings(path.parent).get(path.name, {})}


@cache
def files_of(path: Path) -> CheckpointFiles:
    """The files of a case as the adapters see them."""
    return open_checkpoint(path, outline=True, **given(path)).files
