"""The state dict in a file's content: taken out of its wrapping, with what lies beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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
MAX_NAME = 1000  # characters of one tensor's name
MAX_NAMES = 32 * 2**20  # characters of all of them together

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
    holding = _holding(content, tensor)
    path: list[str] = []
    outside: list[dict[Any, Any]] = []
    while isinstance(content, dict) and len(path) < MAX_DEPTH:
        inner = _wrapping(content, tensor, name, holding)
        if inner is None or any(content is known for known in outside):
            break
        path.append(inner)
        outside.append(content)
        content = content[inner]
    beside: dict[Any, Any] = {}
    for inner, around in zip(reversed(path), reversed(outside), strict=True):
        beside.update((key, value) for key, value in around.items() if key != inner)
    if not (isinstance(content, dict) and id(content) in holding):
        keys = list(content)[:8] if isinstance(content, dict) else []
        raise CheckpointError(
            f"weights {name} as a state dict",
            f"a {type(content).__name__} {', '.join(f'{key!r:.80}' for key in keys)}".strip(),
            "Save module.state_dict(), not the module or a list.",
        )
    found = _flattened(content, tensor, name, holding)
    found = without_prefixes(found, name)
    outer: dict[str, Any] = {}
    for label, value in beside.items():
        if not isinstance(value, tensor):
            continue
        key = str(label)
        if key in found or key in outer:
            raise CheckpointError(
                f"weights {name} with one tensor {key!r}",
                f"one beside the state dict and one in it (under {'.'.join(path)!r})",
                "Save the state dict alone.",
            )
        outer[key] = value
    siblings = _siblings({**content, **beside}, name)
    return Content({**found, **outer}, ".".join(path) or None, siblings)


def without_prefixes(tensors: Mapping[str, T], name: str) -> dict[str, T]:
    """The tensors under the names they had before a wrapper prefixed them.

    Raises :class:`CheckpointError` when two of them get one name.
    """
    found: dict[str, T] = {}
    for key, tensor in tensors.items():
        start = 0
        while prefix := next((part for part in PREFIXES if key.startswith(part, start)), None):
            start += len(prefix)
        short = key[start:]
        if short in found:
            raise CheckpointError(
                f"weights {name}",
                f"{key!r} and another tensor are both {short!r} without their prefixes",
                "Save the state dict of one module only.",
            )
        found[short] = tensor
    return found


def _wrapping(content: dict[Any, Any], tensor: type, name: str, dicts: set[int]) -> str | None:
    """The key under which the state dict lies; None when the content is the state dict itself."""
    holding = [key for key, value in content.items() if id(value) in dicts]
    known = [key for key in WRAPPERS if id(content.get(key)) in dicts]
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


def _holding(content: Any, tensor: type) -> set[int]:
    """The ids of those dicts in the content that hold a tensor, or a dict that does.

    One dict may stand in many places, or in itself: each is looked through once.
    """
    holders: dict[int, list[int]] = {}  # of each dict, the dicts that it stands in
    found: set[int] = set()
    pending = [content] if isinstance(content, dict) else []
    seen = {id(item) for item in pending}
    while pending:
        item = pending.pop()
        for value in item.values():
            if isinstance(value, tensor):
                found.add(id(item))
            elif isinstance(value, dict):
                holders.setdefault(id(value), []).append(id(item))
                if id(value) not in seen:
                    seen.add(id(value))
                    pending.append(value)
    rising = list(found)
    while rising:
        above = set(holders.pop(rising.pop(), ())) - found
        found |= above
        rising += above
    return found


def _flattened(
    content: Mapping[Any, Any], tensor: type, name: str, holding: set[int]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    left = MAX_NAMES
    for key, value in _walked(content, tensor, name, holding):
        left -= len(key)
        if len(key) > MAX_NAME or left < 0:
            raise CheckpointError(
                f"weights {name} with tensors of short names",
                f"{key[:40]!r}… of {len(key):,} characters, or more than {MAX_NAMES:,} in all",
                "Save the state dict alone.",
            )
        if key in found:
            raise CheckpointError(
                f"weights {name} with one tensor {key!r:.200}",
                "two of that name",
                "Save the state dict of one module only.",
            )
        found[key] = value
    return found


def _walked(
    content: Mapping[Any, Any], tensor: type, name: str, holding: set[int]
) -> Iterator[tuple[str, Any]]:
    """The tensors in order, under the keys of the dicts that they are in joined by dots."""
    pending = [("", iter(content.items()))]
    for _ in range(2 * MAX_VALUES):  # an entry, and the end of a dict, each
        if not pending:
            return
        prefix, items = pending[-1]
        entry = next(items, None)
        if entry is None:
            pending.pop()
            continue
        inner, value = entry
        if len(pending) > 1 and TO_GO_ON.search(str(inner)):
            continue
        if isinstance(value, tensor):
            yield f"{prefix}{inner}", value
        elif id(value) in holding and len(pending) < MAX_DEPTH:
            pending.append((f"{prefix}{inner}."[: 2 * MAX_NAME], iter(value.items())))
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
