"""Next-token distributions of ablated tokens against those of the same tokens as they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saebench.causal.divergences import changes, cosine
from saebench.causal.items import Items
from saebench.models import LanguageModel

LOGIT_BYTES = {"cpu": 2**23}  # of one chunk of logits, float32
ACCELERATOR_LOGIT_BYTES = 2**29
MIN_ROWS = 64  # below this the unembedding product itself slows down
Pair = tuple[int, int]
_Divergences = tuple[int, np.ndarray, Tensor]  # model, its items [m], and both divergences [2, m]


@dataclass(frozen=True)
class Compared:
    """Of each item ``[n]``, float64: ``kl`` and ``kl_reverse`` by model, and the cosine; else NaN."""

    kl: dict[int, np.ndarray]
    kl_reverse: dict[int, np.ndarray]
    cosine: np.ndarray


def compare(
    models: Mapping[int, LanguageModel],
    items: Items,
    hidden: Mapping[int, tuple[Tensor, Tensor]],
    unchanged: Mapping[int, Tensor],
    pairs: Sequence[Pair | None],
) -> Compared:
    """The divergences of every item in every model, and the cosines of the arms that have a pair of models.

    ``hidden[model]`` are two of ``[m, d]`` after the final norm, of the model's items and of their tokens as
    they were; ``unchanged[model][m]`` marks items from which nothing was subtracted, whose divergence is 0
    by definition. Logits are held for one chunk of items, those of a clean token once for all its items;
    chunks are halved where memory runs out.

    Raises
    ------
    torch.OutOfMemoryError : the logits of a single item do not fit.
    """
    n = len(items)
    mine = {number: items.in_model(number) for number in models}
    kl = {number: np.full(n, np.nan) for number in models}
    back = {number: np.full(n, np.nan) for number in models}
    angle = np.full(n, np.nan)
    found: list[_Divergences] = []
    angles: list[tuple[np.ndarray, Tensor]] = []
    rows, start = _chunk_rows(models), 0
    while start < n:
        stop, part = min(n, start + rows), None
        try:
            part = _chunk(models, items, mine, (start, stop), hidden, unchanged, pairs)
        except torch.OutOfMemoryError:
            if stop - start == 1:
                raise
        if part is None:  # outside of the handler, which holds on to what did not fit
            torch.cuda.empty_cache()
            rows = (stop - start) // 2
            continue
        found += part[0]
        angles += part[1]
        start = stop
    for number, here, both in found:
        kl[number][here], back[number][here] = both.cpu().numpy()
    for at, values in angles:
        angle[at] = values.cpu().numpy()
    return Compared(kl, back, angle)


def _chunk(
    models: Mapping[int, LanguageModel],
    items: Items,
    mine: Mapping[int, np.ndarray],
    span: tuple[int, int],
    hidden: Mapping[int, tuple[Tensor, Tensor]],
    unchanged: Mapping[int, Tensor],
    pairs: Sequence[Pair | None],
) -> tuple[list[_Divergences], list[tuple[np.ndarray, Tensor]]]:
    """The divergences and the cosines of the items of one span, whose logits are held together."""
    found, deltas = [], {}
    for number, model in models.items():
        first, last = np.searchsorted(mine[number], span).tolist()
        if first == last:
            continue
        here = mine[number][first:last]
        ablated, before = (side[first:last] for side in hidden[number])
        _, own, token = np.unique(items.token[here], return_index=True, return_inverse=True)
        clean = model.unembed(before[torch.from_numpy(own).to(before.device)]).float()
        logits = model.unembed(ablated)
        of = torch.from_numpy(token).to(clean.device)
        change = changes(clean, clean.softmax(1), of, logits)
        same = unchanged[number][first:last].to(change.kl.device)
        both = torch.stack((change.kl, change.kl_reverse)).masked_fill(same, 0)
        found.append((number, here, both))
        deltas[number] = (here, change.delta, same)
    return found, list(_angles(items, pairs, deltas))


def _chunk_rows(models: Mapping[int, LanguageModel]) -> int:
    """How many items have their logits held together."""
    vocab = max(model.vocab_size for model in models.values())
    device = next(iter(models.values())).device
    return max(MIN_ROWS, LOGIT_BYTES.get(device.type, ACCELERATOR_LOGIT_BYTES) // (4 * vocab))


def _angles(
    items: Items, pairs: Sequence[Pair | None], deltas: Mapping[int, tuple]
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """The cosines of a chunk: of every pair of models, the items whose arm has it."""
    for pair in dict.fromkeys(pair for pair in pairs if pair):
        if any(number not in deltas for number in pair):
            continue
        has = np.array([other == pair for other in pairs], bool)
        sides = []
        for number in pair:
            here, delta, same = deltas[number]
            keep = has[items.arm[here]]
            where = here[keep]
            if not keep.all():
                chosen = torch.from_numpy(np.flatnonzero(keep))
                delta, same = delta[chosen.to(delta.device)], same[chosen.to(same.device)]
            sides.append((where, delta, same))
        (where, first, still), (_, second, idle) = sides
        values = cosine(first, second.to(first.device))
        yield where, values.masked_fill(still | idle.to(still.device), torch.nan)
