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
    torch.OutOfMemoryError : the model does not fit, of which the files are innocent.
    """
    try:
        with _no_bar_in_logs():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                root, dtype=dtype, trust_remote_code=False, output_loading_info=True, **options
            )
    except Exception as error:  # damaged files raise whatever the reader of that format raises
        if ran_out_of_memory(error):
            raise torch.OutOfMemoryError(first_line(error)) from error
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


def ran_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on a GPU or on a CPU, where torch has no type for it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


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
