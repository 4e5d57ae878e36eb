"""The files of one checkpoint, read as if an enemy had written them.

Names and links may not lead out of the folder, configs are bounded before they are parsed, headers
are read before weights, and a pickle is opened only on request.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from saebench.errors import BadReferenceError, CheckpointError, UnsafeFileError
from saebench.weights import (
    StateDict,
    TensorInfo,
    dtype_name,
    is_pickle,
    is_weights,
    read_header,
    read_pickle,
    read_safetensors,
    refuse_pickle,
)

CONFIG_SUFFIXES = (".json", ".yaml", ".yml")

MAX_JSON_BYTES = 4 * 2**20  # the config of an SAE is a few kilobytes
MAX_JSON_DEPTH = 32
MAX_FILES = 50_000  # a folder with more is a file system, not a collection of checkpoints


@dataclass(frozen=True)
class CheckpointFiles:
    """The config and weight files of one folder, ``names`` relative to ``root``.

    ``allow_pickle`` admits ``.pt`` files, still with ``weights_only=True``. ``hint`` is the path that
    the checkpoint goes by (``org/repo/layer_12/width_16k``): never evidence of a format, but some
    formats keep layer and width nowhere else.
    """

    root: Path
    names: tuple[str, ...]
    allow_pickle: bool = False
    hint: str = ""

    def path(self, name: str) -> Path:
        """The path of one of the names.

        Raises :class:`UnsafeFileError` when the name or a link leads out of the folder, and
        :class:`CheckpointError` when there is no such file.
        """
        check_inside(name)
        path = self.root / name
        if not path.is_file():
            raise CheckpointError(
                f"file {name!r} in {self.root}",
                "a link to nothing" if path.is_symlink() else "no such file",
                f"Found there: {', '.join(self.names) or 'nothing'}.",
            )
        target, root = path.resolve(), self.root.resolve()
        if not any(target.is_relative_to(folder) for folder in (root, *_hub_blobs(root))):
            raise UnsafeFileError(
                f"file {name!r} in {self.root}",
                f"a link out of the folder, to {target}",
                "Copy the file into the folder if you trust it.",
            )
        return path

    def json(self, name: str) -> dict[str, Any]:
        """The object in a JSON file; raises :class:`CheckpointError` where there is none."""
        path = self.path(name)
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise _not_a_config(name, f"{size:,} bytes, above the limit of {MAX_JSON_BYTES:,}")
        try:
            value = json.loads(path.read_bytes())
            depth = _depth(value)
        except RecursionError:
            depth = MAX_JSON_DEPTH + 1
        except ValueError as error:
            raise CheckpointError(
                f"config {name} as JSON",
                f"{str(error).rstrip('.')} ({size:,} bytes)",
                "The file is damaged or truncated; fetch it again.",
            ) from error
        if depth > MAX_JSON_DEPTH:
            raise _not_a_config(name, f"nested deeper than {MAX_JSON_DEPTH} levels")
        if not isinstance(value, dict):
            raise _not_a_config(name, f"a {type(value).__name__} instead of an object")
        return value

    def header(self, name: str) -> dict[str, TensorInfo]:
        """Dtype and shape of every tensor in a weight file, without reading the weights."""
        if not is_pickle(name):
            return read_header(self.path(name))
        tensors = self.state_dict(name).tensors  # mapped: only what is touched is read
        return {k: TensorInfo(dtype_name(t.dtype), tuple(t.shape)) for k, t in tensors.items()}

    def state_dict(self, name: str) -> StateDict:
        """The tensors of a weight file.

        Raises :class:`UnsafeFileError` for a pickle that was not allowed or that needs more than
        ``weights_only=True``, and for a file whose declared sizes are not true.
        """
        if not is_pickle(name):
            return read_safetensors(self.path(name))
        if not self.allow_pickle:
            raise refuse_pickle(name)
        return read_pickle(self.path(name))

    def digests(self, names: Iterable[str] | None = None) -> dict[str, str]:
        """The SHA-256 of each file in hexadecimal, of all files or of those named."""
        found = {}
        for name in sorted(self.names if names is None else names):
            with self.path(name).open("rb") as file:
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


def list_files(root: Path) -> tuple[str, ...]:
    """The allowed files below ``root``, sorted; hidden and linked folders are not entered."""
    found: list[str] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(folder).relative_to(root)
        found += [(inside / name).as_posix() for name in names if is_allowed(name)]
        if len(found) > MAX_FILES:
            raise BadReferenceError(
                f"checkpoints below {root}",
                f"more than {MAX_FILES:,} files",
                "Reference a folder closer to the checkpoints.",
            )
    return tuple(sorted(found))


def group_checkpoints(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Each folder that directly holds weight files (``""`` is the root), and its base names."""
    folders: dict[str, list[str]] = {}
    for name in sorted(names):
        folder, _, base = name.rpartition("/")
        folders.setdefault(folder, []).append(base)
    return {
        folder: tuple(files)
        for folder, files in sorted(folders.items())
        if any(is_weights(file) for file in files)
    }


def find_checkpoints(root: Path) -> list[CheckpointFiles]:
    """Every folder from ``root`` down that holds weight files, sorted by path."""
    groups = group_checkpoints(list_files(root))
    return [CheckpointFiles(root / folder, files) for folder, files in groups.items()]


def _not_a_config(name: str, found: str) -> UnsafeFileError:
    return UnsafeFileError(
        f"config {name} of a checkpoint", found, "Reference the folder of a checkpoint."
    )


def _hub_blobs(root: Path) -> Iterator[Path]:
    """Where a snapshot in the hub's cache keeps the files that its links point to."""
    for folder in (root, *root.parents):
        blobs = folder.parent.parent / "blobs"
        if folder.parent.name == "snapshots" and blobs.is_dir() and not blobs.is_symlink():
            yield blobs


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0
