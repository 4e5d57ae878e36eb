"""The names in checkpoints' pickles and what they mean: tensors, containers, records of configs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from saebench.errors import UnsafeFileError
from saebench.weights.kinds import dtypes_by
from saebench.weights.pickle_program import MAX_LINE, Budget, Damaged
from saebench.weights.pickled_tensor import (
    DTYPES,
    PickledTensor,
    Storage,
    dense_tensor,
    parameter,
    size_of,
    typed_tensor,
)

MAX_NAME = 120  # characters of a name from a pickle shown in an error

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


@dataclass(frozen=True)
class Meant:
    """A name, and what calling it stands for."""

    name: str
    call: Callable[..., Any] | None = field(default=None, compare=False)


class Record(dict[str, Any]):
    """The attributes of an object of a class that is not here and not needed."""


class Unread:
    """A value of a kind that no dictionary needs: a date, a number of numpy's own."""


class CheckpointMeaning:
    """Knows tensors, containers and records; refuses every other name.

    ``load_nested`` reads a storage that was pickled with a container of its own.
    """

    def __init__(
        self,
        asked: str,
        storage: Callable[[str, torch.dtype, int], Storage],
        load_nested: Callable[[bytes], Any],
        budget: Budget,
    ) -> None:
        self._asked = asked
        self._storage = storage
        self._budget = budget
        self._names = {
            **_NAMES,
            **dict.fromkeys(_DICTS, self._dict),
            ("collections", "defaultdict"): lambda _=None, items=(): self._dict(items),
            ("torch.storage", "_load_from_bytes"): load_nested,
        }

    def named(self, module: str, name: str) -> Any:
        """A :class:`Meant`, dtype or storage kind; :class:`UnsafeFileError` for other names."""
        module = PYTHON_2.get(module, module)
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if module in ("torch", "torch.storage", "torch.cuda") and name in _STORAGES:
            return Meant(name)
        if (module, name) in self._names:
            return Meant(name, self._names[module, name])
        package = module.split(".")[0]
        if name.isidentifier() and (package in CONFIG_PACKAGES or (module, name) in NAMESPACES):
            return Meant(name, _record)
        if name in PATHS and package == "pathlib":
            return Meant(name, _path)
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
        for argument in arguments:
            self._budget.copy(argument)
        return function.call(*arguments)

    def built(self, value: Any, state: Any) -> Any:
        """A record with its attributes; other states (of ordered dicts, parameters) say nothing."""
        if isinstance(value, Record):
            for part in state if isinstance(state, tuple) and len(state) == 2 else (state,):
                if part is not None and not isinstance(part, dict):
                    raise Damaged("attributes that are no dict")
                self._budget.copy(part)
                if not all(isinstance(key, str) for key in part or {}):
                    raise Damaged("attributes whose names are no texts")
                value.update(part or {})
        elif not isinstance(value, dict | PickledTensor | Unread):
            raise Damaged(f"a state for a {type(value).__name__}")
        return value

    def persistent(self, key: Any) -> Storage:
        """The storage that the container keeps under the key."""
        if not isinstance(key, tuple | list) or not 5 <= len(key) <= 6:
            raise Damaged("something kept outside of the pickle that is no storage")
        kind, storage, name, _, size, *view = key
        if kind != "storage" or not isinstance(storage, Meant) or any(view):
            raise Damaged("something kept outside of the pickle that is no storage")
        return self._storage(storage_key(name), _STORAGES[storage.name], size_of(size))

    def _dict(self, items: Any = ()) -> dict[Any, Any]:
        if isinstance(items, dict):
            items = list(items.items())
        if not isinstance(items, list | tuple):
            raise Damaged("a dict of what are no pairs")
        made: dict[Any, Any] = {}
        for pair in items:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise Damaged("a dict of what are no pairs")
            made[self._budget.key(pair[0], len(made))] = pair[1]
        return made


def storage_key(value: Any) -> str:
    """The key of a storage; :class:`Damaged` when it is none."""
    if isinstance(value, int) and not isinstance(value, bool) and -(2**63) < value < 2**63:
        return str(value)
    return _short(value)


def _shown(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}…"


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) <= MAX_LINE:
        return value
    raise Damaged(f"a {type(value).__name__} where a short text belongs")


def _path(*parts: Any) -> str:
    return _short("/".join(map(_short, parts[:MAX_LINE])))


def _device(kind: Any, index: Any = None) -> str:
    return _short(kind) if index is None else _short(f"{_short(kind)}:{size_of(index)}")


def _unread(*_: Any) -> Unread:
    return Unread()


def _record(*arguments: Any) -> Any:
    """An object that gets its attributes later, or the value that a member of an enum has."""
    if len(arguments) == 1 and isinstance(arguments[0], str | int | float):
        return arguments[0]
    return Record()


def _reconstructed(kind: Any, base: Any, state: Any) -> Any:
    if not isinstance(kind, Meant) or kind.call is not _record:
        raise Damaged("an object of a class that is no record")
    return Record()


def _subclass(rebuild: Any, kind: Any, arguments: Any, _: Any) -> PickledTensor:
    if not isinstance(rebuild, Meant) or rebuild.call not in (
        dense_tensor,
        typed_tensor,
        parameter,
    ):
        raise Damaged("a tensor of another class")
    if not isinstance(arguments, tuple | list):
        raise Damaged("a tensor of another class, without arguments")
    made: PickledTensor = rebuild.call(*arguments)
    return made


def _text(value: Any, encoding: Any) -> bytes:
    """How pickles that Python 2 can read keep bytes."""
    if not isinstance(value, str) or encoding not in ("latin1", "latin-1"):
        raise Damaged("bytes in another encoding")
    return value.encode("latin-1")


def _elements(items: Any = ()) -> list[Any]:
    if not isinstance(items, list | tuple | set | frozenset):
        raise Damaged(f"the elements of a {type(items).__name__}")
    return list(items)


_DICTS = (("collections", "OrderedDict"), ("collections", "Counter"), ("builtins", "dict"))
_NAMES: dict[tuple[str, str], Callable[..., Any] | None] = {
    ("builtins", "set"): _elements,
    ("builtins", "frozenset"): _elements,
    ("builtins", "list"): _elements,
    **dict.fromkeys((("builtins", name) for name in ("int", "long", "float", "str", "bool")), None),
    ("builtins", "object"): None,
    ("copyreg", "_reconstructor"): _reconstructed,
    ("_codecs", "encode"): _text,
    ("torch", "Size"): _elements,
    ("torch", "device"): _device,
    ("torch", "Tensor"): None,
    ("numpy", "dtype"): _unread,
    ("numpy.core.multiarray", "scalar"): _unread,
    ("numpy._core.multiarray", "scalar"): _unread,
    ("datetime", "datetime"): _unread,
    ("datetime", "date"): _unread,
    ("datetime", "timedelta"): _unread,
    ("torch.nn.parameter", "Parameter"): None,
    ("torch.nn.parameter", "Buffer"): None,
    ("torch._utils", "_rebuild_tensor"): dense_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): dense_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): typed_tensor,
    ("torch._utils", "_rebuild_parameter"): parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _subclass,
}
