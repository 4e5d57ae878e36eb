"""Checkpoints of no known format, written for one test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.adapters.generic_files import D, F, Write


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a checkpoint of the tensors given, all others left at W_enc … b_dec; ``...`` leaves one out."""

    def written(
        config: dict[str, Any] | None = None,
        *,
        folder: str = "ckpt",
        file: str = "sae.pt",
        plain: bool = False,
        **tensors: Any,
    ) -> Path:
        root = tmp_path / folder
        root.mkdir(parents=True, exist_ok=True)
        names = {} if plain else {"W_enc": (D, F), "W_dec": (F, D), "b_enc": (F,), "b_dec": (D,)}
        content = {name: torch.randn(shape) for name, shape in names.items()} | tensors
        torch.save({k: v for k, v in content.items() if v is not ...}, root / file)
        if config is not None:
            (root / "cfg.json").write_text(json.dumps(config))
        return root

    return written
