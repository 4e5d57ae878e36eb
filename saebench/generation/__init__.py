"""Text that a language model wrote itself, sampled from its start token: the model's own distribution.

``settings`` says what to sample (light), ``sampling`` samples, ``manifest`` and ``shards`` keep what is
done, ``content`` checks what was kept, ``writing`` ties them into a resumable folder,
``statistics`` describes ids, ``card`` writes the data set's card, ``comparing`` puts a reference beside
it, ``cached`` keeps folders for data specs.
Names are imported on first use: settings are read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_LAZY = {
    "Generated": "saebench.generation.writing",
    "GenerationSettings": "saebench.generation.settings",
    "ensure_generated": "saebench.generation.cached",
    "generate": "saebench.generation.writing",
}

__all__ = ["Generated", "GenerationSettings", "ensure_generated", "generate"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'saebench.generation' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
