"""Weight files: what their headers declare, and their tensors, with every declared size checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from saebench.errors import CheckpointError
from saebench.weights import npz_file, safetensors_file
from saebench.weights.float32 import count_not_finite, float32_rows
from saebench.weights.kinds import (
    PICKLE_SUFFIXES,
    UNREAD_SUFFIXES,
    WEIGHT_SUFFIXES,
    TensorInfo,
    dtype_name,
    is_pickle,
    is_unread,
    is_weights,
    refuse_pickle,
)
from saebench.weights.pickled_tensor import PickledTensor, stored
from saebench.weights.stand_ins import refuse_stand_in
from saebench.weights.state_dict import StateDict, find_state_dict, without_prefixes
from saebench.weights.stored import Opened, Stored, StoredTensors, keep
from saebench.weights.torch_file import read_content

__all__ = [
    "PICKLE_SUFFIXES",
    "UNREAD_SUFFIXES",
    "WEIGHT_SUFFIXES",
    "Opened",
    "StateDict",
    "StoredTensors",
    "TensorInfo",
    "count_not_finite",
    "dtype_name",
    "float32_rows",
    "is_pickle",
    "is_unread",
    "is_weights",
    "keep",
    "read_header",
    "read_npz",
    "read_pickle",
    "read_safetensors",
    "read_weights",
    "refuse_pickle",
]


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Dtype and shape of every tensor in a weight file, without reading the weights.

    Raises what :func:`read_weights` raises.
    """
    tensors = read_weights(path).tensors
    assert isinstance(tensors, StoredTensors)
    return {key: tensors.info(key) for key in tensors}


def read_weights(path: Path, *, outline: bool = False) -> StateDict:
    """The tensors of a weight file by the kind that its suffix names.

    In an ``outline`` the matrices have no values (they are on torch's ``meta`` device). Raises
    :class:`UnsafeFileError` where declared sizes are not true or a pickle needs more than tensors,
    containers and configs, and :class:`CheckpointError` where the file is damaged.
    """
    name = path.name.lower()
    if name.endswith(".safetensors"):
        return read_safetensors(path, outline=outline)
    if name.endswith(".npz"):
        return read_npz(path, outline=outline)
    if is_pickle(name):
        return read_pickle(path, outline=outline)
    raise CheckpointError(
        f"weights {path.name}",
        f"the suffix {path.suffix!r}, which no known format here uses",
        "Convert it to safetensors.",
    )


def read_safetensors(path: Path, *, outline: bool = False) -> StateDict:
    """The tensors of a safetensors file; :class:`UnsafeFileError` where its sizes are not true."""
    return _named(path, safetensors_file.read_tensors, outline)


def read_npz(path: Path, *, outline: bool = False) -> StateDict:
    """The arrays of a ``.npz`` file; :class:`UnsafeFileError` where it needs pickle, or lies."""
    return _named(path, npz_file.read_npz, outline)


def read_pickle(path: Path, *, outline: bool = False) -> StateDict:
    """The tensors of a ``.pt`` or ``.pkl`` file, read as data: nothing that it names is called.

    Raises :class:`UnsafeFileError` when the file needs more than tensors, containers and configs,
    and :class:`CheckpointError` when it is damaged or holds no state dict.
    """
    refuse_stand_in(path)
    found = find_state_dict(read_content(path), path.name, PickledTensor)
    tensors = {key: stored(tensor, key, path.name) for key, tensor in found.stored.items()}
    return StateDict(StoredTensors(tensors, outline), found.wrapper, found.siblings)


def _named(path: Path, read: Callable[[Path], dict[str, Stored]], outline: bool) -> StateDict:
    refuse_stand_in(path)
    return StateDict(StoredTensors(without_prefixes(read(path), path.name), outline))
