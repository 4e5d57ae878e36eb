"""Token ids in batches with masks and sequence ids: re-iterable, deterministic, streamed.

Padding is known by the attention mask alone, never by a token id (a pad token may also be EOS).
Which positions count in statistics is a policy of its own, recorded with every result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from saebench.data.packing import Ids
from saebench.errors import DataError

MaskPolicy = Literal["special", "bos", "none"]


class Row(NamedTuple):
    """One sequence: ``ids[t]`` int64, and ``counted[t]`` bool, the positions that enter statistics."""

    ids: Ids
    counted: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Some sequences: ``ids[b, t]`` int64, ``attention_mask[b, t]`` and ``counted[b, t]`` bool.

    ``sequence_ids[b]`` (int64) number the sequences of the stream from 0. ``counted`` marks the
    positions that enter statistics; padding, where ``attention_mask`` is false, never does.
    """

    ids: Tensor
    attention_mask: Tensor
    counted: Tensor
    sequence_ids: Tensor


@dataclass(frozen=True)
class Counting:
    """Which positions count: see :func:`saebench.data.open_stream` for the policies."""

    policy: MaskPolicy
    bos_id: int | None = None
    eos_id: int | None = None
    special_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an unknown policy."""
        if self.policy not in get_args(MaskPolicy):
            raise DataError(
                f"mask policy {self.policy!r}",
                "no policy of that name",
                f"Choose one of {', '.join(get_args(MaskPolicy))}.",
            )

    def counted(self, ids: Ids) -> np.ndarray:
        """``bool[t]``: the positions of one sequence that enter statistics."""
        if self.policy == "special":
            return ~np.isin(ids, self.special_ids)
        if self.policy == "none" or self.bos_id is None:
            return np.ones(len(ids), dtype=bool)
        is_bos = ids == self.bos_id
        if self.bos_id == self.eos_id:  # past the first position it is a separator, which counts
            is_bos[1:] = False
        return ~is_bos

    def rows(self, sequences: Iterable[Ids]) -> Iterator[Row]:
        """The sequences with their counted positions."""
        return (Row(ids, self.counted(ids)) for ids in sequences)


@dataclass(frozen=True)
class Tally:
    """What one whole reading of a stream found; ``digest`` is SHA-256 over ids and policy.

    ``n_documents`` counts the documents that the sequences are cut from (None where unknown).
    """

    n_documents: int | None
    n_sequences: int
    n_tokens: int
    n_counted: int
    n_short: int
    digest: str


class TokenStream:
    """Token sequences that can be read again and again, always the same and in the same order.

    ``read`` yields one sequence after another, and ``policy`` names the rule by which their positions
    count. Sequences with fewer than two tokens are dropped and counted; reading stops once
    ``n_sequences`` or ``n_tokens`` (whole sequences) are reached. ``source`` describes where the ids
    come from, ``documents`` gives the number of documents read so far.
    """

    def __init__(
        self,
        read: Callable[[], Iterator[Row]],
        policy: str,
        *,
        context_size: int,
        source: Mapping[str, Any],
        pad_id: int = 0,
        n_sequences: int | None = None,
        n_tokens: int | None = None,
        vocab_size: int | None = None,
        documents: Callable[[], int | None] | None = None,
    ) -> None:
        if context_size < 2:
            raise DataError(
                f"sequences of context_size = {context_size} tokens",
                "nothing to predict within them",
                "Set context_size to 2 or more; the model's own context is the usual choice.",
            )
        for name, limit in (("n_sequences", n_sequences), ("n_tokens", n_tokens)):
            if limit is not None and limit < 1:
                raise DataError(
                    f"{name} = {limit}",
                    "no data at all",
                    f"Set {name} to 1 or more, or leave it out.",
                )
        self.context_size = context_size
        self.policy = policy
        self._read = read
        self._source = dict(source)
        self.pad_id = pad_id
        self._max_sequences = n_sequences
        self._max_tokens = n_tokens
        self.vocab_size = vocab_size
        self._documents = documents
        self._tally: Tally | None = None

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """The stream in batches of ``batch_size`` sequences, the last one smaller where it must be.

        Raises :class:`DataError` when no sequence is left, a row is unreadable, or a token id is
        outside the model's vocabulary.
        """
        rows: list[Row] = []
        first = 0
        for row in self.sequences():
            rows.append(row)
            if len(rows) == batch_size:
                yield self._batch(rows, first)
                first += len(rows)
                rows = []
        if rows:
            yield self._batch(rows, first)

    @property
    def source(self) -> dict[str, Any]:
        """What the stream is, without reading it: source, policy and limits, as plain JSON values."""
        return {**self._source, "context_size": self.context_size, "mask": self.policy}

    def named(self, spec: str, more: Mapping[str, Any] | None = None) -> TokenStream:
        """The same stream under the spec that asked for it, with ``more`` facts about its source."""
        stream = copy(self)
        stream._source = {**self._source, "spec": spec, **(more or {})}
        return stream

    @property
    def n_sequences(self) -> int | None:
        """How many sequences the stream holds; None before it has been read to its end."""
        return None if self._tally is None else self._tally.n_sequences

    @property
    def n_tokens(self) -> int | None:
        """How many tokens (padding left out) the stream holds; None before it has been read."""
        return None if self._tally is None else self._tally.n_tokens

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over every token id used and the mask policy; reads the stream if need be."""
        return self.tally().digest

    def tally(self) -> Tally:
        """The counts and the digest of the whole stream; reads it once, and only if need be."""
        if self._tally is None:
            for _ in self.sequences():
                pass
        assert self._tally is not None
        return self._tally

    def describe(self) -> dict[str, Any]:
        """The source, the policy, the counts and the digest, as plain JSON values."""
        return {**self.source, **vars(self.tally())}

    def check(self) -> None:
        """Read up to the first sequence; raises :class:`DataError` when there is none."""
        next(self.sequences())

    def sequences(self) -> Iterator[Row]:
        """One sequence after another within the limits; a complete reading leaves its tally behind."""
        digest = hashlib.sha256(f"{self.policy}\0".encode())
        n_sequences = n_tokens = n_counted = n_short = 0
        for row in self._read():
            ids, counted = row
            if len(ids) < 2:
                n_short += 1
                continue
            self._check_vocabulary(ids)
            digest.update(len(ids).to_bytes(8, "little"))
            digest.update(ids.astype("<i8").tobytes() + counted.tobytes())
            n_sequences += 1
            n_tokens += len(ids)
            n_counted += int(counted.sum())
            yield row
            if n_sequences == self._max_sequences or n_tokens >= (self._max_tokens or n_tokens + 1):
                break
        if n_sequences == 0:
            raise DataError(
                f"sequences of two tokens or more from {self._source.get('spec')!r}",
                f"{n_short} shorter ones and no other" if n_short else "no text in it at all",
                "Give data with longer documents." if n_short else "Check the file and its column.",
            )
        n_documents = None if self._documents is None else self._documents()
        self._tally = Tally(
            n_documents, n_sequences, n_tokens, n_counted, n_short, digest.hexdigest()
        )

    def _check_vocabulary(self, ids: Ids) -> None:
        size = self.vocab_size
        if ids.min() < 0 or (size is not None and ids.max() >= size):
            worst = int(ids.min() if ids.min() < 0 else ids.max())
            raise DataError(
                f"token ids of tokenizer {self._source.get('tokenizer')!r} below the vocabulary size "
                f"{size} of model {self._source.get('model')!r}",
                f"token id {worst} in {self._source.get('spec')!r}",
                "Use the tokenizer that belongs to the model, or data tokenised with it.",
            )

    def _batch(self, rows: Sequence[Row], first: int) -> Batch:
        shape = (len(rows), max(len(row.ids) for row in rows))
        ids = np.full(shape, self.pad_id, dtype=np.int64)
        attention = np.zeros(shape, dtype=bool)
        counted = np.zeros(shape, dtype=bool)
        for i, row in enumerate(rows):
            ids[i, : len(row.ids)] = row.ids
            attention[i, : len(row.ids)] = True
            counted[i, : len(row.ids)] = row.counted
        return Batch(
            torch.from_numpy(ids),
            torch.from_numpy(attention),
            torch.from_numpy(counted),
            torch.arange(first, first + len(rows)),
        )


def stream_from_ids(
    ids: Tensor | Sequence[Sequence[int]],
    *,
    attention_mask: Tensor | None = None,
    mask: MaskPolicy = "none",
    special_ids: Sequence[int] = (),
    bos_id: int | None = None,
    n_sequences: int | None = None,
    vocab_size: int | None = None,
    spec: str = "ids in memory",
) -> TokenStream:
    """The stream of sequences already in memory: ``ids[n, t]``, or lists of different lengths.

    ``attention_mask[n, t]`` (right-padded) cuts the padding of a rectangular ``ids`` off.
    """
    rows = [np.asarray(row, dtype=np.int64) for row in ids]
    if attention_mask is not None:
        rows = [
            row[np.asarray(keep, dtype=bool)]
            for row, keep in zip(rows, attention_mask, strict=True)
        ]
    counting = Counting(mask, bos_id, None, tuple(special_ids))
    return TokenStream(
        lambda: counting.rows(rows),
        counting.policy,
        context_size=max([2, *map(len, rows)]),
        source={"spec": spec},
        n_sequences=n_sequences,
        vocab_size=vocab_size,
    )
