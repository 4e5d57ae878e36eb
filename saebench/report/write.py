"""Files of a report: each is replaced in one step, and left alone when nothing in it changed."""

from __future__ import annotations

from pathlib import Path

from saebench.errors import OutputError
from saebench.whole_files import cannot_write, put_bytes

LARGEST_CARD = 4 * 2**20  # bytes: a README above this is not a card
_ELSEWHERE = "Choose a file that can be written."


def write_changed(path: Path, content: bytes) -> Path:
    """Make ``path`` hold exactly ``content``, in a folder that is made; a kill leaves what was there.

    Raises :class:`OutputError` when the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.read_bytes() == content:
            return path
    except OSError as error:
        raise cannot_write(path, error, _ELSEWHERE) from error
    put_bytes(path, content, next_step=_ELSEWHERE)
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
