"""Records on disk: found by what they are about, written whole or not at all, never measured twice.

<out>/records/<name>-<first 12 digits of the key>.json for the main part of a run, and
<out>/records/<name>-<part>-<first 12 digits of the key>.json for each other part.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from saebench.errors import OutputError
from saebench.record import SCHEMA_VERSION, Record
from saebench.whole_files import cannot_write, locked, put_bytes

KEY_DIGITS = 12
SLUG_LENGTH = 64
PROBE_BYTES = 64 * 1024  # about the size of a record: a disk that holds less is full
_FILE_NAME = re.compile(rf"[^.].*-[0-9a-f]{{{KEY_DIGITS}}}\.json")
_ELSEWHERE = "Choose another directory with --out (in pytest: --saebench-out)."


def record_key(**identity: Any) -> str:
    """The SHA-256, in hex, of what a measurement depends on: checkpoint, model, precision, data …

    Plain JSON values; the order of keys does not matter, and neither does tuple or list. The schema
    version of records is part of it. Raises :class:`TypeError` or :class:`ValueError` for values
    that JSON does not have (NaN among them).
    """
    content = {"schema_version": SCHEMA_VERSION, "identity": identity}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def slug(name: str) -> str:
    """``name`` for file names and test ids: ASCII letters, digits, ``.``, ``_`` and ``-`` only.

    Where letters had to go, or the end was cut off, six digits of a hash keep names apart.
    """
    plain = unicodedata.normalize("NFKD", name)
    plain = "".join(char for char in plain if not unicodedata.combining(char))
    lossy = any(char.isalnum() and not char.isascii() for char in plain)
    text = re.sub(r"[^A-Za-z0-9._-]+", "-", plain.encode("ascii", "ignore").decode())
    text = re.sub(r"-{2,}", "-", text).strip("-.")
    if len(text) > SLUG_LENGTH or lossy or not text:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:6]
        text = f"{text[: SLUG_LENGTH - 7].rstrip('-.') or 'sae'}-{digest}"
    return text


def read_records(place: str | Path) -> list[Record]:
    """The records of an output directory, its ``records`` or one file, without writing anything.

    By name and then key. Raises :class:`OutputError` for a damaged file, and where there is none.
    """
    place = Path(place)
    if place.is_file():
        return [_read(place)]
    records = _read_all(place / "records") or _read_all(place)
    if not records:
        raise OutputError(
            f"the records in {place}",
            "there is no record" if place.is_dir() else "there is no such directory and no record",
            "Measure first: saebench run REF --model M --data D --out DIR.",
        )
    return records


class RecordStore:
    """The records under ``out``, a directory that is made, and tried, before anything is measured.

    Raises :class:`OutputError` when it cannot be made or written to.
    """

    def __init__(self, out: str | Path) -> None:
        self.out = Path(out)
        self.records = self.out / "records"
        probe = self.records / f".probe-{os.getpid()}"
        try:
            self.records.mkdir(parents=True, exist_ok=True)
            put_bytes(probe, b"\0" * PROBE_BYTES, next_step=_ELSEWHERE)
        except OSError as error:
            raise cannot_write(self.out, error, _ELSEWHERE) from error
        except OutputError as error:
            raise OutputError(f"writing to {self.out}", error.found, error.next_step) from error
        finally:
            with suppress(OSError):
                probe.unlink()

    def path_for(self, key: str, name: str, part: str = "") -> Path:
        """Where the record with this ``key`` of a ``part`` of the checkpoint called ``name`` belongs."""
        words = [slug(name), *([slug(part)] if part else []), key[:KEY_DIGITS]]
        return self.records / f"{'-'.join(words)}.json"

    def write(self, record: Record) -> Path:
        """Store ``record`` under its key; a kill or an error leaves what was there before.

        Numbers that are not finite become null. Raises :class:`OutputError` when the file cannot be
        written or a value has no JSON form.
        """
        path = self.path_for(record.key, record.name, record.part)
        text = json.dumps(_plain(record.to_json(), "record"), indent=1, ensure_ascii=False) + "\n"
        put_bytes(path, text.encode("utf-8", "backslashreplace"), next_step=_ELSEWHERE)
        return path

    def read(self, key: str, name: str | None = None, part: str = "") -> Record | None:
        """The record with this ``key``, whatever its part; of several, that of checkpoint ``name``.

        None where there is none. ``name`` and ``part`` choose only between records with the same key.
        Raises :class:`OutputError` when the file is damaged or holds a record with another key.
        """
        paths = sorted(self.records.glob(f"*-{key[:KEY_DIGITS]}.json"))
        if not paths:
            return None
        own = self.path_for(key, name, part) if name is not None else None
        path = own if own in paths else paths[0]
        record = _read(path)
        if record.key != key:
            raise _damaged(path, f"its key is {record.key!r}, not {key!r}")
        return record

    def all(self) -> list[Record]:
        """Every record, by name and then key. Raises :class:`OutputError` for a damaged file."""
        return _read_all(self.records)

    def lock(self, name: str = "measure") -> AbstractContextManager[None]:
        """Hold the lock called ``name`` against other processes, and wait while one of them has it.

        It is released when the process ends, however it ends. Not re-entrant. Where the platform or
        the file system has no locks this warns and goes on: work may then be done twice.
        """
        return locked(self.records, slug(name), next_step=_ELSEWHERE)


def _plain(value: Any, where: str) -> Any:
    """``value`` as JSON has it: arrays as lists, numbers as Python's, not finite ones as null."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    to_list: Callable[[], Any] | None = getattr(value, "tolist", None)  # NumPy and torch
    if to_list is not None:
        return _plain(to_list(), where)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise OutputError(
        f"writing {where}",
        f"a {type(value).__name__}, which JSON does not have",
        "Put numbers, texts, lists and tables into records.",
    )


def _read_all(folder: Path) -> list[Record]:
    paths = sorted(path for path in folder.glob("*.json") if _FILE_NAME.fullmatch(path.name))
    return sorted(map(_read, paths), key=lambda record: (record.name, record.key))


def _read(path: Path) -> Record:
    try:
        data = json.loads(path.read_text("utf-8"))
        return Record.from_json(data)
    except OutputError as error:
        raise OutputError(f"{error.asked} in {path}", error.found, error.next_step) from None
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _damaged(path: Path, found: str) -> OutputError:
    return OutputError(
        f"the record {path}",
        f"it is damaged ({found})",
        "Move the file away to measure that checkpoint again, or restore it.",
    )
