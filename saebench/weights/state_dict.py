"""The state dict in a file's content: taken out of its wrapping, with what lies beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from saebench.errors import CheckpointError, UnsafeFileError
from saebench.weights.plain import MAX_DEPTH, MAX_VALUES, NotPlain, is_plain, plain

PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
WRAPPERS = (
    "state_dict",
    "sae_state_dict",
    "model_state_dict",
    "params",
    "sae",
    "ae",
    "cc",
    "crosscoder",
    "autoencoder",
    "transcoder",
    "model",
)
TO_GO_ON = re.compile(r"optim|sched|rng|scaler_state|grad_scaler|\bema\b|ema_", re.IGNORECASE)

T = TypeVar("T")


@dataclass(frozen=True)
class StateDict:
    """The tensors of one weight file, without the prefixes that wrappers add.

    ``wrapper`` is the key they were stored under when the file held more than weights (keys joined
    by dots where there were several), and ``siblings`` the plain values stored beside them, nested
    ones too: a config, the step of a run. Dtypes and devices among them are strings.
    """

    tensors: Mapping[str, Tensor]
    wrapper: str | None = None
    siblings: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Content:
    """The parts of :class:`StateDict` before any tensor is read."""

    stored: Mapping[str, Any]
    wrapper: str | None
    siblings: Mapping[str, Any]


def find_state_dict(content: Any, name: str, tensor: type) -> Content:
    """The state dict in what a pickle holds, where a ``tensor`` stands for each tensor.

    Dicts of tensors inside it (``encoder: {weight: …}``) come out with dotted names. Raises
    :class:`CheckpointError` when there is none, or more than one.
    """
    path: list[str] = []
    beside: dict[str, Any] = {}
    while isinstance(content, dict) and len(path) < MAX_DEPTH:
        inner = _wrapping(content, tensor, name)
        if inner is None:
            break
        beside = {**{k: v for k, v in content.items() if k != inner}, **beside}
        path.append(inner)
        content = content[inner]
    if not _holds(content, tensor):
        keys = list(content)[:8] if isinstance(content, dict) else []
        raise CheckpointError(
            f"weights {name} as a state dict",
            f"a {type(content).__name__} {', '.join(f'{key!r:.80}' for key in keys)}".strip(),
            "Save module.state_dict(), not the module or a list.",
        )
    found = _flattened(content, tensor, name)
    found = without_prefixes(found, name)
    outer = {key: value for key, value in beside.items() if isinstance(value, tensor)}
    for key in outer:
        if key in found:
            raise CheckpointError(
                f"weights {name} with one tensor {key!r}",
                f"one beside the state dict and one in it (under {'.'.join(path)!r})",
                "Save the state dict alone.",
            )
    siblings = _siblings({**content, **beside}, name)
    return Content({**found, **outer}, ".".join(path) or None, siblings)


def without_prefixes(tensors: Mapping[str, T], name: str) -> dict[str, T]:
    """The tensors under the names they had before a wrapper prefixed them.

    Raises :class:`CheckpointError` when two of them get one name.
    """
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


def _wrapping(content: dict[Any, Any], tensor: type, name: str) -> str | None:
    """The key under which the state dict lies; None when the content is the state dict itself."""
    holding = [key for key, value in content.items() if _holds(value, tensor)]
    known = [key for key in WRAPPERS if key in holding]
    if len(known) > 1:
        raise CheckpointError(
            f"weights {name} with one state dict",
            f"several, under {', '.join(map(repr, known))}",
            "Save the one that belongs to the dictionary alone.",
        )
    if known:
        return known[0]
    direct = any(isinstance(value, tensor) for value in content.values())
    others = [key for key in holding if isinstance(key, str) and not TO_GO_ON.search(key)]
    return others[0] if not direct and len(others) == 1 and len(content) > 1 else None


def _holds(value: Any, tensor: type) -> bool:
    """Whether there is a tensor in a dict, or in a dict in it."""
    seen: set[int] = set()  # one dict may stand in many places, or in itself
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, tensor) and item is not value:
            return True
        if isinstance(item, dict) and id(item) not in seen:
            seen.add(id(item))
            pending += item.values()
    return False


def _flattened(content: Mapping[Any, Any], tensor: type, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    pending: list[tuple[str, Any, int]] = [("", content, 0)]
    for _ in range(MAX_VALUES):
        if not pending:
            return found
        key, value, depth = pending.pop()
        if isinstance(value, tensor):
            if key in found:
                raise CheckpointError(
                    f"weights {name} with one tensor {key!r:.200}",
                    "two of that name",
                    "Save the state dict of one module only.",
                )
            found[key] = value
        elif isinstance(value, dict) and depth < MAX_DEPTH:
            items = [
                (f"{key}.{inner}" if key else str(inner), item, depth + 1)
                for inner, item in value.items()
                if depth == 0 or not TO_GO_ON.search(str(inner))
            ]
            pending += reversed(items)
    raise CheckpointError(
        f"weights {name} with at most {MAX_VALUES:,} entries",
        "more",
        "Save the state dict alone.",
    )


def _siblings(content: Mapping[Any, Any], name: str) -> dict[str, Any]:
    """The plain values among the content; tensors and what training needs to go on are left out."""
    chosen = {key: value for key, value in content.items() if not TO_GO_ON.search(str(key))}
    try:
        found = plain(chosen, leave_out=lambda value: not is_plain(value))
    except NotPlain as error:
        raise UnsafeFileError(
            f"the values beside the tensors of {name}",
            str(error),
            "Save the state dict, and the config as JSON beside it.",
        ) from error
    assert isinstance(found, dict)
    return found
