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
FIELD_CHARS = 2**31 - 1  # of a .csv file; the default of 128 KiB is shorter than a long document
_NAMES_SHOWN = 20
_CHARS_SHOWN = 40

Pick = Callable[[Sequence[str]], tuple[str, ...]]  # the columns to read, of those there are
Values = tuple[Any, ...]


def read_rows(path: Path, pick: Pick) -> Iterator[Values]:
    """The values of the picked columns, row after row; a row that has no columns comes as one value.

    Raises :class:`DataError` on a file that is broken, or has a row without one of the columns.
    """
    for number, values in enumerate(_rows(path, pick), start=1):
        for value in values:
            if isinstance(value, str) and not value.isascii():
                _check_characters(value, f"row {number} of {path}")
        yield values


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table with all their columns; those of a .jsonl file may differ in theirs.

    Raises :class:`DataError` as :func:`read_rows`, and where a row has no columns.
    """
    names: tuple[str, ...] = ()

    def every(there: Sequence[str]) -> tuple[str, ...]:
        nonlocal names
        names = tuple(there)
        return names

    if path.suffix.lower() == ".jsonl":
        with path.open(encoding="utf-8-sig", newline="") as handle:
            rows: Iterator[Any] = _json_lines(handle, str(path))
            yield from (_record(row, i, path) for i, row in enumerate(rows, start=1))
        return
    for number, values in enumerate(read_rows(path, every), start=1):
        row = dict(zip(names, values, strict=True)) if len(names) == len(values) else None
        yield _record(row, number, path)


def _record(row: Any, number: int, path: Path) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(
            f"columns in row {number} of {path}",
            "a row without any",
            "Write one object per row.",
        )
    for value in row.values():
        if isinstance(value, str) and not value.isascii():
            _check_characters(value, f"row {number} of {path}")
    return row


def _rows(path: Path, pick: Pick) -> Iterator[Values]:
    """The rows of a table of any kind."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet_rows(path, pick)
        return
    with path.open(encoding="utf-8-sig", newline="") as handle:
        if suffix == ".csv":
            yield from _csv_rows(handle, pick, str(path))
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


def wanted(
    there: Sequence[str], *, names: Sequence[str], where: str, optional: Sequence[str] = ()
) -> tuple[str, ...]:
    """``names``, which must all be there, then the ``optional`` ones that are.

    Raises :class:`DataError` that lists what is there.
    """
    for name in names:
        if name not in there:
            raise DataError(
                f"column {name!r} of {where}",
                f"columns {listed(there)}",
                "Name the columns that are there: text = and label =, of the task or the concept.",
            )
    return (*names, *(name for name in optional if name in there))


def listed(names: Iterable[str]) -> str:
    """Some names for a message."""
    names = list(names)
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return (", ".join(map(shown, names[:_NAMES_SHOWN])) or "none") + more


def shown(value: object) -> str:
    """A value for a message: a text or a number cut to 40 characters, of anything else its kind."""
    if isinstance(value, str):
        return repr(value[:_CHARS_SHOWN] + "…" * (len(value) > _CHARS_SHOWN))
    if isinstance(value, int | float):
        return f"{value!r:.{_CHARS_SHOWN}}"
    return f"a {type(value).__name__}"


def _check_characters(text: str, where: str) -> None:
    """Raise :class:`DataError` where a text cannot be UTF-8: JSON can escape half of a character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"text in {where}",
            f"character {error.start + 1} is {text[error.start]!a}, half of a pair",
            "Repair or remove the row.",
        ) from error


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
        except (ValueError, RecursionError) as error:  # ValueError: also a number of 5,000 digits
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
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"JSON rows in {where}",
            str(error),
            "Write one row per line (.jsonl): the message then names the one that is wrong.",
        ) from error
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


def _csv_rows(handle: TextIO, pick: Pick, where: str) -> Iterator[Values]:
    csv.field_size_limit(FIELD_CHARS)
    rows = csv.DictReader(handle)
    number = 0
    try:
        there = tuple(rows.fieldnames or ())
        names = pick(there)
        _check_once(there, names, where)
        for row in rows:
            number += 1  # the one that an error is in is the next
            yield tuple([row[name] for name in names])
    except csv.Error as error:
        raise DataError(
            f"CSV in row {number + 1} of {where}", str(error), "Repair or remove the row."
        ) from error


def _parquet_rows(path: Path, pick: Pick) -> Iterator[Values]:
    import pyarrow
    import pyarrow.parquet

    row = 1
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            there = table.schema_arrow.names
            names = pick(there)
            _check_once(there, names, str(path))
            for batch in table.iter_batches(batch_size=ROWS, columns=list(names)):
                # all of a batch first: an error below is of reading, not of what is done with a row
                values = [batch.column(name).to_pylist() for name in names]
                yield from zip(*values, strict=True)
                row += batch.num_rows
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # there is no such file, or it may not be read
        raise DataError(
            f"a parquet file at {path}, its rows from {row} on",
            str(error),
            "Write the file again; it may be truncated.",
        ) from error


def _check_once(there: Sequence[str], names: Sequence[str], where: str) -> None:
    """Raise :class:`DataError` where a picked column is there more than once."""
    for name in names:
        if there.count(name) > 1:
            raise DataError(
                f"one column {shown(name)} in {where}",
                f"{there.count(name)} columns of that name",
                "Rename or remove all but one.",
            )
