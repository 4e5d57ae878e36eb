"""safetensors files: the header checked by the library and by us, the tensors mapped."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from saebench.errors import UnsafeFileError
from saebench.weights.kinds import dtypes_by, lying
from saebench.weights.stored import MappedTensor, Stored, checked_name, checked_shape, is_length

MAX_HEADER_BYTES = 32 * 2**20  # a hundred bytes per tensor; parsed, it takes ten times as much

_DTYPES = dtypes_by(
    (
        ("F64", "float64"),
        ("F32", "float32"),
        ("F16", "float16"),
        ("BF16", "bfloat16"),
        ("F8_E4M3", "float8_e4m3fn"),
        ("F8_E5M2", "float8_e5m2"),
        ("F8_E4M3FNUZ", "float8_e4m3fnuz"),
        ("F8_E5M2FNUZ", "float8_e5m2fnuz"),
        ("F8_E8M0", "float8_e8m0fnu"),
        ("I64", "int64"),
        ("I32", "int32"),
        ("I16", "int16"),
        ("I8", "int8"),
        ("U64", "uint64"),
        ("U32", "uint32"),
        ("U16", "uint16"),
        ("U8", "uint8"),
        ("BOOL", "bool"),
    )
)


def read_tensors(path: Path) -> dict[str, Stored]:
    """The tensors of the file by name, in the order of their bytes; only the header is read.

    Raises :class:`UnsafeFileError` where what the header declares is not what the file is.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if size > min(MAX_HEADER_BYTES, max(length - 8, 0)):
            raise lying(
                path.name,
                f"a header of at most {MAX_HEADER_BYTES:,} bytes",
                f"one of {size:,} bytes in a file of {length:,} bytes",
            )
        text = file.read(size)
    _check_with_library(path)
    try:
        header = json.loads(text.decode(), object_pairs_hook=_no_name_twice)
    except (ValueError, RecursionError) as error:
        raise lying(path.name, "a header in JSON", f"{error!s:.200}") from error
    header.pop("__metadata__", None)
    first = 8 + size
    found: dict[str, Stored] = {}
    end = 0
    for key, entry in sorted(header.items(), key=lambda item: _offsets(path.name, *item)):
        tensor, begin, after = _tensor(path, key, entry, first)
        if begin != end:
            raise lying(
                path.name,
                f"tensor {key!r:.200} at byte {end:,} of the data, where the one before it ends",
                f"data_offsets that begin at {begin:,}",
            )
        found[checked_name(key, path.name)], end = tensor, after
    if first + end != length:
        raise lying(path.name, f"{first + end:,} bytes", f"{length:,} bytes")
    return found


def _check_with_library(path: Path) -> None:
    try:
        with safe_open(path, framework="pt"):
            return
    except RuntimeError:
        return  # a file larger than the memory, which the library cannot map: our own checks follow
    except (SafetensorError, OSError) as error:
        raise UnsafeFileError(
            f"weights {path.name} as safetensors",
            f"{str(error).strip().rstrip('.')} (the file has {path.stat().st_size:,} bytes)",
            "The file is truncated, damaged, or lies about its sizes; fetch it again.",
        ) from error


def _tensor(path: Path, key: str, entry: Any, first: int) -> tuple[Stored, int, int]:
    begin, end = _offsets(path.name, key, entry)
    name, shape = entry.get("dtype"), entry.get("shape")
    dtype = _DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None:
        raise UnsafeFileError(
            f"tensor {key!r:.200} of {path.name} with one of the dtypes {', '.join(_DTYPES)}",
            f"{name!r:.200}",
            "Save the weights as F32, BF16 or F16.",
        )
    expected = f"tensor {key!r:.200} of {name} and {end - begin:,} bytes"
    sizes = checked_shape(shape, expected, path.name)
    if math.prod(sizes) * dtype.itemsize != end - begin:
        raise lying(path.name, expected, f"shape {shape!s:.200}")
    return MappedTensor(dtype, sizes, path, first + begin), begin, end


def _offsets(name: str, key: str, entry: Any) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if isinstance(offsets, list) and len(offsets) == 2 and all(map(is_length, offsets)):
        return offsets[0], offsets[1]
    raise lying(name, f"tensor {key!r:.200} with two data_offsets", f"{offsets!s:.200}")


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice")
    return found
