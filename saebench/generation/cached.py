"""Generated text kept in a cache folder, by what it depends on: for data specs such as ``faithful:MODEL``."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

from saebench.errors import OutputError
from saebench.generation.manifest import (
    Manifest,
    check_same,
    keep_whole_shards,
    read_manifest,
    vocabulary,
)
from saebench.generation.sampling import start_and_end
from saebench.generation.settings import GenerationSettings
from saebench.generation.writing import generate
from saebench.models import LanguageModel, locate

CACHE_VARIABLE = "SAEBENCH_CACHE"
_DIGITS = 24


def ensure_generated(
    model_ref: str, settings: GenerationSettings, *, device: str | None = None
) -> Path:
    """The folder with the text of a model, generated into the cache where it is missing or unfinished.

    The shards lie in its sub-folder ``data``. ``model_ref`` is a local folder or a hub id. One line on
    stderr says when something is generated.

    Raises
    ------
    ModelError : the model is not found or cannot generate; see :func:`saebench.generation.generate`.
    OutputError : the cache cannot be written to, or is damaged.
    """
    located = locate(model_ref)
    settings = settings.resolved(located.context_size)
    tokenizer = located.tokenizer()
    ends = start_and_end(tokenizer, located.vocab_size, located.id)
    wanted = Manifest(
        settings=settings.to_json(),
        model={"digest": located.digest},
        vocabulary=vocabulary(tokenizer, *ends),
    )
    folder = cache_folder() / "generated" / _key(wanted)
    found = read_manifest(folder)
    if found is not None:
        check_same(folder, found, wanted)
        keep_whole_shards(folder, found)
        if found.finished:
            return folder
    done = sum(shard["n_tokens"] for shard in found.shards) if found is not None else 0
    print(
        f"saebench: {located.id} writes {settings.tokens:,} tokens into {folder}"
        + (f"; {done:,} are there" if done else ""),
        file=sys.stderr,
    )
    model = LanguageModel.open(located, dtype=settings.dtype, device=device)
    return generate(model, settings, folder).folder


def cache_folder() -> Path:
    """The folder named by ``SAEBENCH_CACHE``, or ``saebench`` in the platform's usual cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser()
    try:
        home = Path.home()
    except RuntimeError as error:  # no HOME, and no entry of this user
        raise OutputError(
            "the cache folder", str(error), f"Set {CACHE_VARIABLE} to a folder"
        ) from error
    if sys.platform == "win32":
        usual = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        usual = home / "Library" / "Caches"
    else:
        usual = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return usual / "saebench"


def _key(wanted: Manifest) -> str:
    content = json.dumps(wanted.identity(), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:_DIGITS]
