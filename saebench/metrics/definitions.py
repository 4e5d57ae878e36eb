"""What a metric id means: its definition in the catalogue, or the nearest name there is.

A number is only comparable with another under the same definition, so an id never changes its
formula: a change makes a new version. Nothing here imports torch.
"""

from __future__ import annotations

import difflib

from saebench.errors import ConfigError
from saebench.metrics.catalogue import FAMILIES, Definition

__all__ = ["DEFINITIONS", "Definition", "definition"]

DEFINITIONS: dict[str, Definition] = {one.id: one for family in FAMILIES.values() for one in family}


def definition(name: str) -> Definition:
    """The definition of ``fve`` or ``fve@1``.

    Raises :class:`ConfigError`, with the nearest known name, where there is none of that version.
    """
    short, _, version = name.partition("@")
    found = DEFINITIONS.get(short)
    if found is not None and version in ("", str(found.version)):
        return found
    if found is not None:
        nearest = [found.metric]
    else:
        nearest = difflib.get_close_matches(short.lower(), DEFINITIONS, n=1, cutoff=0.5)
    hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
    raise ConfigError(
        f"a metric named {name!r}",
        "no such definition",
        f"{hint}Known: {', '.join(DEFINITIONS)}.",
    )
