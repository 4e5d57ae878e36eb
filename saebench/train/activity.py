"""Activations of one or more models, batch after batch, and which tokens they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from saebench.data import Batch, TokenStream
from saebench.errors import DataError, ModelError
from saebench.models import LanguageModel
from saebench.train.recipe import Recipe
from saebench.train.streams import Wanted

MOST_NAMED = 8  # sequences in a message


class Reading:
    """Activations of the counted tokens of a stream; remembers what was read.

    A row holds what is ``wanted``, activation after activation. Each model runs once per batch, up to
    the last of its sites. ``epochs`` counts how often the stream was begun, ``samples`` the rows that
    were different ones: those of the first reading.
    """

    def __init__(
        self,
        recipe: Recipe,
        models: Sequence[LanguageModel],
        wanted: Sequence[Wanted],
        stream: TokenStream,
    ) -> None:
        self.models = models
        self.wanted = wanted
        self.stream = stream
        self.sequences = 0
        self.epochs = 0
        self.samples = 0
        self._batch_size = recipe.model_batch_size
        self._digest = hashlib.sha256()

    def once(self, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """``(rows[n, W] float32, sequence_ids[n])`` per batch, from sequence ``skip`` to the end.

        Raises :class:`ModelError` on activations that are not finite.
        """
        self.epochs += 1
        for batch in self.stream.batches(self._batch_size):
            keep = batch.sequence_ids >= skip
            if bool(keep.any()):
                found = self._run(
                    Batch(
                        batch.ids[keep],
                        batch.attention_mask[keep],
                        batch.counted[keep],
                        batch.sequence_ids[keep],
                    )
                )
                self.samples += len(found[0]) if self.epochs == 1 else 0
                yield found

    def forever(self, skip: int = 0) -> Iterator[Tensor]:
        """Chunks ``rows[n, W]``, from the start again each time the stream ends.

        Raises :class:`DataError` when nothing is left beyond the first ``skip`` sequences.
        """
        while True:
            found = False
            for x, _ in self.once(skip):
                if len(x):
                    found = True
                    yield x
            if not found:
                beyond = (
                    f"none beyond the first {skip} sequences, which are held out"
                    if skip
                    else "none"
                )
                raise DataError(
                    f"tokens to train on in {self.stream.source.get('spec')!r}",
                    beyond,
                    "Give more data, a separate held_out text, or fewer heldout_tokens.",
                )

    def first(self, n: int) -> tuple[Tensor, int]:
        """The first ``n`` rows ``[n, W]``, and the number of sequences they come from.

        Fewer where the stream is shorter; raises :class:`DataError` when there is none.
        """
        kept: list[Tensor] = []
        sequences = 0
        for x, sequence_ids in self.once():
            kept.append(x[:n])
            n -= len(kept[-1])
            if len(kept[-1]):
                sequences = int(sequence_ids[len(kept[-1]) - 1]) + 1
            if n <= 0:
                break
        if not sequences:
            raise DataError(
                f"held-out tokens in {self.stream.source.get('spec')!r}",
                "no token that the mask policy counts",
                "Give other data, or another mask policy.",
            )
        return torch.cat(kept), sequences

    def describe(self) -> dict[str, Any]:
        """The source and what was read of it, as plain JSON values.

        ``digest`` is SHA-256 over the token ids of all sequences read, in order; ``text_digest`` that
        of the stream as records of runs have it, where all of it was read.
        """
        return {
            **self.stream.source,
            "sequences_read": self.sequences,
            "epochs": self.epochs,
            "samples": self.samples,
            "digest": self._digest.hexdigest(),
            "text_digest": None if self.stream.n_sequences is None else self.stream.digest,
        }

    def _run(self, batch: Batch) -> tuple[Tensor, Tensor]:
        sequence_ids = batch.sequence_ids[batch.counted.nonzero()[:, 0]]
        parts: dict[Wanted, Tensor] = {}
        for number, model in enumerate(self.models):
            if sites := [site for which, site in self.wanted if which == number]:
                prefix = model.prefix(batch.ids, batch.attention_mask, sites)
                for site in sites:
                    at_site = prefix.at(site)
                    parts[number, site] = at_site[batch.counted.to(at_site.device)].float()
        found = [parts[key] for key in self.wanted]
        rows = found[0] if len(found) == 1 else torch.cat([x.to(found[0].device) for x in found], 1)
        if not bool(rows.isfinite().all()):
            self._complain(parts, sequence_ids)
        for ids, mask in zip(batch.ids, batch.attention_mask, strict=True):
            self._digest.update(ids[mask].numpy().astype("<i8").tobytes())
        self.sequences += len(batch.ids)
        return rows, sequence_ids

    def _complain(self, parts: Mapping[Wanted, Tensor], sequence_ids: Tensor) -> None:
        """Raise :class:`ModelError` about the first activation with values that are not finite."""
        for (number, site), x in parts.items():
            bad = ~x.isfinite().all(1).cpu()
            if not bool(bad.any()):
                continue
            which = sequence_ids[bad].unique().tolist()
            more = f" and {len(which) - MOST_NAMED} more" if len(which) > MOST_NAMED else ""
            raise ModelError(
                f"finite activations at {site} of model {number} ({self.models[number].id})",
                f"NaN or infinite values in sequences {', '.join(map(str, which[:MOST_NAMED]))}{more}",
                "Run the model in float32 or bfloat16 (model_precision), or choose an earlier site.",
            )
