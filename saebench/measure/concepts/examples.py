"""Texts in which latents peak, cut to a window around the token that reaches the largest code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from saebench.data.labelled import LabelledText
from saebench.evals.peaks import PeakCodes

BEFORE, AFTER = 16, 8  # tokens of a window: what a latent answers to lies before its token
ROWS = 64  # texts read at a time
Found = dict[int, dict[str, list[dict[str, Any]]]]  # by latent, then by class


def examples_of(
    latents: Sequence[int],
    peaks: PeakCodes,
    text: LabelledText,
    decode: Callable[[Sequence[int]], str],
    n_examples: int,
) -> Found:
    """The texts of each class with the largest codes of each latent, the largest first.

    Each has the ``code``, its ``text`` number, ``position`` in the sequence, and the window as ``before``,
    ``token`` and ``after``. ``decode`` turns token ids into text.
    """
    chosen = np.asarray(latents, dtype=np.int64)
    codes, places = (
        np.asarray(matrix[:, chosen].toarray()) for matrix in (peaks.values, peaks.positions)
    )
    found: Found = {int(latent): {name: [] for name in text.classes} for latent in latents}
    for column, latent in enumerate(chosen.tolist()):
        for number, name in enumerate(text.classes):
            rows = np.flatnonzero((text.labels == number) & (places[:, column] > 0))
            order = np.argsort(-codes[rows, column], kind="stable")[:n_examples]
            found[latent][name] = [
                {
                    "text": int(row),
                    "position": int(places[row, column]) - 1,  # stored plus one
                    "code": float(codes[row, column]),
                }
                for row in rows[order]
            ]
    shown = [one for classes in found.values() for some in classes.values() for one in some]
    ids = _ids(text, {one["text"] for one in shown})
    for one in shown:
        one.update(window(ids[one["text"]], one["position"], decode))
    return found


def window(
    ids: Sequence[int], position: int, decode: Callable[[Sequence[int]], str]
) -> dict[str, str]:
    """The tokens about a position as text: ``before``, ``token``, ``after``.

    Parts are cut from the text of the whole window where that begins with them, since tokenizers drop the
    space in front of what they decode alone.
    """
    start = max(0, position - BEFORE)
    pieces = [ids[start:position], ids[start : position + 1], ids[start : position + 1 + AFTER]]
    head, with_token, whole = (decode(piece) if len(piece) else "" for piece in pieces)
    token = _rest(with_token, head, lambda: decode(ids[position : position + 1]))
    after = _rest(whole, with_token, lambda: decode(ids[position + 1 : position + 1 + AFTER]))
    return {
        "before": ("… " if start else "") + head,
        "token": token,
        "after": after + (" …" if position + 1 + AFTER < len(ids) else ""),
    }


def _rest(longer: str, beginning: str, otherwise: Callable[[], str]) -> str:
    if longer.startswith(beginning):
        return longer[len(beginning) :]
    return otherwise()


def _ids(text: LabelledText, wanted: Iterable[int]) -> dict[int, list[int]]:
    """The token ids of some texts by their number."""
    left, found = set(wanted), {}
    for batch in text.stream.batches(ROWS):
        if not left:
            break
        for number, row, mask in zip(
            batch.sequence_ids.tolist(), batch.ids, batch.attention_mask, strict=True
        ):
            if number in left:
                left.discard(number)
                found[number] = _kept(row, mask)
    return found


def _kept(row: Tensor, mask: Tensor) -> list[int]:
    """The ids of a sequence up to the end of its padding, so that positions stay what they are."""
    last = int(mask.nonzero()[-1]) + 1
    return [int(one) for one in row[:last].tolist()]
