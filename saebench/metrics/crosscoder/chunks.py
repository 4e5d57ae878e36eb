"""How much is computed at once: a few rows at a time, so that no temporary is large."""

from __future__ import annotations

from collections.abc import Iterator

import torch

# What a few float32 temporaries of a chunk may take, so that they stay in a cache or an accelerator.
BYTES = {"cpu": 2**23}
ACCELERATOR_BYTES = 2**28


def slices(n: int, width: int, device: torch.device) -> Iterator[slice]:
    """Slices over ``n`` rows of ``width`` such that a float32 temporary of them stays small."""
    size = max(1, BYTES.get(device.type, ACCELERATOR_BYTES) // (4 * width))
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
