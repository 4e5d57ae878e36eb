"""Files that are there whole or not at all, and one writer at a time where several could write.

Every file of ours that somebody may read later is written here: records, reports, generated text.
"""

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

fcntl: Any = None
msvcrt: Any = None
try:
    import fcntl
except ImportError:  # Windows
    with suppress(ImportError):
        import msvcrt

ELSEWHERE = "Choose another folder."
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
# What Windows says of a byte that another process holds: at once, and after ten tries of a second.
_HELD = {errno.EACCES, errno.EDEADLK, getattr(errno, "EDEADLOCK", errno.EDEADLK)}

_log = logging.getLogger(__name__)


def put(
    path: Path, write: Callable[[Path], object], *, alone: bool = False, next_step: str = ELSEWHERE
) -> None:
    """Let ``write`` make a file of another name beside ``path``, and give it that name once it is on disk.

    A symbolic link is followed, and the permissions of an existing file are kept. ``alone``: no other
    process writes this file now, so what a killed one left half written is removed. Raises
    :class:`OutputError`, with ``next_step``, when it cannot be written; whatever stops it, what was at
    ``path`` is then as before.
    """
    target = Path(os.path.realpath(path))
    unique = f"{os.getpid()}-{os.urandom(4).hex()}"
    temporary = target.with_name(f".{target.name}.{unique}.tmp")
    try:
        if alone:
            _remove_unfinished(target)
        write(temporary)
        with temporary.open("r+b") as handle:  # Windows synchronises only what is open for writing
            os.fsync(handle.fileno())
        _keep_permissions(target, temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise cannot_write(path, error, next_step) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    _synchronise_folder(target.parent)


def put_bytes(path: Path, content: bytes, *, next_step: str = ELSEWHERE) -> None:
    """Write bytes as :func:`put` does."""

    def write(place: Path) -> None:
        with place.open("xb") as handle:
            handle.write(content)

    put(path, write, next_step=next_step)


def put_text(path: Path, text: str) -> None:
    """Write a text, UTF-8 with its line ends as they are, as :func:`put` does."""
    put_bytes(path, text.encode("utf-8", "backslashreplace"))


def put_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write plain JSON values as :func:`put` does; raises :class:`ValueError` for NaN."""
    put_text(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def locked(
    folder: Path,
    name: str = "writing",
    *,
    waiting: Callable[[], object] | None = None,
    next_step: str = ELSEWHERE,
) -> Iterator[None]:
    """Hold the lock ``name`` of a folder, which is made, against other processes, and wait for it.

    ``waiting`` is called once where another one has it; without it the log says so. The lock ends with
    the process, however that ends. Not re-entrant. Where the platform or the file
    system has no locks this warns and goes on. Raises :class:`OutputError`, with ``next_step``, when the
    folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / f".{name}.lock").open("ab")
    except OSError as error:
        raise cannot_write(folder, error, next_step) from error

    def say() -> None:
        _log.info("another process is writing to %s: waiting for it", folder)

    with handle:
        try:
            without = _acquire(handle.fileno(), waiting or say)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise cannot_write(folder, error, next_step) from error
            without = error.strerror or "no file locks"
        if without:
            warnings.warn(
                f"{folder} cannot be locked ({without}): run one process at a time, "
                "or work is done twice",
                RuntimeWarning,
                stacklevel=3,  # past contextlib, where the lock was asked for
            )
        try:
            yield
        finally:
            if not without and msvcrt is not None:  # Windows unlocks a closed file only eventually
                os.lseek(handle.fileno(), 0, os.SEEK_SET)
                msvcrt.locking(handle.fileno(), msvcrt.LK_UNLCK, 1)


def cannot_write(path: Path, error: OSError, next_step: str = ELSEWHERE) -> OutputError:
    """What to raise where the disk refused; a full one gets its own advice before ``next_step``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        next_step = f"Free some space, or {next_step[:1].lower()}{next_step[1:]}"
    return OutputError(f"writing to {path}", error.strerror or str(error), next_step)


def _acquire(descriptor: int, waiting: Callable[[], object]) -> str | None:
    """Take the lock, or say why there is none; raises :class:`OSError` where the file system refuses."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        return None
    if msvcrt is None:
        return "this platform has no file locks"
    mode = msvcrt.LK_NBLCK
    while True:
        os.lseek(descriptor, 0, os.SEEK_SET)  # it locks from the position on; the file stays empty
        try:
            msvcrt.locking(descriptor, mode, 1)
        except OSError as error:
            if error.errno not in _HELD:
                raise
        else:
            return None
        if mode == msvcrt.LK_NBLCK:
            waiting()
            mode = msvcrt.LK_LOCK


def _remove_unfinished(target: Path) -> None:
    for left in target.parent.iterdir():
        if left.name.startswith(f".{target.name}.") and left.name.endswith(".tmp"):
            left.unlink(missing_ok=True)


def _keep_permissions(target: Path, temporary: Path) -> None:
    """Give the new file the mode of the one it replaces; not asked for where they are the same."""
    with suppress(FileNotFoundError):
        mode = target.stat().st_mode & 0o7777
        if mode != temporary.stat().st_mode & 0o7777:
            temporary.chmod(mode)


def _synchronise_folder(folder: Path) -> None:
    """Have the new name on the disk too, where the platform and the file system know how."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
