"""Saving: the folder that SAELens v6 loads for inference, with our provenance in one more key.

``sae_weights.safetensors`` and ``cfg.json``; ``training.jsonl`` holds the history where there is one.
A folder appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from saebench._version import __version__
from saebench.activations import JumpReLU, ReLU, TopK
from saebench.adapters.saelens.sae import CONFIG_FILE, LAYOUT_VERSION, PROVENANCE_KEY, WEIGHT_FILE
from saebench.errors import OutputError
from saebench.sae import SAE
from saebench.sae.normalization import ConstantNorm, LayerNorm, Normalization

HISTORY_FILE = "training.jsonl"
OWN_FILES = (CONFIG_FILE, WEIGHT_FILE, HISTORY_FILE)
PROBE_BYTES = 64 * 1024  # about what a configuration and a short history need
_PIECE = bytes(2**20)


def save_checkpoint(
    sae: SAE,
    folder: str | Path,
    *,
    provenance: Mapping[str, Any] | None = None,
    history: Iterable[Mapping[str, Any]] = (),
    overwrite: bool = False,
) -> Path:
    """Save an SAE so that SAELens v6 and :func:`saebench.load_sae` read it; returns the folder.

    Matrices are stored in ``sae.cfg.dtype``, vectors in float32. ``overwrite`` replaces a checkpoint
    that is there, and keeps other files of its folder.
    Raises :class:`OutputError` when the folder is taken or cannot be written, or the SAE has parts
    that the format cannot express.
    """
    check_folder(folder, overwrite=overwrite)
    asked, folder = Path(folder), _target(folder)
    tensors, config = _tensors(sae), _config(sae, provenance or {})
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
            new = Path(scratch) / "new"
            new.mkdir()
            save_file(tensors, new / WEIGHT_FILE)
            (new / WEIGHT_FILE).chmod(_ordinary_mode())
            text = json.dumps(config, indent=2, allow_nan=False)
            (new / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
            if rows := "".join(json.dumps(row, allow_nan=False) + "\n" for row in history):
                (new / HISTORY_FILE).write_text(rows, encoding="utf-8")
            _put(new, folder, Path(scratch) / "old")
    except OSError as error:
        raise OutputError(
            f"saving a checkpoint in {asked}", str(error), "Choose a folder that can be written."
        ) from error
    return asked


def check_folder(
    folder: str | Path, *, overwrite: bool = False, n_bytes: int = PROBE_BYTES
) -> None:
    """Raise :class:`OutputError` now if saving ``n_bytes`` in ``folder`` would fail later.

    So many bytes are written beside it, synchronised and removed again: permissions say little to
    root, on a full disk, or in a file system that takes no files. Leaves nothing behind.
    """
    try:
        _check_taken(Path(folder), overwrite)
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
        (Path(scratch) / WEIGHT_FILE).open("xb") as handle,
    ):
        for start in range(0, n_bytes, len(_PIECE)):
            handle.write(_PIECE[: n_bytes - start])
        handle.flush()
        os.fsync(handle.fileno())  # some file systems find out only now that they are full


def _check_taken(folder: Path, overwrite: bool) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite or not folder.is_dir():
            raise OutputError(
                f"a new checkpoint in {folder}",
                "it exists" if folder.is_dir() else "a file of that name",
                "Choose another folder, or replace it: overwrite = true in the recipe, "
                "--overwrite on the command line.",
            )
        if not (folder / CONFIG_FILE).is_file():
            raise OutputError(
                f"overwriting the checkpoint in {folder}",
                f"a folder without {CONFIG_FILE}, so no checkpoint",
                "Choose another folder.",
            )
    if folder.is_mount():
        raise OutputError(
            f"a new checkpoint in {folder}",
            "a mount point, which nothing can be renamed to",
            "Choose a folder inside it.",
        )


def _unsupported(sae: SAE) -> list[str]:
    """What of an SAE the layout has no place for, so that it would be lost in silence."""
    found = [name for name in ("latent_scale", "W_skip") if getattr(sae, name) is not None]
    activation = sae.activation
    plain = type(activation) in (TopK, JumpReLU, ReLU)
    if isinstance(activation, TopK) and (activation.weight is not None or not activation.rectify):
        plain = False
    if sae.b_enc is None or not plain:
        found.append(type(activation).__name__)
    if type(sae) is not SAE:
        found.append(type(sae).__name__)
    if type(sae.normalization) not in (Normalization, LayerNorm, ConstantNorm):
        found.append(f"{sae.cfg.normalization} inputs")
    if sae.b_in is not None and not torch.equal(sae.b_in, sae.b_dec):
        found.append("b_in other than b_dec")
    return found


def _tensors(sae: SAE) -> dict[str, Tensor]:
    """The tensors under SAELens' names, each in memory of its own."""
    unsupported = _unsupported(sae)
    if unsupported or sae.cfg.is_transcoder:
        raise OutputError(
            "an SAE of architecture topk, batchtopk, jumprelu or standard to save",
            ", ".join(unsupported) or "a transcoder",
            "Save it in the format it came in.",
        )
    assert sae.b_enc is not None
    dtype = getattr(torch, sae.cfg.dtype)
    tensors = {
        "W_enc": sae.W_enc.to(dtype),
        "W_dec": sae.W_dec.to(dtype),
        "b_enc": sae.b_enc.float(),
        "b_dec": sae.b_dec.float(),
    }
    if isinstance(sae.activation, JumpReLU):
        tensors["threshold"] = sae.activation.threshold.float().expand(sae.cfg.d_sae)
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _config(sae: SAE, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """``cfg.json``. Its ``dtype`` is that of the computation: SAELens casts what it reads to it."""
    cfg = sae.cfg
    recipe = provenance.get("recipe", {})
    metadata = {
        "sae_lens_version": LAYOUT_VERSION,  # announces the layout; what wrote it is under our key
        "sae_lens_training_version": None,
        "model_name": cfg.model,
        "hook_name": cfg.site,
        "hook_head_index": None,
        "context_size": recipe.get("context_size"),
        "prepend_bos": recipe.get("prepend_bos", True),
        "exclude_special_tokens": recipe.get("mask", "special") == "special",
        "dataset_path": recipe.get("data"),
        "training_architecture": cfg.architecture,
    }
    config = {
        "architecture": _inference_architecture(sae),
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.b_in is not None,
        "normalize_activations": cfg.normalization,
        "reshape_activations": "hook_z" if (cfg.site or "").endswith("hook_z") else "none",
    }
    if isinstance(sae.activation, TopK):
        config |= {"k": sae.activation.k, "rescale_acts_by_decoder_norm": False}
    elif cfg.k is not None:
        metadata["training_architecture_details"] = {"k": cfg.k}
    config["metadata"] = {key: value for key, value in metadata.items() if value is not None}
    config[PROVENANCE_KEY] = {"version": __version__, **provenance}
    return config


def _inference_architecture(sae: SAE) -> str:
    if isinstance(sae.activation, TopK):
        return "topk"
    return "jumprelu" if isinstance(sae.activation, JumpReLU) else "standard"


def _put(new: Path, folder: Path, old: Path) -> None:
    """Rename ``new`` to ``folder``; what was there goes to ``old``, but for files that are not ours."""
    if folder.is_dir() and any(folder.iterdir()):
        for item in folder.iterdir():
            if item.name in OWN_FILES:
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
