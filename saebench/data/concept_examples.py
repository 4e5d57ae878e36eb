"""Rows of a concept's data, drawn without regard to their order: text, prompt, document and labels."""

from __future__ import annotations

import hashlib
import heapq
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from saebench.data.documents import (
    GENERATED_IDS,
    HubDocuments,
    LocalDocuments,
    open_documents,
)
from saebench.data.labelled import kind_of
from saebench.data.tables import TABLES, listed, read_rows, readable, wanted
from saebench.errors import ConfigError, DataError
from saebench.protocols import Concept

MAX_LABEL = 200  # characters: what is longer is no name of a class


@dataclass(frozen=True)
class Example:
    """One row: ``labels`` by column, None where a cell is empty. ``prompt`` is None without a column."""

    text: str
    prompt: str | None
    document: str | None
    labels: Mapping[str, str | None]

    @property
    def whole(self) -> str:
        """Prompt and text."""
        return (self.prompt or "") + self.text


@dataclass(frozen=True)
class Drawn:
    """The examples drawn from one spec, and what it is; ``n_rows`` counts all that it has.

    ``text`` is the column that they are from.
    """

    spec: str
    text: str
    examples: tuple[Example, ...]
    n_rows: int
    source: Mapping[str, Any]


@dataclass(frozen=True)
class Columns:
    """The columns of a concept: ``names`` have to be there, ``optional`` ones need not."""

    text: str
    prompt: str
    document: str
    labels: tuple[str, ...]
    names: tuple[str, ...]
    optional: tuple[str, ...]

    @classmethod
    def of(cls, concept: Concept, *needed: str) -> Columns:
        """Those of a concept whose labels are in ``needed``, else in none.

        Its label and document columns may lack where they have the usual names and nothing needs them.
        """
        names = dict.fromkeys(
            (concept.text, *([concept.prompt] if concept.prompt else []), *needed)
        )
        optional = []
        for name, usual in (
            (concept.label, Concept.label),
            (concept.document, Concept.document),
        ):
            if name not in names:
                if name == usual:
                    optional.append(name)
                else:  # asked for: it has to be there
                    names[name] = None
        labels = dict.fromkeys((*needed, concept.label))
        return cls(
            concept.text,
            concept.prompt,
            concept.document,
            tuple(labels),
            tuple(names),
            tuple(optional),
        )

    def reading(self, column: str | None, spec: str) -> Columns:
        """The same with the text in ``column``, which a spec names (``data.jsonl#completion``)."""
        if column in (None, GENERATED_IDS, self.text):
            return self
        if self.text != Concept.text:
            raise ConfigError(
                f"the text of {spec!r}",
                f"column {column!r} by the data, and {self.text!r} by text = of the concept",
                "Name it in one place.",
            )
        names = tuple(column if name == self.text else name for name in self.names)
        optional = tuple(name for name in self.optional if name != column)
        return replace(self, text=str(column), names=names, optional=optional)


def draw(spec: str, columns: Columns, limit: int, seed: int) -> Drawn:
    """At most ``limit`` rows of a spec, chosen by what they hold and ``seed``, not by where they stand.

    The rows come in the order of a hash of the seed and their text, prompt and document: a file with its
    rows in another order gives the same. Raises :class:`DataError` (:class:`HubError` for an unreachable
    hub) on a missing column, a value that is no text or label, and where there is no row.
    """
    source = open_documents(spec)
    assert isinstance(source, HubDocuments | LocalDocuments)
    columns = columns.reading(source.column, spec)
    n_rows = 0

    def keyed() -> Iterator[tuple[bytes, str, Example]]:
        nonlocal n_rows
        for row in _rows(source, columns, spec):
            n_rows += 1
            example = _example(row, columns, f"row {n_rows} of {spec!r}")
            content = [seed, example.text, example.prompt, example.document]
            key = hashlib.blake2b(json.dumps(content).encode(), digest_size=16).digest()
            yield key, json.dumps(example.labels, sort_keys=True), example

    chosen = heapq.nsmallest(limit, keyed(), key=lambda item: item[:2])
    if not chosen:
        raise DataError(f"examples in {spec!r}", "no row at all", "Check the file.")
    return Drawn(spec, columns.text, tuple(item[2] for item in chosen), n_rows, source.describe())


def _rows(
    source: HubDocuments | LocalDocuments, columns: Columns, spec: str
) -> Iterator[Mapping[str, Any]]:
    """Every row by column."""
    names, optional = columns.names, columns.optional
    if isinstance(source, HubDocuments):
        table = source.whole()
        found = wanted(table.column_names, names=names, where=spec, optional=optional)
        yield from table.select_columns(list(found))
        return
    for path in source.paths:
        if path.suffix.lower() not in TABLES:
            raise DataError(
                f"columns {listed(names)} of {path}",
                "plain text, which has none",
                f"Give a table: {', '.join(TABLES)}.",
            )
        picked: list[str] = []

        def pick(there: Sequence[str], where: str = str(path), into: list[str] = picked) -> Any:
            into[:] = wanted(there, names=names, where=where, optional=optional)
            return tuple(into)

        with readable(path):
            for number, values in enumerate(read_rows(path, pick), start=1):
                if len(values) != len(picked):
                    raise DataError(
                        f"columns {listed(names)} in row {number} of {path}",
                        "a row without columns",
                        "Write one object per row.",
                    )
                yield dict(zip(picked, values, strict=True))


def _example(row: Mapping[str, Any], columns: Columns, where: str) -> Example:
    prompt = _text(row[columns.prompt], columns.prompt, where) if columns.prompt else None
    document = row.get(columns.document)
    return Example(
        _text(row[columns.text], columns.text, where),
        prompt,
        None if document is None or document == "" else str(document),
        {name: label_of(row.get(name), name, where) for name in columns.labels},
    )


def _text(value: Any, column: str, where: str) -> str:
    """The text of a cell; an empty cell is an empty text."""
    if value is not None and not isinstance(value, str):
        raise DataError(
            f"a text in column {column!r}, {where}",
            f"a {type(value).__name__}",
            "Name the columns that hold texts: text = and prompt = of the concept.",
        )
    return value or ""


def label_of(value: Any, column: str, where: str) -> str | None:
    """The label of a cell as text; None where it is empty, which means ambiguous."""
    if isinstance(value, float):  # tables with empty cells hold whole numbers as such
        if math.isnan(value):
            return None
        value = int(value) if value.is_integer() else value
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, int | str) or len(str(value)) > MAX_LABEL:
        raise DataError(
            f"a label in column {column!r}, {where}",
            kind_of(value) if not isinstance(value, str) else f"a text of {len(value)} characters",
            "Write the name of a class or a whole number, or nothing where the text is ambiguous; "
            "or name another column: label = of the concept.",
        )
    return str(value)
