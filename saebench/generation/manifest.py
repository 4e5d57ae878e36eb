"""``generation.json``: what a folder of generated text holds, and how far it has come."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from saebench.errors import OutputError
from saebench.generation.content import FINISHED, UNFINISHED, check_content
from saebench.generation.shards import DATA_FOLDER, PATTERN, file_digest
from saebench.generation.statistics import IdStatistics
from saebench.whole_files import put_json

NAME = "generation.json"
SCHEMA_VERSION = 1
_STATISTICS = {item.name for item in fields(IdStatistics)} - {"counts"}


@dataclass
class Manifest:
    """The content of ``generation.json``; ``shards`` are those that are on the disk, in order.

    ``versions`` lists the environments that wrote to the folder: more than one where it was resumed
    under another.
    """

    settings: dict[str, Any]
    model: dict[str, Any]
    vocabulary: dict[str, Any]
    status: str = UNFINISHED
    counts: dict[str, int] = field(default_factory=lambda: {"sequences": 0, "tokens": 0})
    shards: list[dict[str, Any]] = field(default_factory=list)
    versions: list[dict[str, str]] = field(default_factory=list)
    statistics: dict[str, Any] | None = None
    reference: dict[str, Any] | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def finished(self) -> bool:
        """Whether every token is there."""
        return self.status == FINISHED

    def write(self, folder: Path) -> None:
        """Replace the folder's file in one step; raises :class:`OutputError`."""
        self.count()
        put_json(folder / NAME, asdict(self))

    def count(self) -> None:
        """Make ``counts`` those of the shards."""
        self.counts = {
            "sequences": sum(shard["n_sequences"] for shard in self.shards),
            "tokens": sum(shard["n_tokens"] for shard in self.shards),
        }

    def identity(self) -> dict[str, Any]:
        """What has to agree before a folder is gone on with, by names that a message can show."""
        return {
            **self.settings,
            "model digest": self.model.get("digest"),
            "vocabulary digest": self.vocabulary.get("digest"),
            "start token": self.vocabulary.get("start_id"),
            "EOS token": self.vocabulary.get("eos_id"),
        }


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, or None where it has none.

    Raises :class:`OutputError` when it is damaged or not true of itself, or the folder holds shards of
    somebody else. Whether the shards are there is not looked at: see :func:`keep_whole_shards`.
    """
    path = folder / NAME
    if not path.exists():
        if any((folder / DATA_FOLDER).glob(PATTERN)):
            raise OutputError(
                f"generated text in {folder}",
                f"it holds {DATA_FOLDER}/{PATTERN} and no {NAME}, so saebench did not write them",
                "Choose another folder",
            )
        return None
    try:
        data = json.loads(path.read_text("utf-8"))
        if data.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"schema version {data.get('schema_version')}, not {SCHEMA_VERSION}")
        check_content(data, _STATISTICS)
        manifest = Manifest(**data)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise OutputError(
            f"the file {path}",
            f"it is damaged ({type(error).__name__}: {error})",
            "Delete the folder to generate the text again, or choose another",
        ) from error
    manifest.count()
    return manifest


def check_same(folder: Path, found: Manifest, wanted: Manifest) -> None:
    """Raise :class:`OutputError`, naming the difference, where a folder holds other text."""
    here, asked = found.identity(), wanted.identity()
    differences = [
        f"{name} {_short(here.get(name))} there and {_short(asked.get(name))} asked"
        for name in {**asked, **here}
        if here.get(name) != asked.get(name)
    ]
    if differences:
        raise OutputError(
            f"generated text in {folder}",
            f"it was made otherwise: {'; '.join(differences)}",
            "Choose another folder, or ask for the same settings and model",
        )


def keep_whole_shards(folder: Path, manifest: Manifest) -> None:
    """Drop the first missing shard and all after it, which are then written again.

    Raises :class:`OutputError` where a shard has another content than the one that was written.
    """
    for number, shard in enumerate(manifest.shards):
        path = folder / shard["file"]
        if not path.exists():
            manifest.shards = manifest.shards[:number]
            manifest.status = UNFINISHED
            return
        if file_digest(path) != shard["sha256"]:
            raise OutputError(
                f"the shard {path}",
                "its content is not what was written",
                "Delete the file to have it written again",
            )


def whole_shards(folder: Path, manifest: Manifest) -> tuple[Path, ...]:
    """The files of a finished text in their order, each as it was written; :class:`OutputError` else."""
    if not manifest.finished:
        raise OutputError(
            f"generated text in {folder}",
            "it is not finished",
            "Run saebench generate again with the same settings: it goes on where it stopped",
        )
    paths = tuple(folder / shard["file"] for shard in manifest.shards)
    for path, shard in zip(paths, manifest.shards, strict=True):
        if not path.exists() or file_digest(path) != shard["sha256"]:
            raise OutputError(
                f"the shard {path}",
                "its content is not what was written" if path.exists() else "there is none",
                "Delete it and run saebench generate again with the same settings: it is written anew",
            )
    return paths


def vocabulary(tokenizer: Any, start_id: int, eos_id: int | None) -> dict[str, Any]:
    """Digest and size of a tokenizer's vocabulary, with the ids that start and end sequences."""
    tokens: Mapping[str, int] = tokenizer.get_vocab()
    listed = sorted(tokens.items(), key=lambda item: (item[1], item[0]))
    content = json.dumps(listed, ensure_ascii=True).encode()
    return {
        "digest": hashlib.sha256(content).hexdigest(),
        "size": len(tokens),
        "start_id": start_id,
        "eos_id": eos_id,
    }


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) > 40 else text
