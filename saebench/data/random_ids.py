"""Sequences of token ids drawn at random: uniformly, or as often as they occur in a text.

Sequence i depends on the seed and on i alone, not on how many sequences are drawn or in which batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from saebench.data.stream import Row, TokenStream
from saebench.errors import DataError

BLOCK = (
    64  # sequences drawn by one generator: making a generator costs as much as drawing a sequence
)
TOLERANCE = 1e-6  # by which probabilities may miss the sum 1

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def random_stream(
    tokenizer: Any,
    *,
    vocab_size: int,
    length: int,
    n_sequences: int | None = None,
    n_tokens: int | None = None,
    probabilities: np.ndarray | None = None,
    special: bool = True,
    bos: bool = True,
    seed: int = 0,
) -> TokenStream:
    """Sequences of ``length`` ids drawn independently, uniformly or by ``probabilities[vocab_size]``.

    Ids are drawn from ``range(vocab_size)``. Where a model's embedding is padded beyond its tokenizer,
    the model's size draws padding ids too, ``len(tokenizer)`` only ids that some text can have.
    ``special=False`` leaves out the tokenizer's special ids. With ``bos`` position 0 is BOS, where the
    tokenizer has one, and does not count; all other positions count, whatever id was drawn.
    Needs ``n_sequences`` or ``n_tokens`` (whole sequences, BOS included). Raises :class:`DataError`
    on parameters that leave nothing to draw.
    """
    if n_sequences is None and n_tokens is None:
        raise DataError(
            "random token ids",
            "no end: neither n_sequences nor n_tokens is given",
            "Set one of the two, or write it into the spec: uniform?n_tokens=100000.",
        )
    if seed < 0:
        raise DataError(f"the seed {seed} of random token ids", "below 0", "Use 0 or more.")
    bos_id = tokenizer.bos_token_id if bos and tokenizer is not None else None
    barred = () if special else tuple(tokenizer.all_special_ids)
    draw = _uniform(vocab_size, barred)
    if probabilities is not None:
        draw = _weighted(np.asarray(probabilities, dtype=np.float64), vocab_size, barred)
    counted = np.ones(max(length, 0), dtype=bool)
    counted[: bos_id is not None] = False
    source = {
        "spec": f"{'uniform' if probabilities is None else 'unigram'} random token ids",
        "ids": "uniform" if probabilities is None else "unigram",
        "random_seed": seed,
        "special": special,
        "bos": bos_id is not None,
        "vocab_size": vocab_size,
        "probabilities": None if probabilities is None else _digest(probabilities),
        "tokenizer": str(getattr(tokenizer, "name_or_path", "")),
        "limits": {"n_sequences": n_sequences, "n_tokens": n_tokens},
    }
    return TokenStream(
        lambda: _rows(draw, length, bos_id, counted, seed),
        "none" if bos_id is None else "all but position 0",
        context_size=length,
        source=source,
        n_sequences=n_sequences,
        n_tokens=n_tokens,
        vocab_size=vocab_size,
    )


def unigram_probabilities(stream: TokenStream, vocab_size: int) -> np.ndarray:
    """``p[vocab_size]`` float64: the share of each token id among the counted tokens of a stream.

    Reads the stream once. Ids of ``vocab_size`` and above are left out of the count: where a model's
    vocabulary is padded, ids that it drew itself may lie beyond its tokenizer's. Raises
    :class:`DataError` where no token is left.
    """
    counts = np.zeros(vocab_size, dtype=np.int64)
    for batch in stream.batches(BLOCK):
        ids = batch.ids[batch.counted].numpy()
        counts += np.bincount(ids[ids < vocab_size], minlength=vocab_size)
    if not counts.any():
        raise DataError(
            f"token frequencies of {stream.source.get('spec')!r}",
            f"no token of it counts among the ids below {vocab_size}",
            "Give text with ordinary tokens, or count special ones too: mask none.",
        )
    return counts / counts.sum()


def _rows(
    draw: Draw, length: int, bos_id: int | None, counted: np.ndarray, seed: int
) -> Iterator[Row]:
    """Sequence after sequence without end; block b holds sequences b·BLOCK and after."""
    block = 0
    while True:
        generator = np.random.default_rng(np.random.SeedSequence([seed, block]))
        ids = draw(generator, (BLOCK, length))
        if bos_id is not None:
            ids[:, 0] = bos_id
        for row in ids:
            yield Row(row, counted)
        block += 1


def _uniform(vocab_size: int, barred: Sequence[int]) -> Draw:
    allowed = np.setdiff1d(np.arange(vocab_size, dtype=np.int64), barred)
    _check_some(len(allowed), vocab_size)
    if len(allowed) == vocab_size:
        return lambda generator, shape: generator.integers(0, vocab_size, shape)
    return lambda generator, shape: allowed[generator.integers(0, len(allowed), shape)]


def _weighted(probabilities: np.ndarray, vocab_size: int, barred: Sequence[int]) -> Draw:
    """Draws by inversion of the cumulative distribution of the ids that may be drawn at all."""
    if probabilities.shape != (vocab_size,) or not (probabilities >= 0).all():
        raise DataError(
            f"probabilities of {vocab_size} token ids",
            f"an array {list(probabilities.shape)}, the least of it "
            f"{probabilities.min() if probabilities.size else 'nothing'}",
            "Give one number of 0 or more for each id of the vocabulary.",
        )
    if abs(probabilities.sum() - 1) > TOLERANCE:
        raise DataError(
            "probabilities of token ids that sum to 1",
            f"a sum of {probabilities.sum():g}",
            "Divide them by their sum.",
        )
    p = probabilities.copy()
    p[[id for id in barred if id < vocab_size]] = 0
    allowed = np.flatnonzero(p)
    _check_some(len(allowed), vocab_size)
    cumulative = np.cumsum(p[allowed])
    cumulative /= cumulative[-1]
    return lambda generator, shape: allowed[
        np.searchsorted(cumulative, generator.random(shape), side="right")
    ]


def _check_some(n_allowed: int, vocab_size: int) -> None:
    if n_allowed == 0:
        raise DataError(
            f"random token ids of a vocabulary of {vocab_size}",
            "none may be drawn",
            "Allow special ids (special=true), or give a text with ordinary tokens.",
        )


def _digest(probabilities: np.ndarray) -> str:
    return hashlib.sha256(np.asarray(probabilities, dtype="<f8").tobytes()).hexdigest()
