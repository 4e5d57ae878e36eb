"""Hidden states after changing one token each: packed beside the clean tokens, or in rows of their own.

Packing (:mod:`saebench.models.packed`) is certified by a trial on the model itself, at the length of the
text: the same interventions both ways. A model whose own attention, shared keys and values or encoding of
positions makes them differ gets a row for every intervention, cut after the token that is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from saebench.errors import ModelError
from saebench.models.continuation import Prefix
from saebench.models.language_model import LanguageModel
from saebench.models.packed import (
    ACCELERATOR_PASS_TOKENS,
    PASS_TOKENS,
    Copies,
    Found,
    packed,
    windows,
)
from saebench.sites import Site

__all__ = ["Copies", "hidden_states", "way"]

_TRIAL_ROWS = 2
_TRIAL_COPIES = 5  # of each of its rows
_certified: WeakKeyDictionary[LanguageModel, dict[Site, tuple[int, str]]] = WeakKeyDictionary()


def hidden_states(
    model: LanguageModel, prefix: Prefix, site: Site | str, copies: Copies, *, how: str = ""
) -> tuple[Tensor, Tensor]:
    """``hidden[n, d]`` after the final norm at each copy's token, and the same of the token as it is.

    In the first the copy's vector is in the activation's place. Both come from one continuation where copies
    are packed, so that what it rounds is alike.

    ``prefix`` holds the site. ``how`` is what :func:`way` says; by default it is asked for the length of the
    prefix.

    Raises
    ------
    SiteError : the prefix does not hold the site.
    ModelError : not even a single copy fits into memory.
    """
    key = model.site(site)
    clean = prefix.at(key)
    how = how or way(model, key, clean.shape[1])
    out, before = (clean.new_empty(len(copies), model.d_model, dtype=model.dtype) for _ in range(2))
    continue_with = packed if how == "packed" else _in_rows
    try:
        for number, changed, same in continue_with(model, prefix, key, copies):
            out[number], before[number] = changed.to(out), same.to(before)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"one changed token in a sequence of {clean.shape[1]} tokens",
            "it does not fit into memory",
            "Lower context_size, or use a smaller dtype or another device",
        ) from error
    return out, before


def way(model: LanguageModel, site: Site | str, length: int) -> str:
    """ "packed" where a trial at this length finds it exact, else "rows: " and the reason.

    A trial serves all shorter texts; longer ones, which may reach past a sliding window, get one of their
    own.
    """
    key = model.site(site)
    known = _certified.setdefault(model, {})
    if key not in known or known[key][0] < length:
        known[key] = (length, _trial(model, key, length))
    return known[key][1]


def _trial(model: LanguageModel, site: Site, length: int) -> str:
    kinds = windows(model)
    if isinstance(kinds, str):
        return f"rows: {kinds}"
    if model.token_dependent_suffix:
        return "rows: late blocks read more than the residual stream"
    before = model.calls.copy()
    generator = torch.Generator().manual_seed(0)
    vocab = min(model.vocab_size, int(model.model.config.get_text_config().vocab_size))
    ids = torch.randint(vocab, (_TRIAL_ROWS, length), generator=generator).to(model.device)
    prefix = model.prefix(ids, None, [site])
    clean = prefix.at(site)
    each = np.unique(np.linspace(0, length - 1, _TRIAL_COPIES).astype(np.int64))
    row, position = np.repeat(np.arange(_TRIAL_ROWS), len(each)), np.tile(each, _TRIAL_ROWS)
    vectors = clean[torch.from_numpy(row), torch.from_numpy(position)]
    noise = torch.randn(vectors.shape, generator=generator).to(vectors)
    copies = Copies(row, position, vectors + noise * clean.float().std().to(noise))
    expected = torch.stack(hidden_states(model, prefix, site, copies, how="rows")).float()
    try:
        got = torch.stack(hidden_states(model, prefix, site, copies, how="packed")).float()
    except (ModelError, torch.OutOfMemoryError):
        raise
    except (
        Exception
    ) as error:  # whatever a model does with masks or positions that it does not expect
        return f"rows: {type(error).__name__} with copies beside the tokens"
    finally:
        model.calls = before
    gap = float((got - expected).abs().max() / expected.abs().max())
    if not gap <= model._tolerance:
        return f"rows: copies beside the tokens differ by {gap:.2g} of the largest value"
    return "packed"


def _in_rows(model: LanguageModel, prefix: Prefix, site: Site, copies: Copies) -> Iterator[Found]:
    """A row for every copy, cut after the last changed token of those that run together."""
    clean = model.resume(prefix, site, prefix.at(site))
    order = np.argsort(copies.position, kind="stable")
    tokens = PASS_TOKENS.get(model.device.type, ACCELERATOR_PASS_TOKENS)
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order):
            if (stop + 1 - start) * (copies.position[order[stop]] + 1) > tokens:
                break
            stop += 1
        yield from _some_rows(model, prefix, site, copies, order[start:stop], clean)
        start = stop


def _some_rows(
    model: LanguageModel,
    prefix: Prefix,
    site: Site,
    copies: Copies,
    numbers: np.ndarray,
    clean: Tensor,
) -> Iterator[Found]:
    try:
        result = _resumed(model, prefix, site, copies, numbers, clean)
    except torch.OutOfMemoryError:
        if len(numbers) == 1:
            raise
        result = None
    if result is not None:
        yield result
        return
    torch.cuda.empty_cache()
    half = len(numbers) // 2
    for part in (numbers[:half], numbers[half:]):
        yield from _some_rows(model, prefix, site, copies, part, clean)


def _resumed(
    model: LanguageModel,
    prefix: Prefix,
    site: Site,
    copies: Copies,
    numbers: np.ndarray,
    clean: Tensor,
) -> Found:
    rows, at, chosen = (
        torch.from_numpy(array).to(model.device)
        for array in (copies.row[numbers], copies.position[numbers], numbers)
    )
    some = prefix.rows(rows)
    if not prefix.shared:  # keys and values of early blocks are handed on at full length
        some = _cut(some, int(copies.position[numbers].max()) + 1)
    place = torch.arange(len(numbers), device=model.device)
    replacement = some.at(site).clone()
    replacement[place, at] = copies.vectors[chosen].to(replacement)
    return chosen, model.resume(some, site, replacement)[place, at], clean[rows, at]


def _cut(prefix: Prefix, length: int) -> Prefix:
    """The first tokens of every sequence; nothing after them can reach them."""
    mask = prefix.attention_mask
    return replace(
        prefix,
        ids=prefix.ids[:, :length],
        attention_mask=None if mask is None else mask[:, :length],
        activations={site: value[:, :length] for site, value in prefix.activations.items()},
    )
