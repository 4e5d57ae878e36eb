"""Changes to a checkpoint's folder that a careless or hostile author could have made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from saebench.settings import ROLES, SETTINGS
from tests.adapters.rewriting import (
    files_in,
    load_config,
    load_weights,
    save_config,
    save_weights,
    state_dicts,
)

Change = Callable[[Path, dict[str, Any]], dict[str, Any]]

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    7,
    20,
    2**31,
    2**39,
    2**63,
    -(2**63),
    10**400,
    0.5,
    -0.0,
    1e-320,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "4",
    "relu",
    "topk",
    "batchtopk",
    "jumprelu",
    "layer_norm",
    "none",
    "crosscoder",
    "\x1b[31m\x00\u202e",
    "é" * 5000,
    "../../etc/passwd",
    "blocks.1.hook_resid_post",
    [],
    {},
    [[[[]]]],
    [1, "a", None],
    [8, 20],
    ["a", "a"],
    {"a": {"b": [1]}},
    {"layer": 3},
)
NAMES = (
    "k",
    "d_in",
    "d_sae",
    "layer",
    "threshold",
    "dict_size",
    "activation",
    "dtype",
    "\x00",
    "a.b",
)
TEXTS = (
    *("", "0", "1", "3", "-1", "1e400", "nan", "0.3", "0.1,0.2", "a,,b", "99999999999999999999"),
    *("true", "false", "relu", "topk", "batchtopk", "jumprelu", "gated", "abstopk", "estimate"),
    *("d_in,d_sae", "d_sae,d_in", "models", "layers", "layer_norm", "none", "difference_ftb"),
    *("\x1b[31m", "W_enc", "W_dec", "b_dec", "x" * 3000),
)


def any_of_them() -> st.SearchStrategy[list[Change]]:
    """One to three changes of any kind."""
    return st.lists(
        st.one_of(configs(), tensors(), tensors(), raw(), choices()), min_size=1, max_size=3
    )


def configs() -> st.SearchStrategy[Change]:
    """Values of a config replaced, keys dropped or added."""
    kinds = st.sampled_from(("value", "value", "value", "drop", "add"))
    return st.builds(
        _config,
        st.floats(0, 1),
        st.floats(0, 1),
        kinds,
        st.sampled_from(VALUES),
        st.sampled_from(NAMES),
    )


def tensors() -> st.SearchStrategy[Change]:
    """Tensors dropped, renamed, or of another shape, dtype or value."""
    return st.builds(
        _tensor,
        st.floats(0, 1),
        st.floats(0, 1),
        st.sampled_from(sorted(TENSOR_CHANGES)),
        st.floats(0, 1),
    )


def raw() -> st.SearchStrategy[Change]:
    """Bytes of a weight file flipped, cut off or copied."""
    return st.builds(
        _raw,
        st.floats(0, 1),
        st.floats(0, 1),
        st.sampled_from(("flip", "cut", "copy", "end")),
        st.integers(1, 255),
    )


def choices() -> st.SearchStrategy[Change]:
    """Settings and roles that somebody might try."""
    return st.builds(
        _choose,
        st.dictionaries(st.sampled_from(sorted(SETTINGS)), st.sampled_from(TEXTS), max_size=2),
        st.dictionaries(st.sampled_from(sorted(ROLES)), st.floats(0, 1), max_size=2),
    )


def _pick(items: list[Any], where: float) -> Any:
    return items[min(int(where * len(items)), len(items) - 1)]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a config with every key in it."""
    if isinstance(value, dict | list):
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from _places(inner)


def _config(which: float, where: float, kind: str, value: Any, name: str) -> Change:
    def change(folder: Path, arguments: dict[str, Any]) -> dict[str, Any]:
        files = files_in(folder, weights=False)
        if not files:
            return arguments
        path = _pick(files, which)
        data = load_config(path)
        places = list(_places(data))
        if kind == "add" or not places:
            if isinstance(data, dict):
                data[name] = value
        else:
            container, key = _pick(places, where)
            if kind == "drop":
                del container[key]
            else:
                container[key] = value
        save_config(data, path)
        return arguments

    return change


def _filled(value: float) -> Callable[[Tensor, float], Tensor]:
    return lambda tensor, _: (
        torch.full_like(tensor, value) if tensor.is_floating_point() else tensor
    )


def _some(value: float) -> Callable[[Tensor, float], Tensor]:
    def changed(tensor: Tensor, where: float) -> Tensor:
        flat = tensor.clone().reshape(-1)
        if flat.numel() and flat.is_floating_point():
            flat[min(int(where * flat.numel()), flat.numel() - 1)] = value
        return flat.reshape(tensor.shape)

    return changed


TENSOR_CHANGES: dict[str, Callable[[Tensor, float], Tensor] | None] = {
    "drop": None,
    "rename": None,
    "swap": None,
    "transpose": lambda t, _: t.transpose(0, -1).contiguous() if t.ndim > 1 else t,
    "flat": lambda t, _: t.reshape(-1),
    "more dimensions": lambda t, _: t[None],
    "last dimension of one": lambda t, _: t[..., None],
    "scalar": lambda t, _: t.reshape(-1)[0].clone() if t.numel() else t,
    "no rows": lambda t, _: t[:0] if t.ndim else t,
    "one row": lambda t, _: t[:1] if t.ndim else t,
    "no columns": lambda t, _: t[..., :0] if t.ndim else t,
    "twice the rows": lambda t, _: torch.cat([t, t]) if t.ndim else t,
    "wider": lambda t, _: torch.cat([t, t], -1) if t.ndim else t,
    "int8": lambda t, _: t.to(torch.int8),
    "int64": lambda t, _: t.to(torch.int64),
    "bool": lambda t, _: t.to(torch.bool),
    "float64": lambda t, _: t.to(torch.float64),
    "float16": lambda t, _: t.to(torch.float16),
    "float8": lambda t, _: t.float().to(torch.float8_e4m3fn),
    "complex": lambda t, _: t.to(torch.complex64),
    "large": lambda t, _: t.double() * 1e300,
    "zero": _filled(0.0),
    "-1": _filled(-1.0),
    "NaN": _filled(float("nan")),
    "one NaN": _some(float("nan")),
    "one infinite": _some(float("inf")),
    "one zero": _some(0.0),
    "one negative": _some(-2.0),
    "one huge": _some(3e38),
}


def _tensor(which: float, where: float, kind: str, more: float) -> Change:
    def change(folder: Path, arguments: dict[str, Any]) -> dict[str, Any]:
        files = files_in(folder, weights=True)
        path = _pick(files, which)
        try:
            content = load_weights(path)
            found = _pick(list(state_dicts(content)), more)
        except Exception:  # configs pickled as objects, or an earlier change
            return arguments
        keys = [key for key, item in found.items() if isinstance(item, Tensor)]
        key, other = _pick(keys, where), _pick(keys, more)
        made = TENSOR_CHANGES[kind]
        if made is not None:
            found[key] = made(found[key], more)
        elif kind == "swap":
            found[key], found[other] = found[other], found[key]
        else:
            taken = found.pop(key)
            if kind == "rename":
                found[
                    _pick(["W_enc", "b_enc", f"{key}.x", "threshold", "state_dict", other], more)
                ] = taken
        try:
            save_weights(content, path)
        except (TypeError, ValueError, RuntimeError, KeyError):  # the file cannot hold that dtype
            return arguments
        return arguments

    return change


def _raw(which: float, where: float, kind: str, value: int) -> Change:
    def change(folder: Path, arguments: dict[str, Any]) -> dict[str, Any]:
        path = _pick(files_in(folder, weights=True), which)
        data = bytearray(path.read_bytes())
        at = min(int(where**2 * len(data)), max(len(data) - 1, 0))
        if kind == "flip" and data:
            data[at] ^= value
        elif kind == "cut":
            del data[at : at + value]
        elif kind == "copy":
            data[at : at + value] = data[: value // 2]
        elif kind == "end":
            del data[int((1 - where**2) * len(data)) :]
        path.write_bytes(data)
        return arguments

    return change


def _choose(given: dict[str, str], roles: dict[str, float]) -> Change:
    def change(folder: Path, arguments: dict[str, Any]) -> dict[str, Any]:
        names: list[str] = ["W_enc", "W_dec", "nothing"]
        for path in files_in(folder, weights=True):
            try:
                names += [key for found in state_dicts(load_weights(path)) for key in found]
            except Exception:
                continue
        mapped = {role: str(_pick(names, where)) for role, where in roles.items()}
        return {
            **arguments,
            "settings": {**arguments.get("settings", {}), **given},
            "tensors": {**arguments.get("tensors", {}), **mapped},
        }

    return change
