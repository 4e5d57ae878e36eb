"""Where text comes from: files, folders and hub datasets, read one piece at a time.

Every source yields :class:`Piece` after piece and never holds a whole corpus: long texts come in
blocks of about a million characters cut at line ends, tables come row by row.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

from saebench.errors import DataError, HubError

BLOCK_CHARS = 2**20  # texts longer than this are tokenised block by block
DEFAULT_COLUMNS = ("text", "input_ids", "tokens")
SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".parquet")
HUB_PREFIX = "hf:"


class Piece(NamedTuple):
    """A document, or the next block of a long one: text, or token ids where already tokenised."""

    content: str | Sequence[int]
    starts: bool = True


class Documents(Protocol):
    """A re-readable source of documents."""

    def read(self) -> Iterator[Piece]:
        """Every piece in a fixed order, from the beginning."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the source is, as plain JSON values."""
        ...


def open_documents(spec: str) -> Documents:
    """The documents that ``spec`` names.

    ``path[#column]`` is a .txt, .jsonl, .json, .csv or .parquet file or a folder of these;
    ``hf:dataset[/config][@revision]#split[:column]`` is a hub dataset. A .txt file is one document,
    a table has one document a row; the column defaults to ``text``, else ``input_ids`` or ``tokens``.
    Raises :class:`DataError` when the spec names nothing readable, :class:`HubError` when the hub
    cannot be reached.
    """
    if spec.startswith(HUB_PREFIX):
        return HubDocuments.open(spec)
    return LocalDocuments.open(spec)


@dataclass(frozen=True)
class LocalDocuments:
    """Documents of local files in the order of their names."""

    spec: str
    paths: tuple[Path, ...]
    column: str | None

    @classmethod
    def open(cls, spec: str) -> LocalDocuments:
        """Find the files of ``path[#column]``; raises :class:`DataError` when there are none."""
        name, column = spec, None
        if "#" in spec and not Path(spec).exists():
            name, _, column = spec.rpartition("#")
        path = Path(name).expanduser()
        if not path.exists():
            raise DataError(
                f"data {spec!r}",
                f"no file or folder {name!r}",
                "Give an existing .txt, .jsonl, .json, .csv or .parquet file, a folder of these, "
                "or a hub dataset as hf:org/name#split.",
            )
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        paths = tuple(p for p in inside if p.suffix.lower() in SUFFIXES)
        if not paths:
            found = sorted({p.suffix or p.name for p in inside}) or ["nothing"]
            raise DataError(
                f"data {spec!r} as {', '.join(SUFFIXES)}",
                f"{'a folder with' if path.is_dir() else 'a file'} {', '.join(found[:8])}",
                "Convert the data to one of these formats.",
            )
        return cls(spec, paths, column or None)

    def read(self) -> Iterator[Piece]:
        """Every piece, file after file; raises :class:`DataError` on an unreadable one."""
        for path in self.paths:
            try:
                yield from self._file(path)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"UTF-8 text in {path}", str(error), "Convert the file to UTF-8."
                ) from error
            except OSError as error:
                raise DataError(
                    f"reading {path}", str(error), "Check the path and its permissions."
                ) from error

    def describe(self) -> dict[str, Any]:
        """The spec, the column, and the name and size of each file."""
        files = {path.name: path.stat().st_size for path in self.paths}
        return {"spec": self.spec, "column": self.column, "files": files}

    def _file(self, path: Path) -> Iterator[Piece]:
        suffix = path.suffix.lower()
        if suffix == ".parquet":
            yield from _pieces(_parquet_values(path, self.column), str(path))
            return
        with path.open(encoding="utf-8-sig", newline="") as handle:
            if suffix == ".txt":
                yield from _blocks(handle)
            elif suffix == ".csv":
                yield from _pieces(_csv_values(handle, self.column, str(path)), str(path))
            elif suffix == ".jsonl":
                lines = _json_lines(handle, str(path))
                yield from _pieces(_values(lines, self.column, str(path)), str(path))
            else:
                rows = _json_rows(handle, self.column, str(path))
                yield from _pieces(_values(rows, self.column, str(path)), str(path))


@dataclass(frozen=True)
class HubDocuments:
    """Documents of one split of a hub dataset at one commit, streamed and never stored."""

    spec: str
    name: str
    config: str | None
    commit: str
    split: str
    column: str | None

    @classmethod
    def open(cls, spec: str) -> HubDocuments:
        """Parse ``hf:dataset[/config][@revision]#split[:column]`` and resolve its commit."""
        place, _, part = spec.removeprefix(HUB_PREFIX).partition("#")
        path, _, revision = place.partition("@")
        names = path.split("/")
        split, _, column = part.partition(":")
        if not split or not all(names) or len(names) > 3:
            raise DataError(
                f"a hub dataset as hf:org/name[/config][@revision]#split[:column], got {spec!r}",
                "no split" if not split else f"the name {path!r}",
                "Write for example hf:org/name#train or hf:org/name/config@main#test:text.",
            )
        name = "/".join(names[:2])
        config = names[2] if len(names) == 3 else None
        return cls(spec, name, config, _dataset_commit(spec, name, revision), split, column or None)

    def read(self) -> Iterator[Piece]:
        """Every row in the dataset's own order."""
        return _pieces(_values(self._rows(), self.column, self.spec), self.spec)

    def describe(self) -> dict[str, Any]:
        """The spec, dataset, configuration, commit, split and column."""
        return {
            "spec": self.spec,
            "dataset": self.name,
            "config": self.config,
            "commit": self.commit,
            "split": self.split,
            "column": self.column,
        }

    def _rows(self) -> Iterator[Any]:
        import datasets

        try:
            rows = datasets.load_dataset(
                self.name, self.config, split=self.split, revision=self.commit, streaming=True
            )
            yield from rows
        except (ValueError, FileNotFoundError) as error:  # unknown configuration, split or layout
            raise DataError(
                f"split {self.split!r} of {self.spec!r}",
                str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
                "Name one of the configurations and splits that the dataset has.",
            ) from error
        except OSError as error:
            raise HubError(
                f"reading {self.spec!r} from the hub",
                f"{type(error).__name__}: {error}",
                "Check the network, or use a local copy of the data.",
            ) from error


def _dataset_commit(spec: str, name: str, revision: str) -> str:
    """The 40-hex commit of a dataset's revision, so that a run can be repeated on the same rows."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return str(HfApi().dataset_info(name, revision=revision or None).sha)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        what = "revision" if isinstance(error, RevisionNotFoundError) else "dataset"
        raise DataError(
            f"hub dataset {spec!r}",
            f"no such {what}, or no access to it",
            "Check the name and the revision; for a gated dataset accept its terms and log in.",
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise HubError(
            f"hub dataset {spec!r}",
            f"the hub could not be reached ({type(error).__name__})",
            "Check the network, or use a local copy of the data.",
        ) from error


def _blocks(handle: TextIO) -> Iterator[Piece]:
    """One document in blocks that end at a line end where lines are not endless."""
    starts = True
    while block := handle.read(BLOCK_CHARS):
        if len(block) == BLOCK_CHARS:
            block += handle.readline(BLOCK_CHARS)
        yield Piece(block, starts)
        starts = False


def _pieces(values: Iterable[Any], where: str) -> Iterator[Piece]:
    """Turn column values into pieces; raises :class:`DataError` on one that is neither text nor ids."""
    for number, value in enumerate(values, start=1):
        if value is None:
            value = ""  # an empty row: counted and passed over by the token stream
        if isinstance(value, str) and len(value) > BLOCK_CHARS:
            yield from _blocks(io.StringIO(value, newline=""))
        elif isinstance(value, str) or (
            isinstance(value, Sequence) and all(isinstance(item, int) for item in value)
        ):
            yield Piece(value)
        else:
            raise DataError(
                f"text or token ids in row {number} of {where}",
                f"a {type(value).__name__}",
                "Name the column that holds the text with '#column' (':column' for a hub dataset).",
            )


def _values(rows: Iterable[Any], column: str | None, where: str) -> Iterator[Any]:
    """The values of one column; rows that are plain texts or id lists stand for themselves."""
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            yield row
            continue
        column = _pick(row, column, where) if number == 1 else column
        if column is None or column not in row:
            raise DataError(
                f"column {column!r} in row {number} of {where}",
                f"columns {_listed(row)}",
                "Make every row hold the column.",
            )
        yield row[column]


def _pick(names: Iterable[str], column: str | None, where: str) -> str:
    """The column asked for, or the first of the usual names; raises :class:`DataError` without one."""
    found = list(names)
    for name in DEFAULT_COLUMNS if column is None else (column,):
        if name in found:
            return name
    raise DataError(
        f"column {column!r} of {where}" if column else f"a text column of {where}",
        f"columns {_listed(found)}",
        "Name the column that holds the text with '#column' (':column' for a hub dataset).",
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


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


def _json_rows(handle: TextIO, column: str | None, where: str) -> Iterable[Any]:
    """Rows of a .json file: a list of rows, an object of columns, or lines under another suffix."""
    text = handle.read()
    try:
        data = json.loads(text)
    except json.JSONDecodeError:
        return _json_lines(text.splitlines(), where)
    if isinstance(data, Mapping):
        values = data[_pick(data, column, where)]
        return values if isinstance(values, list) else [data]
    if isinstance(data, list):
        return data
    raise DataError(
        f"a list of rows in {where}",
        f"a {type(data).__name__}",
        "Write one object or text per row.",
    )


def _csv_values(handle: TextIO, column: str | None, where: str) -> Iterator[Any]:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is shorter than a long document
    rows = csv.DictReader(handle)
    name = _pick(rows.fieldnames or (), column, where)
    return (row[name] for row in rows)


def _parquet_values(path: Path, column: str | None) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            name = _pick(table.schema_arrow.names, column, str(path))
            for batch in table.iter_batches(batch_size=256, columns=[name]):
                yield from batch.column(0).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise DataError(
            f"a parquet file at {path}", str(error), "Write the file again; it may be truncated."
        ) from error
