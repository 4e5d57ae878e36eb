"""Files of a report: each is replaced in one step, and left alone when nothing in it changed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from saebench.errors import OutputError

LARGEST_CARD = 4 * 2**20  # bytes: a README above this is not a card


def write_whole(path: Path, content: bytes) -> Path:
    """Make ``path`` hold exactly ``content``; a kill or an error leaves what was there before.

    A symbolic link is followed, permissions are kept. Raises :class:`OutputError` when the file
    cannot be written.
    """
    target = path.resolve()
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file() and target.read_bytes() == content:
            return path
        with temporary.open("xb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o7777)
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise OutputError(
                f"writing {path}",
                error.strerror or str(error),
                "Choose a file that can be written, or free some space.",
            ) from error
        raise
    return path


def read_text(path: Path) -> str | None:
    """The text of an existing card with its line ends as they are, or None when there is no file.

    Raises :class:`OutputError` when it cannot be read as UTF-8 text of a reasonable size.
    """
    try:
        if not path.exists():
            return None
        if path.stat().st_size > LARGEST_CARD:
            found = f"{path.stat().st_size:,} bytes, more than any card has"
        else:
            return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        found = error.strerror or str(error)
    except UnicodeDecodeError as error:
        found = f"it is not UTF-8 text ({error.reason} at byte {error.start})"
    raise OutputError(
        f"the existing card {path}", found, "Repair the file, or write the card to another one."
    )
