"""The prompts that a steered model goes on from: of a spec, or of a concept's held-out texts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saebench.data import TokenStream
from saebench.data.records import read_table
from saebench.data.tables import TABLES
from saebench.errors import DataError
from saebench.measure.concepts.rows import opened
from saebench.measure.run import Run
from saebench.protocols import Concept

ROWS = 64  # texts read at a time
PROMPT = "prompt"  # the column that saebench complete reads, too


@dataclass(frozen=True)
class Prompts:
    """Token ids of each prompt, BOS included, no two alike; ``facts`` are plain JSON values.

    ``n_cut`` lost their beginning, so that what is generated fits into the context.
    """

    ids: tuple[tuple[int, ...], ...]
    facts: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the ids."""
        total = hashlib.sha256()
        for row in self.ids:
            total.update(np.array([len(row), *row], dtype="<i8").tobytes())
        return total.hexdigest()


def concept_named(run: Run, name: str) -> Concept:
    """The configured concept of a name."""
    return next(item for item in run.config.concepts if item.name == name)


def prompts_of(run: Run, concept: str) -> Prompts:
    """The first prompts that differ, as many as asked for; raises :class:`DataError` where there is none."""
    asked = run.config.steering
    if asked.prompts:
        stream, source = run.open(_with_column(asked.prompts), pack=False), asked.prompts
        rows = (ids[mask] for ids, mask, _ in _rows(stream))
    else:
        stream, source = _held_out(run, concept), f"held-out texts of {concept}"
        rows = (ids[: int(counted.argmax())] for ids, _, counted in _rows(stream))
    room = _room(run)
    found: dict[tuple[int, ...], bool] = {}  # whether it was cut
    n_read = 0
    for row in rows:
        n_read += 1
        if len(found) < asked.n_prompts and len(row):
            found.setdefault(*_cut(tuple(row.tolist()), room))
        if len(found) == asked.n_prompts:
            break
    if len(found) < 2:
        raise DataError(
            f"two prompts or more in {source!r}",
            f"{len(found)} among {n_read} texts",
            "Name others: --protocol steering.prompts=FILE, or prompts = in [steering].",
        )
    facts = {"source": source, "n": len(found), "n_read": n_read, "n_cut": sum(found.values())}
    return Prompts(tuple(found), facts)


def _with_column(spec: str) -> str:
    """The spec with the column ``prompt`` where a local table has one and no column is named."""
    path = Path(spec).expanduser()
    if "#" in spec or not path.is_file() or path.suffix.lower() not in TABLES:
        return spec
    rows, _, _ = read_table(spec)
    first = next(iter(rows), {})
    return f"{spec}#{PROMPT}" if PROMPT in first else spec


def _rows(stream: TokenStream) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Ids, which of them are tokens, and which count, of each sequence."""
    for batch in stream.batches(ROWS):
        parts = (batch.ids, batch.attention_mask, batch.counted)
        yield from zip(*(part.cpu().numpy() for part in parts), strict=True)


def _held_out(run: Run, concept: str) -> TokenStream:
    """The concept's held-out texts, if those are completions of prompts."""
    held_out = opened(run, concept).held_out
    if not concept_named(run, concept).prompt or held_out is None:
        found = "it has no held-out texts" if held_out is None else "it names no column of prompts"
        raise DataError(
            f"prompts of concept {concept!r} to go on from",
            found,
            "Name prompts: --protocol steering.prompts=FILE#column, prompts = in [steering], or the column "
            "prompt = of the [[concept]].",
        )
    return held_out.stream


def _room(run: Run) -> int | None:
    """How many tokens a prompt may have; None for any number."""
    context = run.located[0].context_size
    return None if context is None else context - run.config.steering.max_new_tokens


def _cut(ids: tuple[int, ...], room: int | None) -> tuple[tuple[int, ...], bool]:
    """A prompt that leaves room for what is generated: its first token, BOS, and its end."""
    if room is None or len(ids) <= room:
        return ids, False
    if room < 2:
        raise DataError(
            "prompts with room for what is generated",
            f"{max(room, 0)} tokens of the context are left for them",
            "Lower max_new_tokens in [steering].",
        )
    return (ids[0], *ids[len(ids) - room + 1 :]), True
