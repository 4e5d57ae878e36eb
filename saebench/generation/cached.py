"""Generated text kept in a cache folder, by what it depends on: for data specs such as ``faithful:MODEL``."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from saebench.errors import OutputError
from saebench.generation.manifest import (
    Manifest,
    check_same,
    keep_whole_shards,
    read_manifest,
    vocabulary,
    whole_shards,
)
from saebench.generation.sampling import Sampler, start_and_end
from saebench.generation.settings import GenerationSettings
from saebench.generation.writing import write, writer
from saebench.models import LanguageModel, locate

CACHE_VARIABLE = "SAEBENCH_CACHE"
_DIGITS = 24


def ensure_generated(
    model_ref: str,
    settings: GenerationSettings,
    *,
    device: str | None = None,
    or_more: bool = False,
    n_sequences: int | None = None,
) -> Path:
    """The folder with the text of a model, generated into the cache where it is missing or unfinished.

    The shards lie in its sub-folder ``data``. ``model_ref`` is a local folder or a hub id. With
    ``or_more`` a finished text made in the same way that has more tokens (or ``n_sequences`` and more)
    will do: fewer tokens are its beginning, byte for byte. One line on stderr says when something is
    generated, or another process that generates is waited for.

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
    if _is_there(folder, wanted):
        return folder
    if or_more and (larger := _larger(folder, wanted, n_sequences)) is not None:
        return larger
    with writer(folder):
        if _is_there(folder, wanted):  # another process may have made it while we waited
            return folder
        found = read_manifest(folder)
        done = found.counts["tokens"] if found is not None else 0
        print(
            f"saebench: {located.id} writes {settings.tokens:,} tokens into {folder}"
            + (f"; {done:,} are there" if done else ""),
            file=sys.stderr,
        )
        model = LanguageModel.open(located, precision=settings.precision, device=device)
        return write(Sampler(model, settings), folder).folder


def _is_there(folder: Path, wanted: Manifest) -> bool:
    """Whether the text is in the folder, whole; raises :class:`OutputError` where there is another."""
    found = read_manifest(folder)
    if found is None:
        return False
    check_same(folder, found, wanted)
    keep_whole_shards(folder, found)
    return found.finished


def _larger(folder: Path, wanted: Manifest, n_sequences: int | None) -> Path | None:
    """A whole text in the cache of which the wanted one is the beginning; damaged ones are passed over."""
    asked = {**wanted.identity(), "tokens": None}
    for path in sorted(folder.parent.glob("*")):
        with suppress(OutputError):
            found = read_manifest(path)
            if found is None or {**found.identity(), "tokens": None} != asked:
                continue
            enough = found.counts["tokens"] >= wanted.settings["tokens"] or (
                n_sequences is not None and found.counts["sequences"] >= n_sequences
            )
            if enough and found.finished:
                whole_shards(path, found)
                return path
    return None


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
