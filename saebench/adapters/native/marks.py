"""What tells a crosscoder of our own from others, whose tensors have the same names and shapes."""

from __future__ import annotations

from collections.abc import Mapping

from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.weights import TensorInfo

CONFIG_FILE = "cfg.json"
WEIGHT_FILE = "sae_weights.safetensors"
FORMAT_KEY = "format"
FORMAT_NAME = "saebench crosscoder"
MARKER = "format_version"  # a tensor: weights tell their format without the config beside them
KEY_TENSORS = frozenset({"W_enc", "W_dec", "b_enc", "b_dec"})


def is_native(files: CheckpointFiles, header: Mapping[str, TensorInfo]) -> bool:
    """Whether weights with these tensors are of our own layout, by a tensor or by the config beside."""
    if not set(header) >= KEY_TENSORS or len(header["W_enc"].shape) != 3:
        return False
    return MARKER in header or is_named(files)


def is_named(files: CheckpointFiles) -> bool:
    """Whether the config beside the weights names our own layout."""
    if CONFIG_FILE not in files.names:
        return False
    try:
        return bool(files.json(CONFIG_FILE).get(FORMAT_KEY) == FORMAT_NAME)
    except CheckpointError:
        return False  # whoever reads it says what is wrong with it
