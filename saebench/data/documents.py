"""Where text comes from: files, folders and hub datasets, read one piece at a time.

Every source yields :class:`Piece` after piece and never holds a whole corpus: long texts come in
blocks of about a million characters cut at line ends, tables come row by row.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

from saebench.data.tables import TABLES, Pick, columns, listed, read_rows, readable, wanted
from saebench.data.vocabulary import generated_files
from saebench.data_specs import HUB_PREFIX, Text, parse_spec
from saebench.errors import DataError, HubError

BLOCK_CHARS = 2**20  # texts longer than this are tokenised block by block
DEFAULT_COLUMNS = ("text", "input_ids", "tokens")
LARGEST_ID = 2**63  # what an id has to be below to be stored; the vocabulary is checked later
SUFFIXES = (".txt", *TABLES)
GENERATED = "generation.json"  # beside text that a model wrote
GENERATED_IDS = "input_ids"  # its column of token ids


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
    A folder of generated text (with ``generation.json``) is read by its ``input_ids``: exactly the files
    that it lists, once all are there as they were written.
    Raises :class:`DataError` when the spec names nothing readable, :class:`HubError` when the hub
    cannot be reached.
    """
    if not isinstance(parse_spec(spec), Text):
        raise DataError(
            f"the documents of {spec!r}",
            "it stands for token ids that are made, not for documents",
            f"Name files or a dataset of the hub; for a file of this name write ./{spec}.",
        )
    if spec.startswith(HUB_PREFIX):
        return HubDocuments.open(spec)
    return LocalDocuments.open(spec)


@dataclass(frozen=True)
class LocalDocuments:
    """Documents of local files in the order of their names."""

    spec: str
    paths: tuple[Path, ...]
    column: str | None
    manifest: Path | None = None

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
        if (path / GENERATED).is_file():
            files = generated_files(path)
            return cls(spec, files, column or GENERATED_IDS, path / GENERATED)
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        paths = tuple(p for p in inside if p.suffix.lower() in SUFFIXES)
        if not paths:
            found = sorted({p.suffix or p.name for p in inside}) or ["nothing"]
            raise DataError(
                f"data {spec!r} as {', '.join(SUFFIXES)}",
                f"{'a folder with' if path.is_dir() else 'a file'} {', '.join(found[:8])}",
                "Convert the data to one of these formats.",
            )
        return cls(spec, paths, column)

    def read(self) -> Iterator[Piece]:
        """Every piece, file after file; raises :class:`DataError` on an unreadable one."""
        for path in self.paths:
            with readable(path):
                yield from self._file(path)

    def rows(self, names: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[Any, ...]]:
        """The values of several columns, row after row, then of the ``optional`` ones that are there.

        Raises :class:`DataError` as :meth:`read`.
        """
        for path in self.paths:
            if path.suffix.lower() not in TABLES:
                raise DataError(
                    f"columns {listed(names)} of {path}",
                    "plain text, which has none",
                    f"Give a table: {', '.join(TABLES)}.",
                )
            with readable(path):
                yield from read_rows(
                    path, partial(wanted, names=names, where=str(path), optional=optional)
                )

    def describe(self) -> dict[str, Any]:
        """The spec, the column, and the name and size of each file."""
        files = {path.name: path.stat().st_size for path in self.paths}
        return {"spec": self.spec, "column": self.column, "files": files}

    def _file(self, path: Path) -> Iterator[Piece]:
        if path.suffix.lower() == ".txt":
            with path.open(encoding="utf-8-sig", newline="") as handle:
                yield from _blocks(handle)
        else:
            rows = read_rows(path, _text_column(self.column, str(path)))
            yield from _pieces((row[0] for row in rows), str(path))


@dataclass(frozen=True)
class Beginning:
    """The first ``tokens`` sampled tokens of a generated text, the last sequence cut: a shorter text."""

    of: LocalDocuments
    tokens: int

    @property
    def manifest(self) -> Path | None:
        """That of the whole text."""
        return self.of.manifest

    def read(self) -> Iterator[Piece]:
        """The ids of one sequence after another; the start token of each is not counted."""
        left = self.tokens
        for content, _ in self.of.read():
            yield Piece(content[: left + 1])
            left -= len(content) - 1
            if left <= 0:
                return

    def describe(self) -> dict[str, Any]:
        """The column and the number of tokens: the same for whatever longer text they are read from."""
        return {"column": self.of.column, "tokens": self.tokens}


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
        rows = columns(self._rows(), _text_column(self.column, self.spec), self.spec)
        return _pieces((row[0] for row in rows), self.spec)

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

    def whole(self) -> Any:
        """The split as a ``datasets.Dataset``, stored in the cache of ``datasets``."""
        with self._reachable():
            return self._load(streaming=False)

    def _rows(self) -> Iterator[Any]:
        with self._reachable():
            yield from self._load(streaming=True)

    def _load(self, *, streaming: bool) -> Any:
        import datasets

        return datasets.load_dataset(
            self.name, self.config, split=self.split, revision=self.commit, streaming=streaming
        )

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        """Errors of ``datasets`` as those of saebench."""
        try:
            yield
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
            isinstance(value, Sequence)
            and all(isinstance(item, int) and abs(item) < LARGEST_ID for item in value)
        ):
            yield Piece(value)
        else:
            raise DataError(
                f"text or token ids in row {number} of {where}",
                f"a {type(value).__name__} of other things",
                "Name the column that holds the text with '#column' (':column' for a hub dataset).",
            )


def _text_column(column: str | None, where: str) -> Pick:
    """Picks the column asked for, or the first of the usual names; :class:`DataError` without one."""

    def pick(names: Sequence[str]) -> tuple[str, ...]:
        for name in DEFAULT_COLUMNS if column is None else (column,):
            if name in names:
                return (name,)
        raise DataError(
            f"column {column!r} of {where}" if column else f"a text column of {where}",
            f"columns {listed(names)}",
            "Name the column that holds the text with '#column' (':column' for a hub dataset).",
        )

    return pick
