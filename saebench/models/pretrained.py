"""Read a causal language model and its tokenizer from a directory or the hub, running no code of theirs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, errors, snapshot_download
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from saebench.models.failures import fail, first_line
from saebench.models.regimes import Regime, read_model

_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(?:/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
_TEXT_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
_TOKENIZER_FILES = ("tokenizer*", "vocab.*", "*.model")


@dataclass(frozen=True)
class Located:
    """Where a model's files are, and what can be said of it before any weight is in memory.

    ``root`` is the folder, ``revision`` the commit (None for a local folder), ``config`` what
    transformers reads from its config.
    """

    asked: str
    root: Path
    id: str
    revision: str | None
    config: Any

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that make the model what it is: its config and its weights."""
        weights = sorted(self.root.glob("*.safetensors")) or sorted(self.root.glob("*.bin"))
        return (self.root / "config.json", *weights)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names and contents of :attr:`files`."""
        return digest_files(self.files)

    @property
    def vocab_size(self) -> int:
        """The number of logits per token."""
        return int(self.config.get_text_config().vocab_size)

    @property
    def n_layers(self) -> int:
        """The number of blocks."""
        return int(self.config.get_text_config().num_hidden_layers)

    @property
    def context_size(self) -> int | None:
        """The longest sequence the model was made for, where its config says so."""
        return getattr(self.config.get_text_config(), "max_position_embeddings", None)

    def tokenizer(self) -> Any:
        """The tokenizer, or None where the folder has no file of one; raises :class:`ModelError`."""
        return _tokenizer(self.asked, self.root)

    def read(self, *, precision: str, device: str | None) -> tuple[Any, Regime]:
        """The model on its device in a precision regime; see :func:`saebench.models.regimes.read_model`."""
        return read_model(self.asked, self.root, self.config, precision, device)


def locate(ref: str | Path, *, revision: str | None = None) -> Located:
    """Find a model in a local directory, or by hub id (``org/name``, ``hf:org/name@revision``).

    Raises
    ------
    ModelError : not found, not reachable, or no causal language model that transformers knows.
    """
    local = bool(str(ref)) and not str(ref).startswith("hf:") and Path(ref).expanduser().is_dir()
    if local and revision is not None:
        fail(
            f"revision {revision!r} of the language model {str(ref)!r}",
            "a folder here, which has no revisions",
            "Leave it out, or name the model as on the hub (org/name).",
        )
    if local:
        root, commit = Path(ref).expanduser(), None
    else:
        root, commit = _from_hub(str(ref), revision)
    asked = f"language model {str(ref)!r}"
    config = _config(asked, root)
    name = Path(ref).expanduser().resolve().name if local else _hub_name(str(ref), None)[0]
    return Located(asked, root, name, commit, config)


def digest_files(paths: Sequence[Path]) -> str:
    """SHA-256 over the names and contents of files, whatever folder they lie in."""
    total = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.name} {content}\n".encode())
    return total.hexdigest()


def digest_tensors(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over a config (equal weights make other models) and the tensors' names and bytes."""
    lasting = {
        key: config[key] for key in config.keys() - {"transformers_version", "_name_or_path"}
    }
    total = hashlib.sha256(json.dumps(lasting, sort_keys=True, default=str).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        if tensor.numel():
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()


def _hub_name(ref: str, revision: str | None) -> tuple[str, str | None]:
    name, _, pinned = ref.removeprefix("hf:").partition("@")
    return name, revision or pinned or None


def _from_hub(ref: str, revision: str | None) -> tuple[Path, str]:
    """The snapshot of a hub model and its commit; from the cache alone where there is no network."""
    asked = f"language model {ref!r}"
    name, revision = _hub_name(ref, revision)
    if not _HUB_ID.fullmatch(name) or ref.startswith((".", "/", "~")):
        fail(asked, "no such directory, and not a hub id either", "Check the path")
    try:
        info = HfApi().model_info(name, revision=revision, timeout=30)
        files = [item.rfilename for item in info.siblings or []]
        weights = "*.safetensors" if any(f.endswith(".safetensors") for f in files) else "*.bin"
        root = snapshot_download(
            name,
            revision=info.sha,
            allow_patterns=[weights, *_TEXT_FILES],
            ignore_patterns=["*/*", "consolidated*"],
        )
    except errors.GatedRepoError as error:
        fail(asked, "a gated repository", "Accept its terms, then log in: hf auth login", error)
    except errors.RevisionNotFoundError as error:
        fail(asked, f"the hub has no revision {revision!r} of it", "Check the revision", error)
    except errors.RepositoryNotFoundError as error:
        found = "no such directory here, and no such public repository on the hub"
        fail(asked, found, "Check the name; for a private one log in: hf auth login", error)
    except Exception as error:  # what says "no network" differs between the hub client's releases
        root = _from_cache(asked, name, revision, error)
    return Path(root), Path(root).name


def _from_cache(asked: str, name: str, revision: str | None, cause: Exception) -> str:
    try:
        root = snapshot_download(name, revision=revision, local_files_only=True)
    except (errors.LocalEntryNotFoundError, OSError, ValueError):
        root = ""
    if not root or not (Path(root) / "config.json").is_file():
        fail(
            asked,
            f"no such directory here, not in the hub's cache, and the hub is not reachable "
            f"({type(cause).__name__})",
            "Check the path or the network",
            cause,
        )
    return root


def _config(asked: str, root: Path) -> Any:
    """The config; refuses what is not a causal language model that transformers itself knows."""
    if not (root / "config.json").is_file():
        inside = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
        fail(asked, f"{root} has no config.json; it has {inside}", "Name the model's own folder")
    try:
        config = AutoConfig.from_pretrained(root, trust_remote_code=False)
    except Exception as error:  # a config can be wrong in any way
        next_step = "Use a model that the installed transformers knows"
        if "custom code" in str(error):
            fail(asked, "it needs code of its own, which saebench never runs", next_step, error)
        fail(asked, f"its config.json cannot be used: {first_line(error)}", next_step, error)
    if type(config) not in AutoModelForCausalLM._model_mapping:
        fail(
            asked,
            f"a model of type {config.model_type!r}, which is not a causal language model",
            "Use a decoder-only language model",
        )
    return config


def _tokenizer(asked: str, root: Path) -> Any:
    """The tokenizer, or None where the folder has no file of one."""
    if not any(next(root.glob(pattern), None) for pattern in _TOKENIZER_FILES):
        return None
    try:
        return AutoTokenizer.from_pretrained(root, trust_remote_code=False)
    except Exception as error:
        next_step = "Check that its tokenizer files are complete"
        fail(asked, f"its tokenizer cannot be read: {first_line(error)}", next_step, error)
