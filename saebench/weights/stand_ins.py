"""What is saved under the name of weights when a download or a clone did not bring them."""

from __future__ import annotations

from pathlib import Path

from saebench.errors import CheckpointError

LFS_START = b"version https://git-lfs"
HTML_STARTS = (b"<!doctype html", b"<html")
_BOM = b"\xef\xbb\xbf"
_LOOKED_AT = 512  # bytes


def refuse_stand_in(path: Path) -> None:
    """Raise :class:`CheckpointError` where the file is a git-LFS pointer or a web page.

    No weight file begins like either, so what is refused here is never readable.
    """
    with path.open("rb") as file:
        start = file.read(_LOOKED_AT).removeprefix(_BOM).lstrip().lower()
    size = path.stat().st_size
    asked = f"weights {path.name} ({size:,} bytes)"
    if start.startswith(LFS_START):
        raise CheckpointError(
            asked,
            "a git-LFS pointer, not the file",
            "Run git lfs pull in the clone it lies in, or download the file itself.",
        )
    if start.startswith(HTML_STARTS):
        raise CheckpointError(
            asked,
            "an HTML page: the download was an error or login page",
            "Download the file itself (its 'raw' or 'resolve' address).",
        )
