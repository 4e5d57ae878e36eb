"""What is at a reference: a listing, nothing read yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from saebench.reference.grammar import Reference


@dataclass(frozen=True)
class Resolved:
    """The allowed files at a reference, and the configs above it that may belong to them.

    ``names`` are relative to the folder that ``base`` refers to (on the hub the repository), ``within``
    is the folder referenced, ``file`` the file if it is one. ``commit`` is the 40-hex revision on the
    hub. ``root`` is the local folder; None while the files are only on the hub. ``sizes`` (bytes) and
    ``checksums`` are what the hub says about each file. ``unread`` are weights there that no reader here
    is for.
    """

    reference: Reference
    base: Reference
    names: tuple[str, ...]
    commit: str | None = None
    root: Path | None = None
    within: str = ""
    file: str | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    checksums: Mapping[str, str] = field(default_factory=dict)
    endpoint: str | None = None
    cache: Path | None = None

    def pinned(self, path: str) -> Reference:
        """The reference to a path of the listing, at the commit on the hub."""
        return self.base.within(path, self.commit)
