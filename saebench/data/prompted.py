"""Completions after their prompts as sequences, of which the completion alone counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from saebench.data.documents import BLOCK_CHARS, Piece
from saebench.data.opening import Reader
from saebench.data.packing import Ids
from saebench.data.stream import Row


class Prompted(NamedTuple):
    """A sequence, and whether its prompt or its completion was cut."""

    row: Row
    prompt_cut: bool
    completion_cut: bool


@dataclass(frozen=True)
class _Pieces:
    """One piece for each text; ``starts`` is whether a BOS that a text brings along is its own."""

    texts: Sequence[str]
    starts: bool

    def read(self) -> Iterator[Piece]:
        return (Piece(text, self.starts) for text in self.texts)

    def describe(self) -> dict[str, Any]:
        return {}


def after_prompts(
    reader: Reader, prompts: Sequence[str], completions: Sequence[str]
) -> Iterator[Prompted]:
    """BOS, the prompt and the completion of each text, at most ``reader.context_size`` tokens.

    The two parts are tokenised separately, so that it is exact where the completion begins: no token
    spans the boundary. A tokenizer that puts a space before every text puts one before the completion.
    What is too long loses the beginning of its prompt; only a completion that is too long by itself is
    cut, at its end. Tokens of the completion count, as far as the reader's policy counts them.
    """
    layout, counting = reader.layout(), reader.counting()
    room = reader.context_size - len(layout.prefix)
    # a token holds at least part of a character: what is past these is past any context
    before = _Pieces([text[-BLOCK_CHARS:] for text in prompts], starts=True)
    after = _Pieces([text[:BLOCK_CHARS] for text in completions], starts=False)
    for (prompt, _), (completion, _) in zip(
        layout.tokenize(before), reader.layout().tokenize(after), strict=True
    ):
        kept = completion[:room]
        context = _last(prompt, room - len(kept))
        ids = np.concatenate([layout.prefix, context, kept])
        counted = counting.counted(ids)
        counted[: len(ids) - len(kept)] = False
        cut = (len(context) < len(prompt), len(kept) < len(completion))
        yield Prompted(Row(ids, counted), *cut)


def _last(ids: Ids, n: int) -> Ids:
    return ids[max(len(ids) - n, 0) :]
