"""The weights of a causal language model, read by transformers without its remarks and progress bars."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from saebench.models.failures import fail, first_line


def read_weights(asked: str, root: Path, dtype: torch.dtype, **options: Any) -> Any:
    """The model of a folder in ``dtype``; ``options`` are those of ``from_pretrained``.

    Raises
    ------
    ModelError : files are damaged, or lack tensors.
    """
    try:
        with _no_bar_in_logs():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                root, dtype=dtype, trust_remote_code=False, output_loading_info=True, **options
            )
    except Exception as error:  # damaged files raise whatever the reader of that format raises
        next_step = "Check that the download is complete"
        fail(asked, f"its weights cannot be read: {first_line(error)}", next_step, error)
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        fail(
            asked,
            f"its files lack {len(missing)} tensors, such as {missing[0]}, which transformers "
            "filled with random numbers",
            "Use the full causal language model, not its body alone",
        )
    return model


@contextmanager
def _no_bar_in_logs() -> Iterator[None]:
    """Keep transformers' progress bars off a stderr that is no terminal, and leave the setting as it was."""
    shown = logging.is_progress_bar_enabled()
    if shown and not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
