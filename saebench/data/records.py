"""Rows of a local table or of the hub with all their columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from saebench.data.documents import HubDocuments, LocalDocuments, open_documents
from saebench.data.tables import TABLES, read_records, readable
from saebench.errors import DataError


def read_table(spec: str) -> tuple[Iterator[dict[str, Any]], str | None, dict[str, Any]]:
    """The rows of ``path[#column]`` or ``hf:…#split[:column]``, the column, and what the source is.

    The column is None where the spec names none. Raises :class:`DataError` (:class:`HubError` for an
    unreachable hub) where there is no table; the rows raise it where one is broken.
    """
    source = open_documents(spec)
    if isinstance(source, HubDocuments):
        return (dict(row) for row in source.whole()), source.column, source.describe()
    assert isinstance(source, LocalDocuments)
    for path in source.paths:
        if path.suffix.lower() not in TABLES:
            raise DataError(
                f"the rows of {path}",
                "plain text, which has none",
                f"Give a table: {', '.join(TABLES)}.",
            )
    return _local(source), source.column, source.describe()


def _local(source: LocalDocuments) -> Iterator[dict[str, Any]]:
    for path in source.paths:
        with readable(path):
            yield from read_records(path)
