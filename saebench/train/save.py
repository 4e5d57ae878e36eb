"""Saving: a checkpoint's folder in one of the layouts, with our provenance and the training's history.

What a layout writes is in :mod:`saebench.train.layouts`; ``training.jsonl`` holds the history where there
is one. A folder appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file

from saebench.errors import OutputError
from saebench.sae import SAE
from saebench.train.layouts import Content, Layout, layout_in, layout_named
from saebench.train.layouts.content import HISTORY_FILE

PROBE_BYTES = 64 * 1024  # about what a configuration and a short history need
DEFAULT = "saebench"
_PIECE = bytes(2**20)


def save_checkpoint(
    sae: SAE,
    folder: str | Path,
    *,
    provenance: Mapping[str, Any] | None = None,
    history: Iterable[Mapping[str, Any]] = (),
    overwrite: bool = False,
    layout: str = DEFAULT,
) -> Path:
    """Save an SAE or crosscoder so that :func:`saebench.load_sae` reads it; returns the folder.

    ``layout`` is ``saebench`` (one source: the folder that SAELens v6 loads; several: our own),
    ``dictionary_learning`` (the folder of its forks for the hub) or ``open_interp`` (two models).
    Matrices are stored in ``sae.cfg.dtype``, vectors in float32; matrices that a conversion changed in
    float32, too, unless ``cfg.dtype`` holds them exactly. ``overwrite`` replaces a checkpoint of the same
    layout that is there, and keeps other files of its folder.
    Raises :class:`OutputError` when the folder is taken or cannot be written, or the dictionary has parts
    that the layout cannot express; nothing is written then.
    """
    kind = layout_named(layout)
    check_folder(folder, overwrite=overwrite, layout=layout)
    asked, folder = Path(folder), _target(folder)
    content = kind.content(sae, provenance or {})
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
            new = Path(scratch) / "new"
            new.mkdir()
            _write(new, kind, content, history)
            _put(new, folder, Path(scratch) / "old", kind)
    except OSError as error:
        raise OutputError(
            f"saving a checkpoint in {asked}", str(error), "Choose a folder that can be written."
        ) from error
    return asked


def check_layout(sae: SAE, layout: str) -> None:
    """Raise :class:`OutputError` now if ``layout`` has no place for parts of an SAE or crosscoder.

    It looks at what the dictionary is, not at its weights: before training as well as after it.
    """
    layout_named(layout).check(sae)


def check_folder(
    folder: str | Path,
    *,
    overwrite: bool = False,
    n_bytes: int = PROBE_BYTES,
    layout: str = DEFAULT,
) -> None:
    """Raise :class:`OutputError` now if saving ``n_bytes`` in ``folder`` would fail later.

    So many bytes are written beside it, synchronised and removed again: permissions say little to
    root, on a full disk, or in a file system that takes no files. Leaves nothing behind.
    """
    try:
        _check_taken(Path(folder), overwrite, layout_named(layout))
        target = _target(folder)
        existing = next(path for path in target.parents if path.exists())
        _try_writing(existing, target.name, n_bytes)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise OutputError(
            f"saving a checkpoint of {n_bytes:,} bytes in {folder}",
            f"it cannot be written: {error}",
            "Choose a folder that can be written and has the space.",
        ) from error


def _target(folder: str | Path) -> Path:
    """The absolute place behind any links: a folder cannot be renamed onto a link."""
    return Path(os.path.realpath(folder))


def _try_writing(parent: Path, name: str, n_bytes: int) -> None:
    """Write as :func:`save_checkpoint` does, into a hidden folder in ``parent``, and remove it."""
    with (
        tempfile.TemporaryDirectory(prefix=f".{name}-", dir=parent) as scratch,
        (Path(scratch) / "weights").open("xb") as handle,
    ):
        for start in range(0, n_bytes, len(_PIECE)):
            handle.write(_PIECE[: n_bytes - start])
        handle.flush()
        os.fsync(handle.fileno())  # some file systems find out only now that they are full


def _check_taken(folder: Path, overwrite: bool, layout: Layout) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite or not folder.is_dir():
            raise OutputError(
                f"a new checkpoint in {folder}",
                "it exists" if folder.is_dir() else "a file of that name",
                "Choose another folder, or replace it: overwrite = true in the recipe, "
                "--overwrite on the command line.",
            )
        _check_replaceable(folder, layout)
    if folder.is_mount():
        raise OutputError(
            f"a new checkpoint in {folder}",
            "a mount point, which nothing can be renamed to",
            "Choose a folder inside it.",
        )


def _check_replaceable(folder: Path, layout: Layout) -> None:
    """Raise :class:`OutputError` for a folder that holds anything but a checkpoint of the layout.

    One config beside the weights of another layout would be taken for theirs.
    """
    there = layout_in(folder)
    if there is layout:
        return
    if there is not None:
        found = f"a checkpoint in layout {there.name}"
    elif not (folder / layout.config).is_file():
        found = f"a folder without {layout.config}, so no checkpoint"
    else:
        needed = " and ".join(sorted(layout.told_by))
        found = f"a {layout.config} without {needed}, so no checkpoint of this layout"
    raise OutputError(
        f"overwriting a checkpoint of layout {layout.name} in {folder}",
        found,
        "Choose another folder.",
    )


def _write(
    new: Path, layout: Layout, content: Content, history: Iterable[Mapping[str, Any]]
) -> None:
    """Fill the empty folder ``new``."""
    save_file(dict(content.tensors), new / layout.weights)
    (new / layout.weights).chmod(_ordinary_mode())
    for name, data in content.documents.items():
        if name.endswith(".yaml"):
            text = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True)
        else:
            text = json.dumps(data, indent=2, allow_nan=False) + "\n"
        (new / name).write_text(text, encoding="utf-8")
    if rows := "".join(json.dumps(row, allow_nan=False) + "\n" for row in history):
        (new / HISTORY_FILE).write_text(rows, encoding="utf-8")


def _put(new: Path, folder: Path, old: Path, layout: Layout) -> None:
    """Rename ``new`` to ``folder``; what was there goes to ``old``, but for files that are not ours."""
    if folder.is_dir() and any(folder.iterdir()):
        for item in folder.iterdir():
            if item.name in layout.files:
                continue
            copy = shutil.copytree if item.is_dir() else shutil.copy2
            copy(item, new / item.name)
        folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            old.rename(folder)
            raise
    else:
        new.rename(folder)


def _ordinary_mode() -> int:
    """The permissions that a new file gets here; safetensors' writer makes its files private."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
