"""Checkpoints taken apart and written again: the configs and weight files of a copied golden case."""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from saebench.weights import is_weights


def files_in(folder: Path, *, weights: bool) -> list[Path]:
    """The weight files of a folder, or the others."""
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and is_weights(p.name) == weights]


def load_config(path: Path) -> Any:
    """What a JSON or YAML file holds; an empty table for YAML with objects in it."""
    if path.suffix == ".json":
        return json.loads(path.read_text())
    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError:
        return {}


def save_config(data: Any, path: Path) -> None:
    """Write it as its suffix says; NaN and infinity as Python's json writes them."""
    path.write_text(json.dumps(data) if path.suffix == ".json" else yaml.safe_dump(data))


def load_weights(path: Path) -> Any:
    """The content of a weight file; raises what the library raises for pickled objects."""
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".npz":
        with numpy.load(path) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    return torch.load(path, weights_only=True)


def save_weights(content: Any, path: Path) -> None:
    """Write it as its suffix says; raises where such a file cannot hold a dtype."""
    if path.suffix == ".safetensors":
        save_file({key: item.clone().contiguous() for key, item in content.items()}, path)
    elif path.suffix == ".npz":
        numpy.savez(path, **{key: item.numpy() for key, item in content.items()})
    else:
        torch.save(content, path)


def state_dicts(content: Any) -> Iterator[dict[Any, Any]]:
    """Every table with tensors in it, however deep."""
    if isinstance(content, dict):
        if any(isinstance(item, Tensor) for item in content.values()):
            yield content
        for item in content.values():
            yield from state_dicts(item)


def change_tensors(folder: Path, change: Callable[[str, Tensor], Tensor | None]) -> None:
    """Every tensor of every weight file as ``change`` gives it, without those that become None."""
    for path in files_in(folder, weights=True):
        content = load_weights(path)
        for found in state_dicts(content):
            for key, item in list(found.items()):
                if isinstance(item, Tensor):
                    found[key] = change(key, item)
                    if found[key] is None:
                        del found[key]
        save_weights(content, path)


def change_configs(folder: Path, change: Callable[[Any], Any]) -> None:
    """Every number, text and null of every config, however deep, as ``change`` gives it."""

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: changed(inner) for key, inner in value.items()}
        return [changed(inner) for inner in value] if isinstance(value, list) else change(value)

    for path in files_in(folder, weights=False):
        save_config(changed(load_config(path)), path)


def enlarge(folder: Path, factor: int, d_in: int = 8, d_sae: int = 20) -> None:
    """The golden case with all widths and numbers of latents multiplied, values repeated."""
    sizes = {d_in: d_in * factor, d_sae: d_sae * factor}

    def tiled(_: str, tensor: Tensor) -> Tensor:
        for dim, size in enumerate(tensor.shape):
            if size in sizes:
                tensor = torch.cat([tensor] * factor, dim)
        return tensor

    change_tensors(folder, tiled)
    change_configs(folder, lambda value: sizes.get(value, value) if type(value) is int else value)


def fill_archive_with_nan(path: Path, at_least: int) -> None:
    """NaN in every float32 storage of a torch archive that has so many bytes.

    The way into a file that holds an object beside its tensors, which only its library can unpickle.
    """
    with zipfile.ZipFile(path) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    nan = struct.pack("<f", math.nan)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            spoilt = "/data/" in name and len(data) >= at_least
            archive.writestr(name, nan * (len(data) // 4) if spoilt else data)
