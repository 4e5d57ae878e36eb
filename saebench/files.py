"""The files of one checkpoint, read as if an enemy had written them.

Names and links may not lead out of the folder, configs are bounded before they are parsed, headers
are read before weights, and a pickle is opened only on request.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from saebench.errors import BadReferenceError, CheckpointError, UnsafeFileError
from saebench.weights import (
    StateDict,
    TensorInfo,
    is_pickle,
    is_weights,
    read_header,
    read_weights,
    refuse_pickle,
)
from saebench.weights.kinds import unreadable
from saebench.weights.plain import MAX_DEPTH, NotPlain, TooDeep, plain

CONFIG_SUFFIXES = (".json", ".yaml", ".yml")

MAX_CONFIG_BYTES = 4 * 2**20  # the config of an SAE is a few kilobytes
MAX_EVENTS = 100_000  # values, and beginnings and ends of lists and mappings, in a YAML file
MAX_NUMBER = 400  # characters of a number in YAML: more than any float has, and quick to convert
MAX_FILES = 50_000  # a folder with more is a file system, not a collection of checkpoints


@dataclass(frozen=True)
class CheckpointFiles:
    """The config and weight files of one folder, ``names`` relative to ``root``.

    ``allow_pickle`` admits ``.pt`` and ``.pkl`` files, read as data: what they name is never called.
    ``hint`` is the path that the checkpoint goes by (``org/repo/layer_12/width_16k``): never evidence
    of a format, but some formats keep layer and width nowhere else. In an ``outline`` matrices have
    shapes and no values, so that nothing large is read.
    """

    root: Path
    names: tuple[str, ...]
    allow_pickle: bool = False
    hint: str = ""
    outline: bool = False
    _headers: dict[str, dict[str, TensorInfo]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def path(self, name: str) -> Path:
        """The path of one of the names.

        Raises :class:`UnsafeFileError` when the name or a link leads out of the folder, and
        :class:`CheckpointError` when there is no such file, or none that may be looked at.
        """
        check_inside(name)
        path = self.root / name
        with _reading(name):
            if not path.is_file():
                raise CheckpointError(
                    f"file {name!r} in {self.root}",
                    _what_else(path),
                    f"Found there: {', '.join(self.names[:20]) or 'nothing'}.",
                )
            target, root = path.resolve(), self.root.resolve()
            inside = any(target.is_relative_to(folder) for folder in (root, *_hub_blobs(root)))
        if not inside:
            raise UnsafeFileError(
                f"file {name!r} in {self.root}",
                f"a link out of the folder, to {target}",
                "Copy the file into the folder if you trust it.",
            )
        return path

    def json(self, name: str) -> dict[str, Any]:
        """The object in a JSON file; raises :class:`CheckpointError` where there is none."""
        return self._config(name, "JSON", _parse_json)

    def yaml(self, name: str) -> dict[str, Any]:
        """The mapping in a YAML file; raises :class:`CheckpointError` where there is none.

        Anchors and aliases (which multiply) and tags (which construct) are refused.
        """
        return self._config(name, "YAML", _parse_yaml)

    def _config(self, name: str, kind: str, parse: Callable[[str], Any]) -> dict[str, Any]:
        path = self.path(name)
        with _reading(name), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(MAX_CONFIG_BYTES + 1)
        if max(size, len(content)) > MAX_CONFIG_BYTES:
            raise _not_a_config(name, f"{size:,} bytes, above the limit of {MAX_CONFIG_BYTES:,}")
        try:
            value = plain(parse(content.decode("utf-8-sig")))
        except (TooDeep, RecursionError):
            raise _not_a_config(name, f"nested deeper than {MAX_DEPTH} levels") from None
        except NotPlain as error:
            raise _not_a_config(name, str(error)) from error
        except (ValueError, OverflowError, yaml.YAMLError) as error:
            raise CheckpointError(
                f"config {name} as {kind}",
                f"{' '.join(str(error).split()).rstrip('.')} ({size:,} bytes)",
                "The file is damaged or truncated; fetch it again.",
            ) from error
        if not isinstance(value, dict):
            raise _not_a_config(name, f"a {type(value).__name__} instead of an object")
        return value

    def header(self, name: str) -> dict[str, TensorInfo]:
        """Dtype and shape of every tensor in a weight file, without reading the weights.

        Raises what :meth:`state_dict` raises.
        """
        path = self._weights(name)
        if name not in self._headers:  # every adapter looks, and a gzipped pickle is long to unpack
            with _reading(name):
                self._headers[name] = read_header(path)
        return dict(self._headers[name])

    def state_dict(self, name: str) -> StateDict:
        """The tensors of a weight file, each read when it is asked for.

        Raises :class:`UnsafeFileError` for a pickle that was not allowed or that needs more than
        tensors, containers and configs, and for a file whose declared sizes are not true.
        """
        path = self._weights(name)
        with _reading(name):
            return read_weights(path, outline=self.outline)

    def _weights(self, name: str) -> Path:
        if is_pickle(name) and not self.allow_pickle:
            raise refuse_pickle(name)
        return self.path(name)

    def sizes(self, names: Iterable[str] | None = None) -> dict[str, int]:
        """The bytes of each file, of all files or of those named."""
        chosen = sorted(self.names if names is None else names)
        found = {}
        for name in chosen:
            with _reading(name):
                found[name] = self.path(name).stat().st_size
        return found

    def digests(self, names: Iterable[str] | None = None) -> dict[str, str]:
        """The SHA-256 of each file in hexadecimal, of all files or of those named."""
        found = {}
        for name in sorted(self.names if names is None else names):
            with _reading(name), self.path(name).open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
        return found


def check_inside(name: str) -> None:
    """Raise :class:`UnsafeFileError` for a relative name that leads out of its folder."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or not name.isprintable():
        raise UnsafeFileError(
            "a file name inside the checkpoint's folder",
            repr(name),
            "Absolute names, '..', backslashes and control characters are refused.",
        )


def is_allowed(name: str) -> bool:
    """Whether the suffix is one that a checkpoint is made of."""
    return is_weights(name) or name.lower().endswith(CONFIG_SUFFIXES)


def list_files(root: Path, wanted: Callable[[str], bool] = is_allowed) -> tuple[str, ...]:
    """The allowed files below ``root``, sorted; hidden and linked folders are not entered.

    Names with control characters, which could not even be shown, are left out. Raises
    :class:`CheckpointError` when ``root`` may not be listed.
    """

    def refused(error: OSError) -> None:
        if error.filename == os.fspath(root):
            raise unreadable(root.name, error) from error

    found: list[str] = []
    for folder, folders, names in os.walk(root, onerror=refused):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(folder).relative_to(root)
        paths = ((inside / name).as_posix() for name in names if wanted(name))
        found += [path for path in paths if path.isprintable()]
        if len(found) > MAX_FILES:
            raise BadReferenceError(
                f"checkpoints below {root}",
                f"more than {MAX_FILES:,} files",
                "Reference a folder closer to the checkpoints.",
            )
    return tuple(sorted(found))


def _not_a_config(name: str, found: str) -> UnsafeFileError:
    return UnsafeFileError(
        f"config {name} of a checkpoint", found, "Reference the folder of a checkpoint."
    )


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """What the system refuses, as an error that names the file."""
    try:
        yield
    except OSError as error:
        raise unreadable(name, error) from error


def _what_else(path: Path) -> str:
    """What a path is that is no file."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a link to nothing" if path.is_symlink() else "no such file"
    return "a folder" if stat.S_ISDIR(mode) else "not a regular file"


def _hub_blobs(root: Path) -> Iterator[Path]:
    """Where a snapshot in the hub's cache keeps the files that its links point to."""
    for folder in (root, *root.parents):
        blobs = folder.parent.parent / "blobs"
        if folder.parent.name == "snapshots" and blobs.is_dir() and not blobs.is_symlink():
            yield blobs


class _YamlLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Plain values only: no key twice, and dates as the text they were written in."""


def _construct_mapping(loader: _YamlLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    return _no_key_twice(
        [
            (_key(loader, key), loader.construct_object(value, deep=True))
            for key, value in node.value
        ]
    )


def _construct_text(loader: _YamlLoader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


def _construct_int(loader: _YamlLoader, node: yaml.ScalarNode) -> Any:
    return _number(loader, node, loader.construct_yaml_int)


def _construct_float(loader: _YamlLoader, node: yaml.ScalarNode) -> Any:
    return _number(loader, node, loader.construct_yaml_float)


def _number(loader: _YamlLoader, node: yaml.ScalarNode, construct: Callable[[Any], Any]) -> Any:
    """A number, or the text of one in base 60 (``1:30``), which YAML 1.2 reads as text."""
    text = str(loader.construct_scalar(node))
    if ":" in text:
        return text
    if len(text) > MAX_NUMBER:
        raise NotPlain(f"a number of {len(text):,} characters")
    return construct(node)


def _key(loader: _YamlLoader, node: yaml.Node) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        raise NotPlain("a list or mapping as a key")
    return loader.construct_object(node)


_YamlLoader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
_YamlLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_YamlLoader.add_constructor("tag:yaml.org,2002:float", _construct_float)
_YamlLoader.add_constructor("tag:yaml.org,2002:timestamp", _construct_text)
_YamlLoader.add_constructor("tag:yaml.org,2002:merge", _construct_text)
_YamlLoader.add_constructor("tag:yaml.org,2002:value", _construct_text)


def _parse_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_no_key_twice)


def _parse_yaml(text: str) -> Any:
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_YamlLoader)):
        if count >= MAX_EVENTS:
            raise NotPlain(f"more than {MAX_EVENTS:,} values, lists and mappings")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise NotPlain("an anchor or alias, which could multiply what it names")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise NotPlain(f"the tag {tag!r:.80}, which asks for more than plain values")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise TooDeep(f"nested deeper than {MAX_DEPTH} levels")
    return yaml.load(text, Loader=_YamlLoader)


def _no_key_twice(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = Counter(key for key, _ in pairs)
        twice = seen.most_common(1)[0][0]
        raise NotPlain(f"the key {twice!r:.80} twice, so that readers may disagree about it")
    return found
