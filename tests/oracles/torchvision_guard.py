"""Hide a torchvision that cannot be imported, before a peer is.

The peers pull in torchvision without needing it. Next to a CPU-only torch the wheel on the package
index fails to import, and transformers with it, although transformers does without one gladly.
"""

from __future__ import annotations

import sys

try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError):
    sys.modules["torchvision"] = None  # type: ignore[assignment]  # looks not installed
