"""The model on given texts, steered and not: divergence, the next token after the prompt, coherence.

The model runs up to the site once per batch; each steered run goes on from there. Logits exist only where
a token of a completion is predicted, and only for a chunk of positions at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saebench.metrics.prediction import against_clean, clean_part
from saebench.models import LanguageModel, Prefix
from saebench.models.steered import Change, at_positions
from saebench.protocols import Where
from saebench.sites import Site
from saebench.steering.outcomes import ClassTokens

AT_ONCE = 8  # steered runs whose hidden states are in memory together
LOGIT_BYTES = 2**26


@dataclass(frozen=True)
class Text:
    """Token ids of a prompt, BOS included, and of what follows it."""

    prompt: Sequence[int]
    completion: Sequence[int]


@dataclass(frozen=True)
class Effect:
    """A steered run beside the clean one, by text ``[n]``, NaN where there is nothing to read.

    ``kl`` is the mean of KL(clean‖steered) in nats over the predictions of the completion's tokens;
    ``logit_difference`` that of the classes at the first of them. ``same`` (bool): whether
    the last hidden states of its batch are the clean ones to the bit.
    """

    kl: np.ndarray
    logit_difference: np.ndarray
    same: np.ndarray

    @classmethod
    def empty(cls, n: int) -> Effect:
        """Nothing read yet."""
        return cls(np.full(n, np.nan), np.full(n, np.nan), np.zeros(n, dtype=bool))


@dataclass(frozen=True)
class _Batch:
    """Texts padded on the right: ``ids[b, t]``, ``mask[b, t]``; which rows of all texts they are.

    ``rows[m]`` and ``columns[m]`` place what is predicted from, ``targets[m]`` is what follows. ``first[b]``
    are the last tokens of the prompts.
    """

    numbers: np.ndarray
    ids: Tensor
    mask: Tensor
    prompt: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor
    first: Tensor


@torch.no_grad()
def compare(
    model: LanguageModel,
    site: Site | str,
    texts: Sequence[Text],
    changes: Mapping[str, Change],
    *,
    tokens: ClassTokens | None = None,
    positions: Where = "all",
    batch_size: int,
) -> tuple[np.ndarray, dict[str, Effect]]:
    """Every change at the site against the clean run, on the same texts.

    Returns the clean run's ``logit_difference[n]``, and an :class:`Effect` for each change. Without
    ``tokens`` no difference of logits is read. ``positions`` says whose activations are changed: those of
    the prompts' tokens, of the completions', or all.
    """
    tokens = tokens or ClassTokens(reason="not asked for")
    clean_difference = np.full(len(texts), np.nan)
    found = {name: Effect.empty(len(texts)) for name in changes}
    for batch in _batches(model, texts, batch_size):
        prefix = model.prefix(batch.ids, _mask(batch), [site])
        activation = prefix.at(site)
        clean = model.resume(prefix, site, activation)
        clean_difference[batch.numbers] = _difference(model, batch, clean, tokens)
        where = _where(batch, positions)
        names = list(changes)
        for start in range(0, len(names), AT_ONCE):
            some = names[start : start + AT_ONCE]
            hidden = {
                name: _resumed(model, prefix, site, at_positions(changes[name], where))
                for name in some
            }
            kl = _divergence(model, batch, clean, hidden)
            for name in some:
                found[name].kl[batch.numbers] = kl[name]
                found[name].same[batch.numbers] = torch.equal(hidden[name], clean)
                found[name].logit_difference[batch.numbers] = _difference(
                    model, batch, hidden[name], tokens
                )
    return clean_difference, found


@torch.no_grad()
def cross_entropy(model: LanguageModel, texts: Sequence[Text], *, batch_size: int) -> np.ndarray:
    """``[n]`` float64: nats per token of the model, unsteered, on the completion of each text.

    NaN where a completion has no token.
    """
    site = Site(model.n_layers - 1, "resid_post")
    found = np.full(len(texts), np.nan)
    for batch in _batches(model, texts, batch_size):
        prefix = model.prefix(batch.ids, _mask(batch), [site])
        hidden = model.resume(prefix, site, prefix.at(site))
        parts = [
            clean_part(model.unembed(hidden[rows, columns]), targets).ce
            for rows, columns, targets in _chunks(model, batch)
        ]
        found[batch.numbers] = _means(batch, parts)
    return found


@torch.no_grad()
def mean_norm(
    model: LanguageModel, site: Site | str, texts: Sequence[Text], *, batch_size: int
) -> float:
    """The mean norm of the activation at a site over all tokens but the first of each text.

    The first one, BOS mostly, has a norm many times that of the others in many models.
    """
    total, count = 0.0, 0
    for batch in _batches(model, texts, batch_size):
        norms = model.prefix(batch.ids, _mask(batch), [site]).at(site).double().norm(dim=-1)
        total += float(norms[:, 1:][batch.mask[:, 1:]].sum())
        count += int(batch.mask[:, 1:].sum())
    return total / max(count, 1)


def _resumed(model: LanguageModel, prefix: Prefix, site: Site | str, change: Change) -> Tensor:
    return model.resume(prefix, site, change(prefix.at(site)))


def _divergence(
    model: LanguageModel, batch: _Batch, clean: Tensor, hidden: Mapping[str, Tensor]
) -> dict[str, np.ndarray]:
    """Mean KL(clean‖other) of each text, by name."""
    parts: dict[str, list[Tensor]] = {name: [] for name in hidden}
    for rows, columns, targets in _chunks(model, batch):
        part = clean_part(model.unembed(clean[rows, columns]), targets)
        for name, other in hidden.items():
            logits = model.unembed(other[rows, columns])
            parts[name].append(against_clean(part, logits, reverse=False).kl)
    return {name: _means(batch, of_name) for name, of_name in parts.items()}


def _difference(
    model: LanguageModel, batch: _Batch, hidden: Tensor, tokens: ClassTokens
) -> np.ndarray | float:
    if tokens.reason is not None:
        return np.nan
    rows = torch.arange(len(batch.numbers), device=hidden.device)
    logits = model.unembed(hidden[rows, batch.first])
    return tokens.difference(logits).cpu().numpy()


def _means(batch: _Batch, parts: Sequence[Tensor]) -> np.ndarray:
    """Means over the completion of each text of a batch, from values at the scored positions in order."""
    if not parts:
        return np.full(len(batch.numbers), np.nan)
    values = torch.cat(list(parts)).double()
    rows = batch.rows.to(values.device)
    count = torch.bincount(rows, minlength=len(batch.numbers))
    sums = values.new_zeros(len(batch.numbers)).index_add_(0, rows, values)
    return torch.where(count > 0, sums / count, torch.nan).cpu().numpy()


def _chunks(model: LanguageModel, batch: _Batch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows, columns and targets of some scored positions at a time."""
    size = max(1, LOGIT_BYTES // (4 * model.vocab_size))
    yield from zip(
        *(part.split(size) for part in (batch.rows, batch.columns, batch.targets)), strict=True
    )


def _where(batch: _Batch, positions: Where) -> Tensor:
    if positions == "all":
        return torch.ones_like(batch.prompt)
    return batch.prompt if positions == "prompt" else ~batch.prompt


def _mask(batch: _Batch) -> Tensor | None:
    return None if bool(batch.mask.all()) else batch.mask


def _batches(model: LanguageModel, texts: Sequence[Text], batch_size: int) -> Iterator[_Batch]:
    """Texts of like length together, so that little is padded; results go by their numbers."""
    lengths = np.array([len(text.prompt) + len(text.completion) for text in texts])
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield _batch(model, texts, order[start : start + batch_size])


def _batch(model: LanguageModel, texts: Sequence[Text], numbers: np.ndarray) -> _Batch:
    some = [texts[number] for number in numbers]
    longest = max(len(text.prompt) + len(text.completion) for text in some)
    ids = torch.zeros(len(some), longest, dtype=torch.int64)
    mask = torch.zeros(len(some), longest, dtype=torch.bool)
    prompt, scored = torch.zeros_like(mask), torch.zeros_like(mask)
    for row, text in enumerate(some):
        both = [*text.prompt, *text.completion]
        n, whole = len(text.prompt), len(both)
        ids[row, :whole] = torch.tensor(both)
        mask[row, :whole], prompt[row, :n] = True, True
        scored[row, n - 1 : whole - 1] = True
    ids, mask, prompt, scored = (item.to(model.device) for item in (ids, mask, prompt, scored))
    rows, columns = scored.nonzero(as_tuple=True)
    first = prompt.sum(1) - 1
    return _Batch(numbers, ids, mask, prompt, rows, columns, ids[rows, columns + 1], first)
