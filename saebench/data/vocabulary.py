"""Whether token ids mean the same to a tokenizer, a model and a file of ids."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saebench.errors import DataError, OutputError
from saebench.generation.manifest import Manifest, read_manifest, vocabulary, whole_shards


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
    """Check that the generated ids beside a ``generation.json`` are of this vocabulary.

    Raises :class:`DataError`. Whether they are all there shows when they are opened: see
    :func:`saebench.data.documents.open_documents`.
    """
    folder = manifest.parent
    if generated(folder).vocabulary["digest"] != vocabulary(tokenizer, 0, None)["digest"]:
        raise DataError(
            f"the token ids in {str(folder)!r}",
            "they were generated with another vocabulary than this model's",
            f"Read the text instead: {folder}#text.",
        )


def generated(folder: Path) -> Manifest:
    """What a folder of generated text says that it holds; raises :class:`DataError` where it is damaged."""
    with _as_data(folder):
        manifest = read_manifest(folder)
        assert manifest is not None  # asked only of folders that have one
        return manifest


def generated_files(folder: Path) -> tuple[Path, ...]:
    """The shards of a finished text, and no other file; raises :class:`DataError` unless each is whole."""
    with _as_data(folder):
        return whole_shards(folder, generated(folder))


@contextmanager
def _as_data(folder: Path) -> Iterator[None]:
    """What is wrong with a generated text as an error of data, which it is to those who read it."""
    try:
        yield
    except OutputError as error:
        raise DataError(
            f"the generated text in {str(folder)!r}",
            f"{error.asked}: {error.found}",
            f"{error.next_step}; or name the files to read instead of the folder.",
        ) from error
