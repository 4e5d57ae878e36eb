"""What a layout is: the files it writes, what it cannot express, and what goes into each file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from saebench.errors import OutputError
from saebench.sae import SAE

HISTORY_FILE = "training.jsonl"
MAX_CONFIG = 64 * 2**20  # bytes of a config that is looked at; a larger file is none


@dataclass(frozen=True)
class Content:
    """What a folder will hold: ``tensors`` of the weight file, and ``documents`` by file name."""

    tensors: Mapping[str, Tensor]
    documents: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Layout:
    """One way to lay out a checkpoint in a folder.

    ``weights`` and ``config`` are its two files, ``others`` further documents; a folder is one of
    its checkpoints where ``config`` has the keys ``told_by``. ``check`` raises :class:`OutputError`
    for a dictionary that it cannot express at all; ``content`` does so for its numbers as well.
    """

    name: str
    weights: str
    config: str
    told_by: frozenset[str]
    check: Callable[[SAE], None]
    content: Callable[[SAE, Mapping[str, Any]], Content]
    others: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The files that are replaced when a checkpoint is: those written, and a history."""
        return (self.config, self.weights, *self.others, HISTORY_FILE)

    def is_in(self, folder: Path) -> bool:
        """Whether a folder holds a checkpoint of this layout, by its config."""
        path = folder / self.config
        try:
            if not path.is_file() or path.stat().st_size > MAX_CONFIG:
                return False
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(found, dict) and self.told_by <= set(found)


def refuse(layout: str, needed: str, found: list[str], next_step: str) -> None:
    """Raise :class:`OutputError` where there is something ``found`` that a layout cannot express."""
    if found:
        raise OutputError(f"{needed} to save in layout {layout}", ", ".join(found), next_step)
