"""Front matter edited key by key: the keys that are not ours keep their text, comments and order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from saebench.errors import OutputError


def merge_front(text: str, ours: Mapping[str, Any]) -> str:
    """The YAML ``text`` with each key of ``ours`` set to its value, new keys at the end.

    A key that already has the value is not rewritten. Raises :class:`OutputError` when the text is
    not a plain YAML mapping, or has aliases, which stand in the way of changing one key alone.
    """
    before = read_front(text)
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    added: list[str] = []
    spans = _spans(text)
    # from the bottom up, so that the line numbers above stay right
    for key, value in sorted(ours.items(), key=lambda item: -spans.get(item[0], (-1, -1))[0]):
        if key in before and before[key] == value:
            continue
        if key in spans:
            lines[slice(*spans[key])] = [dump_front({key: value})]
    for key, value in ours.items():
        if key not in spans:
            added.append(dump_front({key: value}))
    merged = "".join([*lines, *added])
    if read_front(merged) != {**before, **ours}:
        raise _damaged("changing our keys would change others")
    return merged


def read_front(text: str) -> dict[str, Any]:
    """The mapping that the YAML ``text`` holds, empty for none; raises :class:`OutputError`."""
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise _damaged("it has YAML aliases, which tie keys together")
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _damaged(" ".join(str(error).split())[:300]) from None
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise _damaged("it is not a mapping of keys to values")
    return data


def dump_front(data: Mapping[str, Any]) -> str:
    """``data`` as block-style YAML that ends in a line end."""
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=4096)


def _spans(text: str) -> dict[str, tuple[int, int]]:
    """The first line of each top-level key, and the line after its value."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise _damaged("it is written in braces")
    spans: dict[str, tuple[int, int]] = {}
    for key, value in root.value:
        if key.value in spans:
            raise _damaged(f"the key {key.value!r} is there twice")
        first = key.start_mark.line
        spans[key.value] = first, max(first, _last_line(value)) + 1
    return spans


def _last_line(node: yaml.Node) -> int:
    """The last line of a value: PyYAML ends block collections at the next token, past comments."""
    if isinstance(node, yaml.ScalarNode) or getattr(node, "flow_style", False):
        end = node.end_mark
        return end.line if end.column > 0 else end.line - 1
    children = node.value if isinstance(node, yaml.SequenceNode) else sum(node.value, ())
    return max((_last_line(child) for child in children), default=node.start_mark.line)


def _damaged(found: str) -> OutputError:
    return OutputError(
        "the front matter of the existing card",
        found,
        "Write it as plain YAML, one key per line at the left margin. The file was not changed.",
    )
