"""A text with its tokens in random order: its frequencies without its sense."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np

from saebench.data.stream import Row, TokenStream
from saebench.errors import DataError

Within = Literal["sequence", "corpus"]


def shuffled_stream(
    stream: TokenStream, *, seed: int = 0, within: Within = "sequence"
) -> TokenStream:
    """The stream with its counted ids permuted, within each sequence or across all of them.

    Positions that do not count (BOS, as a rule) keep their id, and those that count go on counting.
    The order of sequence i depends on ``seed`` and i alone within sequences. Across the corpus all
    counted ids are held in memory (four bytes each). Raises :class:`DataError` on an unknown ``within``.
    """
    if within not in get_args(Within):
        raise DataError(
            f"tokens shuffled within {within!r}",
            "no scope of that name",
            f"Choose one of {', '.join(get_args(Within))}.",
        )
    if seed < 0:
        raise DataError(f"the seed {seed} of shuffled tokens", "below 0", "Use 0 or more.")
    read = _within_sequences if within == "sequence" else _within_corpus
    inner = stream.source
    source: dict[str, Any] = {
        **{key: inner[key] for key in ("tokenizer", "model", "bos", "limits") if key in inner},
        "spec": f"{inner.get('spec')} with its tokens shuffled",
        "ids": "shuffled",
        "random_seed": seed,
        "within": within,
        "of": inner,
    }
    return TokenStream(
        lambda: read(stream, seed),
        stream.policy,
        context_size=stream.context_size,
        source=source,
        pad_id=stream.pad_id,
        vocab_size=stream.vocab_size,
        documents=lambda: stream.tally().n_documents,
    )


def _within_sequences(stream: TokenStream, seed: int) -> Iterator[Row]:
    for number, (ids, counted) in enumerate(stream.sequences()):
        generator = np.random.default_rng(np.random.SeedSequence([seed, number]))
        shuffled = ids.copy()
        shuffled[counted] = generator.permutation(ids[counted])
        yield Row(shuffled, counted)


def _within_corpus(stream: TokenStream, seed: int) -> Iterator[Row]:
    """Reads the stream twice: once for the ids, once for the places they go to."""
    counted_ids = [ids[counted].astype(np.int32) for ids, counted in stream.sequences()]
    pool = np.random.default_rng(seed).permutation(np.concatenate(counted_ids))
    del counted_ids
    first = 0
    for ids, counted in stream.sequences():
        shuffled = ids.copy()
        last = first + int(counted.sum())
        shuffled[counted] = pool[first:last]
        first = last
        yield Row(shuffled, counted)
