"""What a weight file is by its name, and what is known about a tensor before it is read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

import torch

from saebench.errors import CheckpointError, UnsafeFileError

PICKLE_SUFFIXES = (".pt", ".pth", ".pkl", ".pkl.gz")
WEIGHT_SUFFIXES = (".safetensors", ".npz", *PICKLE_SUFFIXES)
UNREAD_SUFFIXES = (".dcp", ".bin", ".ckpt")  # of weights that other libraries write
_SHARD = ".distcp"  # of which the folders named .dcp are made


class TensorInfo(NamedTuple):
    """What a weight file declares about one tensor: its dtype (``float32``) and its shape."""

    dtype: str
    shape: tuple[int, ...]


def is_pickle(name: str) -> bool:
    """Whether the file is read through pickle."""
    return name.lower().endswith(PICKLE_SUFFIXES)


def is_weights(name: str) -> bool:
    """Whether the suffix is one that holds tensors."""
    return name.lower().endswith(WEIGHT_SUFFIXES)


def is_unread(name: str) -> bool:
    """Whether a path is of weights, or of a part of some, in a form that is not read here."""
    parts = name.lower().rstrip("/").split("/")
    return parts[-1].endswith((*UNREAD_SUFFIXES, _SHARD)) or any(
        part.endswith(UNREAD_SUFFIXES[0]) for part in parts
    )


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def dtypes_by(names: Iterable[tuple[str, str]]) -> dict[str, torch.dtype]:
    """``{a format's name: dtype}`` for those dtypes that this version of torch has."""
    return {name: getattr(torch, ours) for name, ours in names if hasattr(torch, ours)}


def refuse_pickle(name: str) -> UnsafeFileError:
    """The error for a pickle that nobody allowed."""
    return UnsafeFileError(
        f"weights {name}",
        "a pickle, a file format that can carry code",
        "Convert it to safetensors, or pass --allow-pickle (allow_pickle=True) to read it as data "
        "only: a pickle that would run code is refused even then.",
    )


def unreadable(name: str, error: OSError) -> CheckpointError:
    """The error for a file that the system does not let us read, whatever is in it."""
    why = os.strerror(error.errno).lower() if error.errno else str(error)
    return CheckpointError(
        f"file {name}",
        f"cannot be read: {why}",
        "Check its permissions and those of its folder, and how many files may be open (ulimit -n).",
    )


def lying(name: str, expected: str, found: str) -> UnsafeFileError:
    """The error for a file that contradicts itself."""
    return UnsafeFileError(
        f"weights {name}: {expected}",
        found,
        "The file is truncated, damaged, or lies about its sizes; fetch it again.",
    )
