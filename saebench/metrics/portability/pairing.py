"""Codes of one dictionary on the same tokens under two models, entry set against entry."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saebench.codes import SparseCodes
from saebench.metrics.sums import check_alike, wide


@dataclass(frozen=True)
class Entries:
    """The non-zero codes of one model: ``rows[e]`` (the token), ``latents[e]``, ``values[e]`` float64.

    They are in the order of tokens, and of latents within a token.
    """

    rows: Tensor
    latents: Tensor
    values: Tensor

    @classmethod
    def of(cls, codes: SparseCodes) -> Entries:
        """The entries of ``codes``, put in order."""
        rows, latents = codes.rows(), codes.indices.long()
        order = (rows * codes.d_sae + latents).argsort()
        values = wide(codes.values)
        order = order.to(values.device)
        return cls(rows.to(values.device)[order], latents.to(values.device)[order], values[order])


@dataclass(frozen=True)
class PairedCodes:
    """Entries under the reference and under a variant, and which of them are the same latent on one token.

    ``shared_reference[s]`` and ``shared_variant[s]`` are places in the two lists of entries.
    """

    n_tokens: int
    d_sae: int
    reference: Entries
    variant: Entries
    shared_reference: Tensor
    shared_variant: Tensor

    @classmethod
    def of(cls, reference: SparseCodes, variant: SparseCodes) -> PairedCodes:
        """The codes of the same tokens under two models; raises :class:`ConfigError` for other shapes."""
        shapes = [(codes.n_tokens, codes.d_sae) for codes in (reference, variant)]
        check_alike("tokens and latents", *shapes)
        entries = Entries.of(reference), Entries.of(variant)
        keys = [item.rows * reference.d_sae + item.latents for item in entries]
        if not all(key.shape[0] for key in keys):
            nothing = keys[0].new_empty(0)
            return cls(*shapes[0], *entries, nothing, nothing)
        places = torch.searchsorted(keys[1], keys[0]).clamp_max(keys[1].shape[0] - 1)
        same = keys[1][places] == keys[0]
        return cls(*shapes[0], *entries, same.nonzero().squeeze(1), places[same])

    @property
    def products(self) -> Tensor:
        """The product of both codes at every shared entry, ``[s]``."""
        return (
            self.reference.values[self.shared_reference] * self.variant.values[self.shared_variant]
        )
