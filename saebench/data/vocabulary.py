"""Whether token ids mean the same to a tokenizer, a model and a file of ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from saebench.errors import DataError
from saebench.generation.manifest import UNFINISHED, vocabulary


def check_vocabulary(tokenizer: Any, vocab_size: int | None, model: str) -> None:
    """Check that a model has a row for every ordinary token of a tokenizer.

    Models may have more rows than that (padding), and tokenizers tokens that were added later and that
    no text need hold: those are found when they occur. Raises :class:`DataError`, also where there is
    no tokenizer.
    """
    if tokenizer is None:
        raise DataError(
            f"the tokens of a text for model {model or 'of no name'!r}",
            "the model comes without a tokenizer, which also says which tokens are special",
            "Put its tokenizer files into the model's folder.",
        )
    ordinary = getattr(tokenizer, "vocab_size", None)
    if vocab_size is None or ordinary is None or ordinary <= vocab_size:
        return
    raise DataError(
        f"the tokens of tokenizer {str(getattr(tokenizer, 'name_or_path', ''))!r} for model "
        f"{model or 'of no name'!r}",
        f"the tokenizer has {ordinary} token ids and the model's vocabulary size is {vocab_size}",
        "Use the tokenizer that belongs to the model.",
    )


def check_generated(manifest: Path, tokenizer: Any) -> None:
    """Check that the generated ids beside a ``generation.json`` are all there and of this vocabulary.

    Raises :class:`DataError`. A file that names no vocabulary is believed: ids that the model does not
    have are found when they occur.
    """
    folder = str(manifest.parent)
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        status, digest = content.get("status"), content.get("vocabulary", {}).get("digest")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(
            f"the generated text in {folder!r}",
            f"{manifest.name} is damaged ({type(error).__name__}: {error})",
            "Generate the text again, or name its files instead of the folder.",
        ) from error
    if status == UNFINISHED:
        raise DataError(
            f"the generated text in {folder!r}",
            "it is not finished",
            "Run saebench generate again with the same settings: it goes on where it stopped.",
        )
    if digest is not None and digest != vocabulary(tokenizer, 0, None)["digest"]:
        raise DataError(
            f"the token ids in {folder!r}",
            "they were generated with another vocabulary than this model's",
            f"Read the text instead: {folder}#text.",
        )
