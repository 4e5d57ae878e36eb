"""The names in checkpoints' pickles and what they mean: tensors, containers, records of configs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from saebench.errors import UnsafeFileError
from saebench.weights.kinds import dtypes_by
from saebench.weights.pickle_program import Damaged
from saebench.weights.stored import HeldTensor, MappedTensor, Stored, span

MAX_NAME = 120  # characters of a name from a pickle shown in an error
MAX_DIMENSIONS = 16

# Configs in checkpoints of SAELens before version 2 and of the transcoders made with its code are
# objects of classes in these packages. They become dicts of their attributes.
CONFIG_PACKAGES = ("sae_training", "sae_lens", "transcoder_training", "transcoder_circuits")
NAMESPACES = {("argparse", "Namespace"), ("types", "SimpleNamespace")}
PATHS = {"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path"}
PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}

_STORAGES = dtypes_by(
    (
        ("DoubleStorage", "float64"),
        ("FloatStorage", "float32"),
        ("HalfStorage", "float16"),
        ("BFloat16Storage", "bfloat16"),
        ("LongStorage", "int64"),
        ("IntStorage", "int32"),
        ("ShortStorage", "int16"),
        ("CharStorage", "int8"),
        ("ByteStorage", "uint8"),
        ("BoolStorage", "bool"),
        ("UntypedStorage", "uint8"),
    )
)
_SPECIAL = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_qtensor": "a quantised tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor without values (on the meta device)",
    "ComplexFloatStorage": "a tensor of complex numbers",
    "ComplexDoubleStorage": "a tensor of complex numbers",
    **dict.fromkeys(
        ("QInt8Storage", "QUInt8Storage", "QInt32Storage", "QUInt4x2Storage", "QUInt2x4Storage"),
        "a quantised tensor",
    ),
}


class Place(NamedTuple):
    """Where the bytes of a storage are: in a file, or in memory that was unpacked from one."""

    source: Path | bytearray
    offset: int
    size: int


@dataclass
class Storage:
    """The numbers behind one or more tensors; ``place`` is known once the container was read."""

    key: str
    dtype: torch.dtype
    size: int
    place: Place | None = None


@dataclass(frozen=True)
class PickledTensor:
    """A tensor as the pickle describes it, not yet checked against its storage."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Meant:
    """A name, and what calling it stands for."""

    name: str
    call: Callable[..., Any] | None = field(default=None, compare=False)


class Record(dict[str, Any]):
    """The attributes of an object of a class that is not here and not needed."""


class CheckpointMeaning:
    """Knows tensors, containers and records; refuses every other name.

    ``load_nested`` reads a storage that was pickled with a container of its own.
    """

    def __init__(
        self,
        asked: str,
        storage: Callable[[str, torch.dtype, int], Storage],
        load_nested: Callable[[bytes], Any],
    ) -> None:
        self._asked = asked
        self._storage = storage
        self._names = {**_NAMES, ("torch.storage", "_load_from_bytes"): load_nested}

    def named(self, module: str, name: str) -> Any:
        """A :class:`Meant`, dtype or storage kind; :class:`UnsafeFileError` for other names."""
        module = PYTHON_2.get(module, module)
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module in ("torch", "torch.storage", "torch.cuda") and name in _STORAGES:
            return Meant(name)
        if (module, name) in self._names:
            return Meant(name, self._names[module, name])
        package = module.split(".")[0]
        if name.isidentifier() and (package in CONFIG_PACKAGES or (module, name) in NAMESPACES):
            return Meant(name, _record)
        if name in PATHS and package == "pathlib":
            return Meant(name, lambda *parts: "/".join(map(str, parts)))
        if name in _SPECIAL and package == "torch":
            raise UnsafeFileError(
                f"{self._asked} with dense tensors of real numbers",
                _SPECIAL[name],
                "Save dense tensors: tensor.to_dense(), tensor.dequantize() or tensor.real.",
            )
        raise UnsafeFileError(
            self._asked,
            f"a pickle that needs {_shown(f'{module}.{name}')}, which is neither a tensor nor a "
            "container",
            "saebench reads no pickle that needs more; ask its author for a safetensors file.",
        )

    def called(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        """The value that the call stands for."""
        if not isinstance(function, Meant) or function.call is None:
            raise Damaged(f"a call of a {type(function).__name__}")
        return function.call(*arguments)

    def built(self, value: Any, state: Any) -> Any:
        """A record with its attributes; other states (of ordered dicts, parameters) say nothing."""
        if isinstance(value, Record):
            for part in state if isinstance(state, tuple) else (state,):
                if part is not None and not isinstance(part, dict):
                    raise Damaged("attributes that are no dict")
                value.update(part or {})
        elif not isinstance(value, dict | PickledTensor):
            raise Damaged(f"a state for a {type(value).__name__}")
        return value

    def persistent(self, key: Any) -> Storage:
        """The storage that the container keeps under the key."""
        kind, storage, name, _, size, *view = key
        if kind != "storage" or not isinstance(storage, Meant) or any(view):
            raise Damaged("something kept outside of the pickle that is no storage")
        return self._storage(str(name), _STORAGES[storage.name], _size(size))


def stored(tensor: PickledTensor, key: str, file: str) -> Stored:
    """The tensor in its place.

    Raises :class:`UnsafeFileError` when it claims more elements than its storage has.
    """
    place, itemsize = tensor.storage.place, tensor.dtype.itemsize
    count = math.prod(tensor.shape)
    end = (tensor.offset + span(tensor.shape, tensor.strides)) * itemsize if count else 0
    if place is None or max(end, count * itemsize) > place.size:
        raise UnsafeFileError(
            f"tensor {key!r:.200} of {file} as a dense array",
            f"shape {list(tensor.shape)} over a smaller or special storage",
            "Save dense tensors: tensor.to_dense().contiguous().",
        )
    offset = place.offset + tensor.offset * itemsize if count else 0
    strides = None if _dense(tensor.shape, tensor.strides) else tensor.strides
    if isinstance(place.source, bytearray):
        return HeldTensor(tensor.dtype, tensor.shape, place.source, offset, strides)
    return MappedTensor(tensor.dtype, tensor.shape, place.source, offset, strides)


def _shown(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}…"


def _dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def _size(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62:
        return value
    raise Damaged(f"a size that is {value!r:.40}")


def _sizes(values: Any) -> tuple[int, ...]:
    if isinstance(values, tuple | list) and len(values) <= MAX_DIMENSIONS:
        return tuple(map(_size, values))
    raise Damaged("sizes that are none")


def _record(*arguments: Any) -> Any:
    """An object that gets its attributes later, or the value that a member of an enum has."""
    if len(arguments) == 1 and isinstance(arguments[0], str | int | float):
        return arguments[0]
    return Record()


def _reconstructed(kind: Any, base: Any, state: Any) -> Any:
    if not isinstance(kind, Meant) or kind.call is not _record:
        raise Damaged("an object of a class that is no record")
    return Record()


def _ordered_dict(items: Any = ()) -> dict[Any, Any]:
    pairs = list(items.items() if isinstance(items, Mapping) else items)
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise Damaged("a dict of what are no pairs")
    if not all(isinstance(key, str | int | float | None) for key, _ in pairs):
        raise Damaged("a dict with keys that are no texts")
    return dict(pairs)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> PickledTensor:
    if not isinstance(storage, Storage):
        raise Damaged("a tensor without a storage")
    return _typed_tensor(storage, offset, shape, strides, None, None, storage.dtype)


def _typed_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, _: Any, __: Any, dtype: Any, *___: Any
) -> PickledTensor:
    sizes, steps = _sizes(shape), _sizes(strides)
    if not isinstance(storage, Storage) or len(sizes) != len(steps):
        raise Damaged("a tensor without a storage, or with strides of another shape")
    if dtype not in _DTYPES.values():
        raise Damaged("a tensor of a dtype that is none")
    return PickledTensor(storage, dtype, _size(offset), sizes, steps)


def _parameter(tensor: Any, *_: Any) -> PickledTensor:
    if not isinstance(tensor, PickledTensor):
        raise Damaged("a parameter that is no tensor")
    return tensor


def _subclass(rebuild: Any, kind: Any, arguments: Any, _: Any) -> PickledTensor:
    if not isinstance(rebuild, Meant) or rebuild.call not in (_tensor, _typed_tensor, _parameter):
        raise Damaged("a tensor of another class")
    made: PickledTensor = rebuild.call(*arguments)
    return made


def _text(value: Any, encoding: Any) -> bytes:
    """How pickles that Python 2 can read keep bytes."""
    if not isinstance(value, str) or encoding not in ("latin1", "latin-1"):
        raise Damaged("bytes in another encoding")
    return value.encode("latin-1")


def _elements(items: Any = ()) -> list[Any]:
    return list(items)


_DTYPES = {
    name: value
    for name in dir(torch)
    if isinstance(value := getattr(torch, name), torch.dtype) and not value.is_complex
}
_NAMES: dict[tuple[str, str], Callable[..., Any] | None] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("collections", "Counter"): _ordered_dict,
    ("builtins", "set"): _elements,
    ("builtins", "frozenset"): _elements,
    ("builtins", "list"): _elements,
    ("builtins", "dict"): _ordered_dict,
    ("builtins", "object"): None,
    ("copyreg", "_reconstructor"): _reconstructed,
    ("_codecs", "encode"): _text,
    ("torch", "Size"): _elements,
    ("torch", "device"): lambda kind, index=None: kind if index is None else f"{kind}:{index}",
    ("torch", "Tensor"): None,
    ("torch.nn.parameter", "Parameter"): None,
    ("torch.nn.parameter", "Buffer"): None,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _subclass,
}
