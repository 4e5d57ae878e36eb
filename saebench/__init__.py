"""saebench: the test suite for sparse-autoencoder checkpoints.

Names are imported on first use, so that ``import saebench`` (which every pytest session of the
environment pays through the plugin) does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from saebench._version import __version__

_LAZY = {
    "CrossLayerTranscoder": "saebench.sae",
    "Crosscoder": "saebench.sae",
    "Dictionary": "saebench.sae",
    "SAE": "saebench.sae",
    "SAEConfig": "saebench.sae",
    "SaebenchError": "saebench.errors",
    "load_sae": "saebench.loading",
}

__all__ = [
    "SAE",
    "CrossLayerTranscoder",
    "Crosscoder",
    "Dictionary",
    "SAEConfig",
    "SaebenchError",
    "__version__",
    "load_sae",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'saebench' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
