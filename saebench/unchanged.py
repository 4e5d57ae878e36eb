"""Notice files that change while they are read: a training run may be writing them.

What is loaded, what is measured and the digests of a record have to be of the same bytes. Once
loaded, values are copies in memory: only what happens to a file between the two looks matters.
"""

from __future__ import annotations

from collections.abc import Mapping

from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles

Stamps = Mapping[str, tuple[int, int, int] | None]


def stamps(files: CheckpointFiles) -> Stamps:
    """What changes with each file when it is written or replaced; None for one that is not there."""
    found: dict[str, tuple[int, int, int] | None] = {}
    for name in files.names:
        try:
            seen = (files.root / name).stat()
        except OSError:
            found[name] = None
        else:
            found[name] = (seen.st_ino, seen.st_size, seen.st_mtime_ns)
    return found


def check_unchanged(files: CheckpointFiles, before: Stamps) -> None:
    """Raise :class:`CheckpointError` when a file is not what it was at :func:`stamps`."""
    changed = [name for name, stamp in stamps(files).items() if stamp != before[name]]
    if changed:
        raise CheckpointError(
            f"the checkpoint in {files.root}",
            f"{', '.join(changed[:6])} changed while it was read",
            "Load it again when whatever writes it is done, or load a copy.",
        )
