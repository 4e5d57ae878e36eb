"""Loading checkpoints of no known format, and the messages that refuse them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from saebench.errors import UnknownFormatError
from saebench.loading import load_sae

D, F = 8, 20
Write = Callable[..., Path]


def load(root: Path, maps: dict[str, str] | None = None, **settings: str) -> Any:
    return load_sae(root, allow_pickle=True, settings=settings, tensors=maps)


def refused(root: Path, maps: dict[str, str] | None = None, **settings: str) -> str:
    with pytest.raises(UnknownFormatError) as error:
        load(root, maps, **settings)
    return str(error.value)
