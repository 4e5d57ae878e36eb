"""Documents to sequences of token ids: tokenised a few at a time, packed or one each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from saebench.data.documents import BLOCK_CHARS, Documents, Piece

TOKENIZE_TOGETHER = 64  # documents per call of the tokenizer

Ids = np.ndarray  # int64, one dimension


class Layout:
    """Turns documents into sequences of token ids of at most ``context_size``."""

    def __init__(self, tokenizer: Any, context_size: int, prepend_bos: bool) -> None:
        bos = tokenizer.bos_token_id if prepend_bos else None
        self.tokenizer = tokenizer
        self.context_size = context_size
        self.prefix = np.array([] if bos is None else [bos], dtype=np.int64)
        self.eos_id: int | None = tokenizer.eos_token_id
        self.n_documents = 0  # of the reading under way

    def tokenize(self, documents: Documents) -> Iterator[tuple[Ids, bool]]:
        """``(ids, starts a document)`` per piece, a few documents tokenised at a time."""
        waiting: list[Piece] = []
        size = 0
        for piece in documents.read():
            waiting.append(piece)
            size += len(piece.content)
            if len(waiting) == TOKENIZE_TOGETHER or size >= BLOCK_CHARS:
                yield from self._ids(waiting)
                waiting, size = [], 0
        yield from self._ids(waiting)

    def packed(self, pieces: Iterable[tuple[Ids, bool]]) -> Iterator[Ids]:
        """Documents joined with EOS and cut into full sequences."""
        size = self.context_size - len(self.prefix)
        rest = np.empty(0, dtype=np.int64)
        last: int | None = None
        cut_any = False
        self.n_documents = 0
        for ids, starts in pieces:
            if not len(ids):
                continue
            self.n_documents += starts
            if starts and last is not None and self.eos_id is not None and last != self.eos_id:
                ids = np.concatenate([[self.eos_id], ids])
            last = int(ids[-1])
            rest = np.concatenate([rest, ids])
            full = len(rest) // size * size
            for row in rest[:full].reshape(-1, size):
                cut_any = True
                yield np.concatenate([self.prefix, row])
            rest = rest[full:]
        if not cut_any and len(rest):
            yield np.concatenate([self.prefix, rest])

    def one_per_document(self, pieces: Iterable[tuple[Ids, bool]]) -> Iterator[Ids]:
        """The beginning of each document; the later blocks of a long one are past any context."""
        self.n_documents = 0
        for ids, starts in pieces:
            if starts:
                self.n_documents += bool(len(ids))
                head = ids[: self.context_size - len(self.prefix)]
                yield np.concatenate([self.prefix, head]) if len(head) else head

    def cut(self, pieces: Iterable[tuple[Ids, bool]]) -> Iterator[Ids]:
        """Each document in one sequence, or in several where it is longer than one."""
        size = self.context_size - len(self.prefix)
        self.n_documents = 0
        for ids, starts in pieces:
            self.n_documents += starts and bool(len(ids))
            for first in range(0, len(ids), size):
                yield np.concatenate([self.prefix, ids[first : first + size]])

    def _ids(self, pieces: Sequence[Piece]) -> Iterator[tuple[Ids, bool]]:
        texts = [piece.content for piece in pieces if isinstance(piece.content, str)]
        encoded: Iterator[Any] = iter(())
        if texts:
            encoded = iter(
                self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            )
        for piece in pieces:
            given = next(encoded) if isinstance(piece.content, str) else piece.content
            ids = np.asarray(given, dtype=np.int64)
            if len(self.prefix) and len(ids) and ids[0] == self.prefix[0] and piece.starts:
                ids = ids[1:]  # tokenised with its own BOS already
            yield ids, piece.starts
