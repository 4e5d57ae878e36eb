"""References to checkpoints: ``hf:org/repo@revision:path/in/repo`` or a local path.

The grammar is parsed once into a frozen :class:`Reference`. Resolving one finds its files without
reading weights: a local folder is listed, a hub repository is pinned to a commit and listed, and
only then are the files of the one checkpoint that was chosen downloaded.
"""

from __future__ import annotations

from saebench.reference.download import LIMIT_VARIABLE, check_size, fetch
from saebench.reference.grammar import GRAMMAR, Reference, as_reference, parse_reference
from saebench.reference.resolved import Resolved
from saebench.reference.resolving import resolve

__all__ = [
    "GRAMMAR",
    "LIMIT_VARIABLE",
    "Reference",
    "Resolved",
    "as_reference",
    "check_size",
    "fetch",
    "parse_reference",
    "resolve",
]
