"""What the files of a checkpoint say about its training, as markdown; nothing here was checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from saebench.record import Record
from saebench.report import escape
from saebench.report.digits import count
from saebench.report.places import portable
from saebench.report.table import markdown_grid

OURS = "saebench"  # the key of cfg.json under which our trainer says how it trained
# In the order of the card: the place below our key, and the words for it.
IMPORTANT = (
    ("recipe.architecture", "Architecture"),
    ("recipe.k", "k"),
    ("recipe.d_sae", "Latents (d_sae)"),
    ("tokens", "Tokens trained on"),
    ("training_samples", "Different activations among them"),
    ("data.epochs", "Times the data were read (epochs)"),
    ("recipe.lr", "Learning rate"),
    ("recipe.batch_size", "Batch size (tokens)"),
    ("seeds", "Seeds"),
    ("data.spec", "Training data"),
    ("data.digest", "Digest of the training data"),
    ("data.sequences_read", "Sequences read"),
    ("final.fve", "Held-out FVE, final"),
    ("final.l0", "Held-out L0, final"),
    ("dead_window", "Dead window (tokens without firing)"),
    ("model.id", "Base model"),
    ("model.digest", "Digest of the base model"),
    ("tokens_per_second", "Tokens per second"),
)
# What SAELens' layout wants in every file of this format: it announces the layout, or repeats our key.
LAYOUT = frozenset(
    {
        "sae_lens_version",
        "sae_lens_training_version",
        "model_name",
        "hook_name",
        "hook_head_index",
        "context_size",
        "prepend_bos",
        "exclude_special_tokens",
        "dataset_path",
        "training_architecture",
        "training_architecture_details",
    }
)
INTRO = "As stated by the files of the checkpoint; not checked here."
HEADER = ("Setting", "Value")
MOST_ROWS = 60  # a training config can have hundreds of keys
MOST_FOLDED = 120


def training(record: Record) -> str:
    """What matters most about the training, and the rest of what is stated, folded away."""
    stated = record.checkpoint.get("provenance") or {}
    ours = stated.get(OURS)
    first = _important(ours, record) if isinstance(ours, Mapping) else {}
    if not first:
        pairs = _pairs(stated)
        if not pairs:
            return "Not stated in the files of the checkpoint."
        return "\n\n".join([INTRO, *_rows(pairs, MOST_ROWS)])
    kept = {key: value for key, value in stated.items() if key not in LAYOUT}
    shown = {f"{OURS}.{place}" for place in first}
    rest = [
        (key, value)
        for key, value in _pairs(kept)
        if key not in shown and key.rpartition(".")[0] not in shown
    ]
    titles = dict(IMPORTANT)
    table = markdown_grid(HEADER, [[titles[key], _stated(value)] for key, value in first.items()])
    parts = [INTRO, table]
    if rest:
        summary = f"<details><summary>{count(len(rest))} more settings</summary>"
        parts += [summary, *_rows(rest, MOST_FOLDED), "</details>"]
    return "\n\n".join(parts)


def _important(ours: Mapping[str, Any], record: Record) -> dict[str, Any]:
    """The important settings that are stated, by place."""
    found = {place: _at(ours, place) for place, _ in IMPORTANT}
    if found["recipe.d_sae"] is None and found["recipe.architecture"] is not None:
        # a recipe may give the width as a multiple of the input's; the file has the product
        found["recipe.d_sae"] = record.checkpoint.get("cfg", {}).get("d_sae")
    return {place: value for place, value in found.items() if not _empty(value)}


def _at(part: Any, place: str) -> Any:
    for key in place.split("."):
        part = part.get(key) if isinstance(part, Mapping) else None
    return part


def _pairs(stated: Mapping[str, Any]) -> list[tuple[str, Any]]:
    # versions of packages last: what was trained on what comes first
    return sorted(_flat(stated), key=lambda pair: "environment" in pair[0].split("."))


def _rows(pairs: list[tuple[str, Any]], most: int) -> list[str]:
    table = markdown_grid(
        HEADER, [[escape.code_cell(key), _stated(value)] for key, value in pairs[:most]]
    )
    left = len(pairs) - most
    return [table, f"{count(left)} more in the checkpoint's own files."] if left > 0 else [table]


def _flat(value: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """``("data.spec", …)`` for each leaf, in the order of the files, to a depth that people read."""
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping) and item and depth < 3:
            yield from _flat(item, f"{name}.", depth + 1)
        elif not _empty(item):
            yield name, item


def _empty(value: object) -> bool:
    return value is None or value in ("", {}, [])


def _stated(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value) if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        return escape.code_cell(portable(value))
    if isinstance(value, Mapping) and all(isinstance(part, int) for part in value.values()):
        return escape.code_cell(", ".join(f"{key} {part}" for key, part in value.items()))
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return escape.code_cell(", ".join(map(portable, value)))
    return escape.code_cell(json.dumps(value, ensure_ascii=False, default=str))
