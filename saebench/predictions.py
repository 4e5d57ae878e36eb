"""What the model predicts when an activation is replaced: clean, spliced and ablated continuations.

The model runs up to a site once per batch (:meth:`LanguageModel.prefix`); everything here resumes from
there. Logits exist only for the chunk of tokens being scored.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from saebench.data import Batch
from saebench.metrics.prediction import Losses, against_clean, clean_part
from saebench.models import LanguageModel, Prefix
from saebench.sites import Site

LOGIT_CHUNK_BYTES = 32 * 2**20
Key = TypeVar("Key", bound=Hashable)

MIN_LOGIT_ROWS = 256  # below this the unembedding product itself slows down
SHARED_LOGIT_BYTES = (
    2**29
)  # of a row that serves all sequences; a longer one is unembedded by chunk


@dataclass(frozen=True)
class Scored:
    """The positions whose next-token prediction is scored, and what the next token is.

    ``rows[m]`` and ``columns[m]`` place each in the batch, ``targets[m]`` is the token that follows.
    A position is scored when the policy counts it and a real token follows it in the same
    sequence: so never the last position, and never into padding, which is known by the attention
    mask and not by a token id (a pad token that is also EOS drops no target).
    """

    rows: Tensor
    columns: Tensor
    targets: Tensor

    @classmethod
    def of(cls, batch: Batch) -> Scored:
        """The scored positions of a batch, sequence after sequence."""
        scored = batch.counted[:, :-1] & batch.attention_mask[:, :-1] & batch.attention_mask[:, 1:]
        rows, columns = scored.nonzero(as_tuple=True)
        return cls(rows, columns, batch.ids[rows, columns + 1])

    def pick(self, hidden: Tensor) -> Tensor:
        """``hidden[b, t, d]`` at the scored positions, ``[m, d]``; a single row serves all sequences."""
        rows = torch.zeros_like(self.rows) if hidden.shape[0] == 1 else self.rows
        return hidden[rows, self.columns]


@dataclass(frozen=True)
class Continuation:
    """Hidden states ``[b, t, d]`` after the final norm, or ``[1, t, d]`` that serve every sequence.

    ``reverse`` asks for KL(continuation‖clean) as well. ``model`` unembeds them where it is another
    than the clean one, with a vocabulary of the same size.
    """

    hidden: Tensor
    reverse: bool = False
    model: LanguageModel | None = None


def spliced(clean: Tensor, counted: Tensor, replacement: Tensor) -> Tensor:
    """``clean[b, t, d]`` with the counted positions replaced by ``replacement[n, d]``.

    Positions that the mask policy does not count keep their clean activation in every continuation
    alike, so that neither the reconstruction nor an ablation is charged for them.
    """
    out = clean.clone()
    out[counted] = replacement.to(out.dtype)
    return out


def continue_from(model: LanguageModel, prefix: Prefix, site: Site, replacement: Tensor) -> Tensor:
    """Hidden states ``[b, t, d]`` (``[1, t, d]`` if all rows are equal) after replacing the site.

    An ablated residual stream holds the same vectors in every sequence; nothing after it can then tell
    the sequences apart, so one of them is continued for all. Not so for sites inside a block (the
    stream around them still differs), under padding, or where later blocks read the tokens again.
    """
    if (
        replacement.shape[0] > 1
        and site.is_residual
        and prefix.is_unpadded
        and not model.token_dependent_suffix
        and bool((replacement == replacement[:1]).all())
    ):
        return model.resume(prefix, site, replacement[:1], rows=slice(0, 1))
    return model.resume(prefix, site, replacement)


def score(
    model: LanguageModel, scored: Scored, clean: Tensor, others: Mapping[Key, Continuation]
) -> tuple[Tensor, dict[Key, Losses]]:
    """``(ce_clean[m], losses per continuation)`` from hidden states after the final norm.

    ``clean`` is ``[b, t, d]``. The clean logits of a chunk are computed once, whatever the number of
    continuations; logits are held for one chunk and one continuation, and for a row that serves all
    sequences where that is within ``SHARED_LOGIT_BYTES``.
    """
    m = scored.targets.shape[0]
    rows = max(MIN_LOGIT_ROWS, LOGIT_CHUNK_BYTES // (4 * model.vocab_size))
    buffers = [clean.new_empty(min(rows, m), model.vocab_size) for _ in range(2)]
    scratch = buffers[0].float().clone()
    row_bytes = clean.shape[1] * model.vocab_size * clean.element_size()
    shared = {
        name: model.unembed(other.hidden[0])
        for name, other in others.items()
        if other.hidden.shape[0] == 1 != clean.shape[0] and row_bytes <= SHARED_LOGIT_BYTES
    }
    ce_clean: list[Tensor] = []
    parts: dict[Key, list[Losses]] = {name: [] for name in others}
    for start in range(0, m, rows):
        piece = slice(start, start + rows)
        at = Scored(scored.rows[piece], scored.columns[piece], scored.targets[piece])
        here, there = (buffer[: at.targets.shape[0]] for buffer in buffers)
        part = clean_part(model.unembed(at.pick(clean), here), at.targets, out=scratch)
        ce_clean.append(part.ce)
        for name, other in others.items():
            if name in shared:
                logits = torch.index_select(shared[name], 0, at.columns, out=there)
            elif other.model is not None:  # whose dtype may be another than the buffer's
                logits = other.model.unembed(at.pick(other.hidden))
            else:
                logits = model.unembed(at.pick(other.hidden), there)
            parts[name].append(against_clean(part, logits, reverse=other.reverse))
    if not m:
        return clean.new_empty(0).double(), {}
    return torch.cat(ce_clean), {name: _joined(items) for name, items in parts.items()}


def _joined(parts: Sequence[Losses]) -> Losses:
    """The losses of consecutive chunks in one."""
    backward = [part.kl_reverse for part in parts if part.kl_reverse is not None]
    return Losses(
        torch.cat([part.ce for part in parts]),
        torch.cat([part.kl for part in parts]),
        torch.cat(backward) if backward else None,
    )
