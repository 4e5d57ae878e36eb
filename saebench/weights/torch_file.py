"""The containers of pickled tensors: torch's archive, its format before 1.6, and plain pickles."""

from __future__ import annotations

import functools
import gzip
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import torch

from saebench.errors import CheckpointError, UnsafeFileError
from saebench.weights.kinds import lying
from saebench.weights.pickle_meaning import CheckpointMeaning, storage_key
from saebench.weights.pickle_program import Budget, Damaged, read_program
from saebench.weights.pickled_tensor import Place, Storage
from saebench.weights.zip_directory import FREE_BYTES, MAX_GROWTH, Member, read_directory

MAGIC = 0x1950A86A20F9469CFC6C  # the number that the format before torch 1.6 begins with
PROTOCOL = 1001
ARCHIVE_START = b"PK\x03\x04"
GZIP_START = b"\x1f\x8b"
MAX_PICKLE_BYTES = 64 * 2**20  # of an archive, whose tensors are in other members
MAX_NESTED = 1  # a storage in a plain pickle is itself a file of the format before 1.6
PART_BYTES = 2**20
KEPT = 1  # archives not parsed again for header, kind and tensors; a hostile one may be large


def read_content(path: Path) -> Any:
    """What the file holds, with a :class:`PickledTensor` for each tensor; no tensor is read.

    Raises :class:`UnsafeFileError` when the pickle needs more than tensors, containers and configs,
    and :class:`CheckpointError` when the file is damaged.
    """
    asked = f"weights {path.name} as tensors and plain values ({path.stat().st_size:,} bytes)"
    with path.open("rb") as file:
        start = file.read(len(ARCHIVE_START))
    if not start:
        raise _damaged(asked, "an empty file")
    try:
        if start == ARCHIVE_START:
            return _kept_archive(path, asked, _stamp(path))
        if start.startswith(GZIP_START):
            data = _unpacked(path)
            return _read_bytes(data, asked, Budget(len(data)), nested=0)
        size = path.stat().st_size
        with path.open("rb") as file:
            return _read_stream(file, path, size, asked, Budget(size), nested=0)
    except Damaged as error:
        raise UnsafeFileError(
            asked,
            f"no pickle, or one that needs more than tensors and containers ({error})",
            "saebench reads no pickle that needs more; ask its author for a safetensors file.",
        ) from error


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes when the file does."""
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@functools.lru_cache(KEPT)
def _kept_archive(path: Path, asked: str, stamp: tuple[int, ...]) -> Any:
    """What the archive holds, which nobody changes: one that is unchanged is not parsed again."""
    return _read_archive(path, asked)


def _read_archive(path: Path, asked: str) -> Any:
    """An archive of torch 1.6 or later: a pickle, and a member for each storage."""
    members = read_directory(path)
    roots = [name[: -len("data.pkl")] for name in members if name.split("/")[1:] == ["data.pkl"]]
    if len(roots) != 1:
        raise _damaged(asked, f"an archive with {len(roots)} members named data.pkl")
    root = roots[0]
    if f"{root}constants.pkl" in members:
        raise UnsafeFileError(
            asked,
            "a TorchScript archive, which holds code",
            "Save module.state_dict() instead of a scripted module.",
        )
    for member in members.values():
        if member.packed:
            raise lying(path.name, "members as torch.save stores them", f"{member.name!r} packed")
    byteorder = members.get(f"{root}byteorder")
    if byteorder is not None and _member_bytes(path, byteorder) != b"little":
        raise UnsafeFileError(asked, "numbers in another byte order", "Save on a common machine.")
    storages: dict[str, Storage] = {}

    def storage(key: str, dtype: torch.dtype, count: int) -> Storage:
        size = count * dtype.itemsize
        member = members.get(f"{root}data/{key}")
        if member is None or member.size != size:
            found = "none" if member is None else f"{member.size:,} bytes"
            raise lying(path.name, f"storage {key!r:.80} of {size:,} bytes", found)
        made = Storage(key, dtype, size, Place(path, member.start, size))
        return _same(storages.setdefault(key, made), made)

    data = _member_bytes(path, members[f"{root}data.pkl"])
    budget = Budget(len(data))
    meaning = CheckpointMeaning(asked, storage, _no_nested, budget)
    return read_program(io.BytesIO(data), len(data), meaning, budget)


def _read_bytes(data: bytearray, asked: str, budget: Budget, nested: int) -> Any:
    with io.BytesIO(data) as file:
        return _read_stream(file, data, len(data), asked, budget, nested)


def _read_stream(
    file: BinaryIO, source: Path | bytearray, size: int, asked: str, budget: Budget, nested: int
) -> Any:
    """A plain pickle, or the format before torch 1.6: five pickles, then the storages in a row."""
    storages: dict[str, Storage] = {}

    def storage(key: str, dtype: torch.dtype, count: int) -> Storage:
        made = Storage(key, dtype, count * dtype.itemsize)
        return _same(storages.setdefault(key, made), made)

    def load_nested(data: Any) -> Any:
        if nested >= MAX_NESTED or not isinstance(data, bytes):
            raise Damaged("storages in storages")
        return _read_bytes(bytearray(data), asked, budget, nested + 1)

    meaning = CheckpointMeaning(asked, storage, load_nested, budget)

    def read_next() -> Any:
        return read_program(file, size, meaning, budget)

    content = read_next()
    if content != MAGIC:
        return content
    if read_next() != PROTOCOL:
        raise Damaged("another version of the format")
    system = read_next()
    if not isinstance(system, dict) or not system.get("little_endian", True):
        raise UnsafeFileError(asked, "numbers in another byte order", "Save on a common machine.")
    content = read_next()
    keys = read_next()
    names = list(map(storage_key, keys)) if isinstance(keys, list) else []
    if not isinstance(keys, list) or sorted(names) != sorted(storages):
        raise Damaged("other storages than the tensors have")
    _place(file, source, size, [storages[name] for name in names])
    return content


def _place(file: BinaryIO, source: Path | bytearray, size: int, storages: list[Storage]) -> None:
    """Find each storage: a count of elements, then the elements."""
    offset = file.tell()
    for item in storages:
        file.seek(offset)
        head = file.read(8)
        end = offset + 8 + item.size
        if len(head) < 8 or end > size:
            raise Damaged(f"storage {item.key:.80} of {item.size:,} bytes, cut off")
        if struct.unpack("<q", head)[0] * item.dtype.itemsize != item.size:
            raise Damaged(f"storage {item.key:.80} of another size than declared")
        item.place = Place(source, offset + 8, item.size)
        offset = end


def _same(known: Storage, again: Storage) -> Storage:
    if (known.dtype, known.size) != (again.dtype, again.size):
        raise Damaged(f"storage {known.key:.80} declared twice, differently")
    return known


def _no_nested(_: Any) -> Any:
    raise Damaged("a storage inside the pickle of an archive")


def _member_bytes(path: Path, member: Member) -> bytes:
    if member.size > MAX_PICKLE_BYTES:
        raise lying(
            path.name, f"{member.name!r} of at most {MAX_PICKLE_BYTES:,} bytes", f"{member.size:,}"
        )
    with path.open("rb") as file:
        file.seek(member.start)
        return file.read(member.size)


def _unpacked(path: Path) -> bytearray:
    """The bytes of a gzip file; :class:`UnsafeFileError` when they are far more than it has."""
    limit = FREE_BYTES + MAX_GROWTH * path.stat().st_size
    data = bytearray()
    try:
        with gzip.open(path) as file:
            while part := file.read(PART_BYTES):
                data += part
                if len(data) > limit:
                    raise UnsafeFileError(
                        f"weights {path.name} of at most {limit:,} bytes once unpacked",
                        "more",
                        "Archives that grow this much are refused; unpack the file yourself.",
                    )
    except (EOFError, OSError, zlib.error) as error:
        raise _damaged(f"weights {path.name} as gzip", str(error)) from error
    return data


def _damaged(asked: str, found: str) -> CheckpointError:
    return CheckpointError(asked, found, "The file is damaged or truncated; fetch it again.")
