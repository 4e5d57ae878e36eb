"""Several interventions on one sequence in one continuation: copies of its tokens beside the clean ones.

A copy stands for the token at position ``t`` whose activation at the site is another vector. It keeps that
position, sees the clean tokens before ``t`` and itself, and is seen by nothing. In a causal model its hidden
state is then the one that changing this token alone would give, so that one continuation over the ``T``
clean tokens and ``E`` copies serves ``E`` interventions.

Copies are handed to the model as further tokens, with position ids and a four-dimensional attention mask,
which the model uses as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from saebench.models.continuation import Prefix, replaced, resumed
from saebench.models.language_model import LanguageModel
from saebench.sites import Site

_FULL, _SLIDING = "full_attention", "sliding_attention"
_MAX_COPIES = 4096
PASS_TOKENS = {
    "cpu": 4096
}  # of a continuation: what a core's cache holds, what fills an accelerator
ACCELERATOR_PASS_TOKENS = 2**16
MASK_BYTES = {"cpu": 2**24}
ACCELERATOR_MASK_BYTES = 2**29


@dataclass(frozen=True)
class Copies:
    """Tokens of a prefix with another activation ``vectors[n, width]``: ``row[n]``, ``position[n]`` (int64).

    ``row`` numbers the sequences of the prefix. Copies of one sequence need not be distinct tokens.
    """

    row: np.ndarray
    position: np.ndarray
    vectors: Tensor

    def __len__(self) -> int:
        """How many copies there are."""
        return len(self.row)


Found = tuple[Tensor, Tensor, Tensor]
"""Places in the copies ``[m]``, and after the final norm ``[m, d]``: the copies, the tokens as they are."""


@dataclass(frozen=True)
class Piece:
    """Copies of one sequence in one row: ``order[start:stop]``, beside the clean tokens up to the last."""

    row: int
    start: int
    stop: int
    length: int

    @property
    def n_copies(self) -> int:
        """How many copies the row holds."""
        return self.stop - self.start


def windows(model: LanguageModel) -> dict[str, int | None] | str:
    """The sliding window (None: all tokens before) of each type of layer, or why copies cannot be packed."""
    config = model.model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if types is None:
        return {_FULL: window}
    if unknown := set(types) - {_FULL, _SLIDING}:
        return f"layers of type {', '.join(sorted(unknown))}"
    return {kind: window if kind == _SLIDING else None for kind in sorted(set(types))}


def packed(model: LanguageModel, prefix: Prefix, site: Site, copies: Copies) -> Iterator[Found]:
    """Continue a prefix with copies: yields :data:`Found` until every copy was there.

    ``site`` is canonical and held by the prefix. Whether the model gives copies what they would have in a
    sequence of their own must have been tried (:mod:`saebench.models.copies`).
    """
    order = np.lexsort((copies.position, copies.row))
    numbers = torch.from_numpy(order).to(model.device)
    positions = torch.from_numpy(copies.position[order]).to(model.device)
    vectors = copies.vectors
    for pieces in passes(_pieces(copies, order, model.d_model), model.device):
        yield from _one_pass(model, prefix, site, pieces, (numbers, positions, vectors))


def _pieces(copies: Copies, order: np.ndarray, d_model: int) -> list[Piece]:
    """Cut the copies of each sequence into rows such that neither tokens nor copies dominate the cost."""
    row, position = copies.row[order], copies.position[order]
    edges = np.r_[np.flatnonzero(np.diff(row, prepend=-1)), len(row)].tolist()
    pieces = []
    for start, stop in pairwise(edges):
        length = int(position[stop - 1]) + 1
        # Linear layers cost 24·d² a token, attention 4·d·(T + E); this E is cheapest for each copy.
        best = min(_MAX_COPIES, sqrt(length * (length + 6 * d_model)))
        n_rows = max(1, round((stop - start) / best))
        ends = np.linspace(start, stop, n_rows + 1).astype(int).tolist()
        for first, last in pairwise(ends):
            pieces.append(Piece(int(row[first]), first, last, int(position[last - 1]) + 1))
    return pieces


def passes(pieces: Sequence[Piece], device: torch.device) -> Iterator[list[Piece]]:
    """Groups of pieces of similar shape that go through the model together."""
    tokens = PASS_TOKENS.get(device.type, ACCELERATOR_PASS_TOKENS)
    mask = MASK_BYTES.get(device.type, ACCELERATOR_MASK_BYTES) // 4
    group: list[Piece] = []
    longest = most = 0
    for piece in sorted(pieces, key=lambda item: (item.length, item.n_copies)):
        longest, most = max(longest, piece.length), max(most, piece.n_copies)
        width, n_rows = longest + most, len(group) + 1
        if group and (n_rows * width > tokens or n_rows * width * width > mask):
            yield group
            group, longest, most = [], piece.length, piece.n_copies
        group.append(piece)
    if group:
        yield group


def _one_pass(
    model: LanguageModel, prefix: Prefix, site: Site, pieces: list[Piece], found: tuple
) -> Iterator[Found]:
    """One continuation; two of half the size, as often as it takes, where memory runs out."""
    try:
        result = _continued(model, prefix, site, pieces, *found)
    except torch.OutOfMemoryError:
        if len(pieces) == pieces[0].n_copies == 1:
            raise
        result = None
    if result is not None:
        yield result
        return
    torch.cuda.empty_cache()
    if len(pieces) == 1:
        whole = pieces[0]
        middle = (whole.start + whole.stop) // 2
        pieces = [replace(whole, stop=middle), replace(whole, start=middle)]
    half = len(pieces) // 2
    for part in (pieces[:half], pieces[half:]):
        yield from _one_pass(model, prefix, site, part, found)


def _continued(
    model: LanguageModel,
    prefix: Prefix,
    site: Site,
    pieces: list[Piece],
    numbers: Tensor,
    positions: Tensor,
    vectors: Tensor,
) -> Found:
    length, most = max(p.length for p in pieces), max(p.n_copies for p in pieces)
    table = torch.tensor([(p.row, p.start, p.n_copies) for p in pieces], device=model.device)
    rows, place = table[:, 0], torch.arange(most, device=model.device)
    real = place < table[:, 2:]
    entry = (table[:, 1:2] + place).where(real, table[:, 1:2])
    at = positions[entry].where(real, 0)
    clean = torch.arange(length, device=model.device)

    def beside(whole: Tensor) -> Tensor:
        """``[b, t, …]`` of the prefix as it is in each row: the clean tokens, and those copied."""
        return torch.cat((whole[rows, :length], whole[rows[:, None], at]), 1)

    ids = beside(prefix.ids)
    widened = replace(
        prefix,
        ids=ids,
        attention_mask=None,
        activations={key: beside(value) for key, value in prefix.activations.items()},
    )
    activation = prefix.activations[site]
    given = vectors[numbers[entry]].to(activation)
    replacement = torch.cat((activation[rows, :length], given), 1)
    position_ids = torch.cat((clean.expand(len(pieces), -1), at), 1)
    kept = None if prefix.attention_mask is None else prefix.attention_mask[rows, :length].bool()
    mask = _masks(model, position_ids, length, kept)
    model.calls["suffix"] += 1
    with torch.no_grad(), replaced(resumed(model.blocks, widened, site, replacement)):
        hidden = model._decoder(
            input_ids=ids, attention_mask=mask, position_ids=position_ids, use_cache=False
        )[0]
    before = hidden[torch.arange(len(pieces), device=model.device)[:, None], at]
    return numbers[entry[real]], hidden[:, length:][real], before[real]


def _masks(
    model: LanguageModel, position_ids: Tensor, length: int, kept: Tensor | None
) -> Tensor | dict[str, Tensor]:
    """What is added to attention scores ``[r, 1, w, w]``: by type of layer where there are several."""
    known = windows(model)
    assert isinstance(known, dict)
    masks = {
        kind: _mask(position_ids, length, kept, window, model.dtype)
        for kind, window in known.items()
    }
    return masks if len(masks) > 1 else next(iter(masks.values()))


def _mask(
    position_ids: Tensor, length: int, kept: Tensor | None, window: int | None, dtype: torch.dtype
) -> Tensor:
    """0 where a query sees a key: itself, and the real clean tokens before its position."""
    n_rows, width = position_ids.shape
    at, keys = position_ids[:, :, None], torch.arange(length, device=position_ids.device)
    seen = keys < at
    if window is not None and window < length:
        seen &= keys > at - window
    if kept is not None:
        seen &= kept[:, None, :]
    mask = torch.full(
        (n_rows, 1, width, width), torch.finfo(dtype).min, dtype=dtype, device=keys.device
    )
    mask[:, 0, :, :length].masked_fill_(seen, 0)
    mask.diagonal(dim1=2, dim2=3).zero_()
    return mask
