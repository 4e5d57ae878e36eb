"""Files that are there whole or not at all, and one writer at a time for a folder."""

from __future__ import annotations

import errno
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from saebench.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".generation.lock"
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

_log = logging.getLogger(__name__)


def put(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a file of another name beside ``path``, and give it that name once it is on disk.

    Raises :class:`OutputError` when it cannot be written; what was at ``path`` is then as before.
    """
    temporary = path.with_name(f".{path.name}.tmp")  # the lock keeps other writers out
    try:
        write(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def put_text(path: Path, text: str) -> None:
    """Write a text as :func:`put` does."""

    def write(place: Path) -> None:
        place.write_bytes(text.encode("utf-8", "backslashreplace"))

    put(path, write)


def put_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write plain JSON values as :func:`put` does."""
    put_text(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made, against other processes; wait while one of them has it.

    The lock ends with the process, however that ends. Where there are no locks this warns and goes on.
    Raises :class:`OutputError` when the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK_NAME).open("ab")
    except OSError as error:
        raise cannot_write(folder, error) from error
    with handle:
        if fcntl is None:
            _warn(folder, "this platform has no file locks")
        else:
            _acquire(handle.fileno(), folder)
        yield


def _acquire(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _log.info("another process is writing to %s: waiting for it", folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise cannot_write(folder, error) from error
        _warn(folder, error.strerror or "no file locks")


def _warn(folder: Path, why: str) -> None:
    warnings.warn(
        f"{folder} cannot be locked ({why}): run one process at a time",
        RuntimeWarning,
        stacklevel=5,
    )


def cannot_write(path: Path, error: OSError) -> OutputError:
    """What to raise where the disk refused."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    next_step = "Free some space, or choose another folder" if full else "Choose another folder"
    return OutputError(f"writing to {path}", error.strerror or str(error), next_step)
