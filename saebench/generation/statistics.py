"""What token ids look like: repetition, vocabulary, first tokens, and the distance between two texts.

Sequences are arrays of ids without their start token. Entropies and divergences are in bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from saebench.errors import ConfigError, DataError
from saebench.generation.hashed import LIMIT, HashSample, sequence_hash, window_hashes

WINDOW = (
    13  # tokens: the length at which overlap of texts is usually called copying (Brown et al. 2020)
)
_CHUNK_TOKENS = 2**20


@dataclass(frozen=True)
class IdStatistics:
    """Statistics of sequences of token ids; None where there is nothing to measure.

    ``unique_share`` is the number of distinct sequences over that of all; ``duplicate_share`` the share
    of sequences that are there at least twice, all copies counted. ``window_duplicate_share`` is the
    share of windows of ``window`` tokens that repeat another one: one minus distinct over all. Both come
    from the ``hashed_share`` (and ``window_hashed_share``) of distinct things that memory holds.
    ``first_distinct_share`` is the number of distinct first tokens over sequences, ``eos_share`` the share
    of sequences that end with EOS. ``counts[vocab]`` are token counts, left out of the JSON form.
    """

    n_sequences: int
    n_tokens: int
    mean_length: float
    eos_share: float | None
    unique_share: float
    duplicate_share: float
    hashed_share: float
    window: int
    n_windows: int
    window_duplicate_share: float | None
    window_hashed_share: float
    n_distinct: int
    vocab_size: int
    vocabulary_share: float
    entropy: float
    first_entropy: float
    first_distinct_share: float
    counts: np.ndarray = field(repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The numbers as plain JSON values."""
        values = asdict(self)
        del values["counts"]
        return values


@dataclass(frozen=True)
class UnigramDistances:
    """Distances between the unigram distributions of a text p and a reference q.

    ``total_variation`` is ½ Σ|p − q|, ``jensen_shannon`` in bits, both of the plain frequencies. ``kl`` is
    KL(p ‖ q) in bits with one added to every count of the vocabulary on both sides. All depend on the
    amount of text: two samples of one distribution are not at distance 0.
    """

    total_variation: float
    jensen_shannon: float
    kl: float

    def to_json(self) -> dict[str, float]:
        """The numbers as plain JSON values."""
        return asdict(self)


def describe_ids(
    sequences: Iterable[np.ndarray],
    *,
    vocab_size: int,
    eos_id: int | None = None,
    window: int = WINDOW,
    limit: int = LIMIT,
) -> IdStatistics:
    """Statistics of ``sequences``, read once, in memory for ``limit`` hashes twice and the vocabulary.

    Empty sequences are passed over. Raises :class:`DataError` where nothing is left or an id is outside
    the vocabulary, :class:`ConfigError` for a window below 1.
    """
    if window < 1:
        raise ConfigError(f"windows of {window} tokens", "nothing to compare", "Give 1 or more")
    counts = np.zeros(vocab_size, dtype=np.int64)
    first = np.zeros(vocab_size, dtype=np.int64)
    whole, windows = HashSample(limit), HashSample(limit)
    n_sequences = n_windows = n_eos = 0
    for rows in _chunks(sequences):
        ids = np.concatenate(rows).astype(np.int64)
        if ids.min() < 0 or ids.max() >= vocab_size:
            raise DataError(
                f"statistics of ids over a vocabulary of {vocab_size}",
                f"ids from {ids.min()} to {ids.max()}",
                "Use the tokenizer that belongs to the model",
            )
        sizes = np.array([len(row) for row in rows])
        ends = sizes.cumsum()
        counts += np.bincount(ids, minlength=vocab_size)
        first += np.bincount(ids[ends - sizes], minlength=vocab_size)
        if eos_id is not None:
            n_eos += int((ids[ends - 1] == eos_id).sum())
        whole.add(np.array([sequence_hash(row) for row in rows], dtype=np.uint64))
        hashes = window_hashes(ids, np.repeat(np.arange(len(rows)), sizes), window)
        windows.add(hashes)
        n_windows += len(hashes)
        n_sequences += len(rows)
    if n_sequences == 0:
        raise DataError("statistics of token ids", "no sequence at all", "Give some text")
    n_tokens = int(counts.sum())
    copies, repeats = whole.counts(), windows.counts()
    return IdStatistics(
        n_sequences=n_sequences,
        n_tokens=n_tokens,
        mean_length=n_tokens / n_sequences,
        eos_share=None if eos_id is None else n_eos / n_sequences,
        unique_share=len(copies) / int(copies.sum()) if len(copies) else 1.0,
        duplicate_share=int(copies[copies > 1].sum()) / max(1, int(copies.sum())),
        hashed_share=whole.share,
        window=window,
        n_windows=n_windows,
        window_duplicate_share=1 - len(repeats) / int(repeats.sum()) if len(repeats) else None,
        window_hashed_share=windows.share,
        n_distinct=int((counts > 0).sum()),
        vocab_size=vocab_size,
        vocabulary_share=float((counts > 0).mean()),
        entropy=entropy(counts),
        first_entropy=entropy(first),
        first_distinct_share=int((first > 0).sum()) / n_sequences,
        counts=counts,
    )


def unigram_distances(counts: np.ndarray, reference: np.ndarray) -> UnigramDistances:
    """Distances between token counts ``[vocab]`` of a text and of a reference.

    Raises :class:`DataError` where one is empty or the vocabularies differ in size.
    """
    if counts.shape != reference.shape or not counts.sum() or not reference.sum():
        raise DataError(
            "the distance between two texts",
            f"{int(counts.sum())} tokens over {len(counts)} ids, and {int(reference.sum())} over "
            f"{len(reference)}",
            "Count both over one vocabulary, and give each some text",
        )
    p, q = counts / counts.sum(), reference / reference.sum()
    smooth_p = (counts + 1) / (counts.sum() + len(counts))
    smooth_q = (reference + 1) / (reference.sum() + len(reference))
    middle = (p + q) / 2
    return UnigramDistances(
        total_variation=float(np.abs(p - q).sum() / 2),
        jensen_shannon=max(0.0, (_divergence(p, middle) + _divergence(q, middle)) / 2),
        kl=_divergence(smooth_p, smooth_q),
    )


def entropy(counts: np.ndarray) -> float:
    """Shannon entropy in bits of the distribution that ``counts`` stand for (no correction for bias)."""
    present = counts[counts > 0] / counts.sum()
    return float(-(present * np.log2(present)).sum()) + 0.0  # no minus zero


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p ‖ q) in bits; q is positive wherever p is."""
    at = p > 0
    return float((p[at] * np.log2(p[at] / q[at])).sum())


def _chunks(sequences: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """The sequences that are not empty, some million tokens at a time."""
    rows: list[np.ndarray] = []
    size = 0
    for row in sequences:
        if len(row):
            rows.append(row)
            size += len(row)
        if size >= _CHUNK_TOKENS:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows
