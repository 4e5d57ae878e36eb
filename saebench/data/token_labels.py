"""Prompts whose rows say which characters matter, as sequences with a label for each token.

A row is ``{"text": …, "condition": …, "pair": …, "fire": [[start, end], …], "decision": …, "answer": …}``;
spans count characters of the text, the end exclusive. One text is one sequence: BOS where the tokenizer
has one, cut to a length, never packed. A token carries a label where its characters overlap a span. A column
``document`` or ``source`` says which texts were made from one document: they are no independent samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from saebench.data.documents import BLOCK_CHARS
from saebench.data.labelled import numbered
from saebench.data.opening import Reader
from saebench.data.packing import TOKENIZE_TOGETHER
from saebench.data.records import read_table
from saebench.data.stream import MaskPolicy, Row, TokenStream
from saebench.data.tables import listed, shown
from saebench.data.vocabulary import check_vocabulary
from saebench.errors import DataError

LABELS = ("fire", "decision", "answer")
REQUIRED = "fire"  # a column that every row has; without it nothing is labelled
DOCUMENTS = ("document", "source")  # columns that may name the document of a text
Span = tuple[int, int]


class Prompt(NamedTuple):
    """A row as read: its text, what it is an example of, and the spans of each label."""

    text: str
    condition: str
    pair: str
    document: str
    spans: Mapping[str, Sequence[Span]]


class LabelledRow(NamedTuple):
    """A sequence with ``labels[name]`` bool ``[t]``; how many spans it has, and how many without a token."""

    row: Row
    condition: str
    pair: str
    document: str
    labels: Mapping[str, np.ndarray]
    n_spans: Mapping[str, int]
    n_lost: Mapping[str, int]


@dataclass(frozen=True)
class TokenLabels:
    """Labelled prompts: sequence i of ``stream`` is ``rows[i]``.

    ``n_dropped`` counts texts without a token to read, ``n_left_out`` those beyond the limit on tokens,
    ``n_spans`` the spans of the texts that were read, ``n_lost`` those of them that no token is left of.
    ``digest`` is SHA-256 (hex) over tokens, labels, conditions, pairs and documents.
    """

    stream: TokenStream
    rows: tuple[LabelledRow, ...]
    n_dropped: int
    n_left_out: int
    n_spans: Mapping[str, int]
    n_lost: Mapping[str, int]
    digest: str

    @property
    def conditions(self) -> list[str]:
        """The condition of each sequence; empty where its row names none."""
        return [row.condition for row in self.rows]

    @property
    def documents(self) -> np.ndarray | None:
        """The number ``[sequences]`` int64 of the document of each, None where the rows name none."""
        return numbered([row.document or None for row in self.rows])

    @property
    def n_counted(self) -> int:
        """How many tokens count."""
        return sum(int(item.row.counted.sum()) for item in self.rows)

    def of_counted(self, label: str) -> np.ndarray:
        """``bool[n]``: which counted tokens carry the label, sequence after sequence."""
        parts = [item.labels[label][item.row.counted] for item in self.rows]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=bool)

    def describe(self) -> dict[str, Any]:
        """What was read, as plain JSON values."""
        names, counts = np.unique([name or "none" for name in self.conditions], return_counts=True)
        return {
            "conditions": dict(zip(names.tolist(), counts.tolist(), strict=True)),
            "n_pairs": len({item.pair for item in self.rows if item.pair}),
            "n_documents": None if self.documents is None else len(np.unique(self.documents)),
            "n_dropped": self.n_dropped,
            "n_left_out": self.n_left_out,
            "n_spans": dict(self.n_spans),
            "n_lost": dict(self.n_lost),
            "digest": self.digest,
            "data": self.stream.describe(),
        }


def open_token_labels(
    spec: str,
    tokenizer: Any,
    *,
    length: int,
    max_tokens: int | None = None,
    seed: int = 0,
    vocab_size: int | None = None,
    model: str = "",
    mask: MaskPolicy = "special",
) -> TokenLabels:
    """The prompts of a table ``path[#column]`` or ``hf:…``, tokenised and labelled.

    Where they hold more counted tokens than ``max_tokens``, whole prompts are drawn with ``seed``; the
    order stays that of the file. Raises :class:`DataError` on a missing column, a span that is malformed
    or outside its text, a tokenizer that does not say where its tokens lie, and no text to read.
    """
    check_vocabulary(tokenizer, vocab_size, model)
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"the characters of each token of {spec!r}",
            f"{type(tokenizer).__name__} does not say where its tokens lie",
            "Use a fast tokenizer (tokenizer.json); only those report offsets.",
        )
    found, column, source = read_table(spec)
    prompts = [
        _prompt(row, number, spec, column or "text") for number, row in enumerate(found, start=1)
    ]
    reader = Reader(tokenizer, length, mask=mask, vocab_size=vocab_size, model=model)
    labelled = list(_labelled(reader, prompts))
    usable = [item for item in labelled if len(item.row.ids) > 1 and item.row.counted.any()]
    if not usable:
        raise DataError(
            f"texts of two tokens or more in {spec!r}",
            f"none among {len(prompts)} rows",
            "Check the file and its column of texts.",
        )
    kept = _within(usable, max_tokens, seed)
    if not kept:
        raise DataError(
            f"a prompt of at most max_tokens = {max_tokens} tokens in {spec!r}",
            "every one has more",
            "Raise max_tokens of [difference].",
        )
    rows = [item.row for item in kept]
    drawn = {"n_rows": len(prompts), "max_tokens": max_tokens, "seed": seed}
    stream = reader.stream(lambda: iter(rows), {**source, **drawn}, documents=lambda: len(rows))
    return TokenLabels(
        stream,
        tuple(kept),
        len(labelled) - len(usable),
        len(usable) - len(kept),
        {name: sum(item.n_spans[name] for item in kept) for name in LABELS},
        {name: sum(item.n_lost[name] for item in kept) for name in LABELS},
        _digest(stream, kept),
    )


def _within(rows: Sequence[LabelledRow], limit: int | None, seed: int) -> list[LabelledRow]:
    """All rows, or as many whole ones, in random order, as have at most ``limit`` counted tokens."""
    sizes = np.array([int(item.row.counted.sum()) for item in rows])
    if limit is None or sizes.sum() <= limit:
        return list(rows)
    order = np.random.default_rng(seed).permutation(len(rows))
    keep = np.zeros(len(rows), dtype=bool)
    keep[order[np.cumsum(sizes[order]) <= limit]] = True
    return [item for item, there in zip(rows, keep, strict=True) if there]


def _labelled(reader: Reader, prompts: Sequence[Prompt]) -> Iterator[LabelledRow]:
    layout, counting = reader.layout(), reader.counting()
    n_front = len(layout.prefix)
    for first in range(0, len(prompts), TOKENIZE_TOGETHER):
        some = prompts[first : first + TOKENIZE_TOGETHER]
        encoded = reader.tokenizer(
            [prompt.text[:BLOCK_CHARS] for prompt in some],
            add_special_tokens=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        for prompt, given, places in zip(
            some, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            ids = np.asarray(given, dtype=np.int64)
            offsets = np.asarray(places, dtype=np.int64).reshape(-1, 2)
            if n_front and len(ids) and ids[0] == layout.prefix[0]:
                ids, offsets = ids[1:], offsets[1:]  # the text brings its own BOS along
            room = reader.context_size - n_front
            ids, offsets = ids[:room], offsets[:room]
            whole = np.concatenate([layout.prefix, ids]) if len(ids) else ids
            front = np.zeros(len(whole) - len(ids), dtype=bool)
            hits = {name: _overlaps(offsets, prompt.spans[name]) for name in LABELS}
            yield LabelledRow(
                Row(whole, counting.counted(whole)),
                prompt.condition,
                prompt.pair,
                prompt.document,
                {name: np.concatenate([front, hit.any(1)]) for name, hit in hits.items()},
                {name: len(found) for name, found in prompt.spans.items()},
                {name: int((~hit.any(0)).sum()) for name, hit in hits.items()},
            )


def _overlaps(offsets: np.ndarray, spans: Sequence[Span]) -> np.ndarray:
    """``bool[t, spans]``: whether the characters of a token and a span have one in common."""
    edges = np.asarray(spans, dtype=np.int64).reshape(-1, 2)
    starts, ends = offsets[:, :1], offsets[:, 1:]
    return (starts < edges[:, 1]) & (ends > edges[:, 0]) & (starts < ends)


def _prompt(row: Mapping[str, Any], number: int, spec: str, column: str) -> Prompt:
    """A row, checked; an empty cell of spans is no span."""
    where = f"row {number} of {spec!r}"
    for name in (column, REQUIRED):
        if name not in row:
            raise DataError(
                f"column {name!r} in {where}",
                f"columns {listed(row)}",
                "Give labelled prompts: text, condition, and character spans under fire, "
                "[[start, end], …], empty where nothing fires.",
            )
    text = row[column]
    if not isinstance(text, str):
        raise DataError(f"a text in {where}", shown(text), "Name the column of texts: path#column.")
    spans = {name: _spans(row.get(name), text, f"{name} of {where}") for name in LABELS}
    named = next((name for name in DOCUMENTS if name in row), DOCUMENTS[0])
    condition, pair, document = (_name(row, name, where) for name in ("condition", "pair", named))
    return Prompt(text, condition, pair, document, spans)


def _spans(given: Any, text: str, where: str) -> tuple[Span, ...]:
    if given is None:
        return ()
    if not isinstance(given, list | tuple):
        raise DataError(f"spans as {where}", shown(given), "Write [[start, end], …].")
    found = []
    for span in given:
        two = isinstance(span, list | tuple) and len(span) == 2
        if not (two and all(type(edge) is int for edge in span)):
            raise DataError(
                f"spans as {where}", f"{span!r:.60}", "Write two whole numbers: [start, end]."
            )
        start, end = span
        if not 0 <= start < end <= len(text):
            raise DataError(
                f"a span within the {len(text)} characters of the text, as {where}",
                f"[{start}, {end}]",
                "Count characters from 0, the end exclusive; a span holds one character or more.",
            )
        found.append((start, end))
    return tuple(found)


def _name(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"a text as {name} of {where}", shown(value), f"Write {name} as a text.")
    return value


def _digest(stream: TokenStream, rows: Sequence[LabelledRow]) -> str:
    digest = hashlib.sha256(stream.digest.encode())
    for item in rows:
        digest.update(f"\0{item.condition}\0{item.pair}\0{item.document}\0".encode())
        for name in LABELS:
            digest.update(item.labels[name].tobytes())
    return digest.hexdigest()
