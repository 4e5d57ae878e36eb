"""Weight files: what their headers declare, and their tensors, with every declared size checked."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from saebench.errors import CheckpointError, UnsafeFileError

PICKLE_SUFFIXES = (".pt", ".pth")
WEIGHT_SUFFIXES = (".safetensors", ".npz", *PICKLE_SUFFIXES)

PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
WRAPPERS = ("state_dict", "sae_state_dict", "sae", "ae", "cc", "model", "model_state_dict")

MAX_NAME = 120  # characters of a name from a pickle shown in an error
_GLOBAL = re.compile(r"GLOBAL ([\w.]*\w)")  # how torch names what a pickle would import

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}

T = TypeVar("T")


class TensorInfo(NamedTuple):
    """What a weight file declares about one tensor: its dtype (``float32``) and its shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class StateDict:
    """The tensors of one weight file, without the prefixes that wrappers add.

    ``wrapper`` is the key they were stored under when the file held more than weights, and
    ``siblings`` the numbers and strings stored beside them (the step of a training run).
    """

    tensors: Mapping[str, Tensor]
    wrapper: str | None = None
    siblings: Mapping[str, Any] | None = None


def is_pickle(name: str) -> bool:
    """Whether the file is read through pickle."""
    return name.lower().endswith(PICKLE_SUFFIXES)


def is_weights(name: str) -> bool:
    """Whether the suffix is one that holds tensors."""
    return name.lower().endswith(WEIGHT_SUFFIXES)


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def refuse_pickle(name: str) -> UnsafeFileError:
    """The error for a pickle that nobody allowed."""
    return UnsafeFileError(
        f"weights {name}",
        "a pickle, a file format that can carry code",
        "Convert it to safetensors, or pass --allow-pickle (allow_pickle=True) to read it with "
        "torch's weights_only loader.",
    )


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Dtype and shape of every tensor in a safetensors file, without reading the weights."""
    found = {}
    with _open_safetensors(path) as file:
        for key in file.keys():  # noqa: SIM118
            part = file.get_slice(key)
            dtype = part.get_dtype()
            found[key] = TensorInfo(_DTYPES.get(dtype, dtype), tuple(part.get_shape()))
    return _without_prefixes(found, path.name)


def read_safetensors(path: Path) -> StateDict:
    """The tensors of a safetensors file; :class:`UnsafeFileError` where its sizes are not true."""
    with _open_safetensors(path) as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return StateDict(_without_prefixes(tensors, path.name))


def read_pickle(path: Path) -> StateDict:
    """The tensors of a ``.pt`` file through ``torch.load(weights_only=True)`` and nothing else.

    Raises :class:`UnsafeFileError` when the file needs more than that, and
    :class:`CheckpointError` when it is damaged or holds no state dict.
    """
    mapped = zipfile.is_zipfile(path)  # the format before torch 1.6 cannot be mapped
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch raises pickle, zip, runtime and key errors here
        raise _unpickling_error(path, error) from error
    return _unwrapped(content, path.name)


def _unpickling_error(path: Path, error: Exception) -> CheckpointError:
    """What is wrong in our own words: torch's advice is to switch the protection off."""
    message = str(error)
    asked = f"weights {path.name} with weights_only=True ({path.stat().st_size:,} bytes)"
    needs = _GLOBAL.search(message)
    if needs is not None:
        found = f"a pickle that needs {_shown(needs[1])}, which is neither a tensor nor a container"
    elif "TorchScript" in message:
        found = "a TorchScript archive, which holds code"
    elif isinstance(error, pickle.UnpicklingError):
        found = "no pickle, or one that needs more than tensors and containers"
    else:
        return CheckpointError(
            asked,
            f"not readable as a torch file ({type(error).__name__})",
            "The file is damaged or truncated; fetch it again.",
        )
    next_step = "saebench loads no pickle that needs more; ask its author for a safetensors file."
    return UnsafeFileError(asked, found, next_step)


def _shown(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}…"


def _open_safetensors(path: Path) -> Any:
    """Open the file; the library checks every declared size against the file's length."""
    if path.suffix.lower() != ".safetensors":
        raise CheckpointError(
            f"weights {path.name}",
            f"the suffix {path.suffix!r}, which no known format here uses",
            "Convert it to safetensors.",
        )
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UnsafeFileError(
            f"weights {path.name} as safetensors",
            f"{str(error).strip().rstrip('.')} (the file has {path.stat().st_size:,} bytes)",
            "The file is truncated, damaged, or lies about its sizes; fetch it again.",
        ) from error


def _without_prefixes(tensors: Mapping[str, T], name: str) -> dict[str, T]:
    found: dict[str, T] = {}
    for key, tensor in tensors.items():
        short = key
        while short.startswith(PREFIXES):
            short = short.removeprefix(PREFIXES[0]).removeprefix(PREFIXES[1])
        if short in found:
            raise CheckpointError(
                f"weights {name}",
                f"{key!r} and another tensor are both {short!r} without their prefixes",
                "Save the state dict of one module only.",
            )
        found[short] = tensor
    return found


def _unwrapped(content: Any, name: str) -> StateDict:
    """The state dict in an unpickled file, taken out of the checkpoint of a run if it is in one."""
    wrapper = None
    siblings: dict[str, Any] = {}
    if isinstance(content, dict):
        inside = [key for key in WRAPPERS if _holds_tensors(content.get(key))]
        if len(inside) == 1:
            wrapper = inside[0]
            siblings = {str(k): v for k, v in content.items() if isinstance(v, int | float | str)}
            content = content[wrapper]
    if not _holds_tensors(content):
        keys = ", ".join(map(repr, list(content)[:8])) if isinstance(content, dict) else ""
        raise CheckpointError(
            f"weights {name} as a state dict",
            f"a {type(content).__name__} {keys}".strip(),
            "Save module.state_dict(), not the module or a list.",
        )
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    for key, tensor in tensors.items():
        _check_storage(tensor, key, name)
    return StateDict(_without_prefixes(tensors, name), wrapper, siblings)


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(item, Tensor) for item in value.values())


def _check_storage(tensor: Tensor, key: str, name: str) -> None:
    """Refuse tensors that claim more elements than the file holds, or are not plain arrays."""
    plain = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta
    if plain and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes():
        return
    raise UnsafeFileError(
        f"tensor {key!r} of {name} as a dense array",
        f"shape {list(tensor.shape)} over a smaller or special storage",
        "Save dense tensors: tensor.to_dense().contiguous().",
    )
