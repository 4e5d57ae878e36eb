"""Rows of tables: .jsonl, .json, .csv and .parquet files, read a few rows at a time."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from saebench.errors import DataError

TABLES = (".jsonl", ".json", ".csv", ".parquet")
ROWS = 256  # of a parquet file in memory at a time

Pick = Callable[[Sequence[str]], tuple[str, ...]]  # the columns to read, of those there are
Values = tuple[Any, ...]


def read_rows(path: Path, pick: Pick) -> Iterator[Values]:
    """The values of the picked columns, row after row; a row that has no columns comes as one value.

    Raises :class:`DataError` on a file that is broken, or has a row without one of the columns.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet_rows(path, pick)
        return
    with path.open(encoding="utf-8-sig", newline="") as handle:
        if suffix == ".csv":
            yield from _csv_rows(handle, pick)
        elif suffix == ".jsonl":
            yield from columns(_json_lines(handle, str(path)), pick, str(path))
        else:
            yield from _json_rows(handle, pick, str(path))


def columns(rows: Iterable[Any], pick: Pick, where: str) -> Iterator[Values]:
    """The values of the columns that are picked from the first row; see :func:`read_rows`."""
    names: tuple[str, ...] = ()
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            yield (row,)
            continue
        names = names or pick(tuple(row))
        for name in names:
            if name not in row:
                raise DataError(
                    f"column {name!r} in row {number} of {where}",
                    f"columns {listed(row)}",
                    "Make every row hold the column.",
                )
        yield tuple([row[name] for name in names])


def wanted(there: Sequence[str], *, names: Sequence[str], where: str) -> tuple[str, ...]:
    """``names``, all of which must be there; raises :class:`DataError` that lists what is."""
    for name in names:
        if name not in there:
            raise DataError(
                f"column {name!r} of {where}",
                f"columns {listed(there)}",
                "Name the columns that hold text and label: text = and label = of the task.",
            )
    return tuple(names)


def listed(names: Iterable[str]) -> str:
    """Names for a message."""
    return ", ".join(map(repr, names)) or "none"


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Errors of reading a file as :class:`DataError`."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(
            f"UTF-8 text in {path}", str(error), "Convert the file to UTF-8."
        ) from error
    except OSError as error:
        raise DataError(
            f"reading {path}", str(error), "Check the path and its permissions."
        ) from error


def _json_lines(lines: Iterable[str], where: str) -> Iterator[Any]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"JSON on line {number} of {where}", str(error), "Repair or remove the line."
            ) from error


def _json_rows(handle: TextIO, pick: Pick, where: str) -> Iterator[Values]:
    """Rows of a .json file: a list of rows, an object of columns, or lines under another suffix."""
    text = handle.read()
    try:
        data = json.loads(text)
    except json.JSONDecodeError:
        yield from columns(_json_lines(text.splitlines(), where), pick, where)
        return
    if isinstance(data, Mapping):
        values = [data[name] for name in pick(tuple(data))]
        if not all(isinstance(value, list) for value in values):
            yield tuple(values)
            return
        if len({len(value) for value in values}) > 1:
            raise DataError(
                f"columns of one length in {where}",
                f"lengths {', '.join(str(len(value)) for value in values)}",
                "Write one value per row in each column.",
            )
        yield from zip(*values, strict=True)
    elif isinstance(data, list):
        yield from columns(data, pick, where)
    else:
        raise DataError(
            f"a list of rows in {where}",
            f"a {type(data).__name__}",
            "Write one object or text per row.",
        )


def _csv_rows(handle: TextIO, pick: Pick) -> Iterator[Values]:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is shorter than a long document
    rows = csv.DictReader(handle)
    names = pick(tuple(rows.fieldnames or ()))
    return (tuple([row[name] for name in names]) for row in rows)


def _parquet_rows(path: Path, pick: Pick) -> Iterator[Values]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            names = pick(table.schema_arrow.names)
            for batch in table.iter_batches(batch_size=ROWS, columns=list(names)):
                yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)
    except pyarrow.ArrowInvalid as error:
        raise DataError(
            f"a parquet file at {path}", str(error), "Write the file again; it may be truncated."
        ) from error
