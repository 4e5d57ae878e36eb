"""Whether two data specs name the same text, as far as the specs themselves tell."""

from __future__ import annotations

from pathlib import Path

from saebench.data.documents import HUB_PREFIX


def overlaps(data: str, held_out: str) -> bool:
    """Whether the specs name the same file or hub split, or one a folder that holds the other.

    Columns and hub revisions do not count: what they share is not known to be apart. Reads no text.
    """
    if data.startswith(HUB_PREFIX) or held_out.startswith(HUB_PREFIX):
        return _split(data) == _split(held_out)
    first, second = _place(data), _place(held_out)
    return first == second or first in second.parents or second in first.parents


def _split(spec: str) -> tuple[str, str]:
    """Data set with configuration, and split; a local path stays whole."""
    if not spec.startswith(HUB_PREFIX):
        return spec, ""
    place, _, part = spec.partition("#")
    return place.partition("@")[0], part.partition(":")[0]


def _place(spec: str) -> Path:
    """The file or folder of ``path[#column]`` with all links followed."""
    whole = Path(spec).expanduser()
    if "#" in spec and not whole.exists():
        whole = Path(spec.rpartition("#")[0]).expanduser()
    return whole.resolve()
