"""Decoder rows of a crosscoder over two models: lengths, angles and what they share with the biases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saebench.codes import SparseCodes
from saebench.metrics.crosscoder.chunks import slices
from saebench.metrics.crosscoder.sampled_products import sampled_products
from saebench.metrics.sums import wide
from saebench.sae import SAE
from saebench.sae.normalization import Affine, AverageNorm, Normalization

Floats = npt.NDArray[np.float64]

BASE, CHAT = 0, 1
N_RANDOM = 16  # directions of no meaning, shared out among the latents


class LatentDirections:
    """Decoder rows of a crosscoder over two models in activation units, a few latents at a time.

    ``random[16, d]`` are unit directions drawn with ``seed``, the control for whose direction it is: latent
    ``j`` has number ``j % 16``.
    """

    def __init__(self, sae: SAE, seed: int = 0) -> None:
        self.sae = sae
        drawn = np.random.default_rng(seed).standard_normal((N_RANDOM, sae.cfg.d_out))
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        self.random = torch.from_numpy(drawn).float()

    @property
    def is_scaled(self) -> bool:
        """Whether units of activations differ from those of the weights by a factor per dimension at most."""
        norm = self.sae.normalization
        plain = isinstance(norm, Affine | AverageNorm) or type(norm) is Normalization
        return plain or not self.sae.cfg.undo_normalization

    def factors(self) -> Tensor:
        """What :meth:`rows` multiplies rows of the weights by, ``[2, d]``; where :attr:`is_scaled`."""
        ones = self.sae.W_dec.new_ones(1, self.sae.cfg.width_out)
        norm, undone = self.sae.normalization, self.sae.cfg.undo_normalization
        return (norm.directions(ones) if undone else ones)[0].float().unflatten(0, (2, -1))

    def along_chat(self, y: Tensor, codes: SparseCodes, rows: Tensor) -> Tensor:
        """``y_i · d_j^chat`` of every active entry, ``[nnz]``, of ``y[n, d]``; where :attr:`is_scaled`.

        ``rows[nnz]`` is the token of each entry. The factors are put to ``y``: no second decoder is made.
        """
        sae = self.sae
        stored = sae.W_dec.unflatten(1, (2, -1))[:, CHAT]
        found = sampled_products(y * self.factors()[CHAT], stored, codes, rows)
        if sae.latent_scale is None:
            return found
        scale = sae.latent_scale[codes.indices.long()]
        return found / scale.masked_fill(scale == 0, 1)

    def rows(self, latents: Tensor) -> Tensor:
        """``[n, 2, d]`` (base, chat) of the ``latents[n]``, in activation units."""
        rows, sae = self._stored(latents), self.sae
        found = sae.normalization.directions(rows) if sae.cfg.undo_normalization else rows
        return found.float().unflatten(1, (2, -1))

    def stored(self, latents: Tensor) -> Tensor:
        """The same in the units of the weights, ``[n, 2, d]``."""
        return self._stored(latents).float().unflatten(1, (2, -1))

    def _stored(self, latents: Tensor) -> Tensor:
        rows, scale = self.sae.W_dec[latents], self.sae.latent_scale
        if scale is None:
            return rows
        return rows / scale[latents].masked_fill(scale[latents] == 0, 1)[:, None]

    def bias(self) -> Tensor:
        """What the crosscoder gives without a latent, ``[2, d]``; zeros where that depends on the token."""
        none = self.sae.W_dec.new_zeros(1, self.sae.cfg.d_sae)
        if self.sae.normalization.needs_input:
            return none.new_zeros(2, self.sae.cfg.d_out).float()
        return self.sae.decode(none)[0].float()

    def chunks(self) -> Iterator[Tensor]:
        """All latents, in chunks whose rows fit into memory."""
        sae = self.sae
        for part in slices(sae.cfg.d_sae, sae.cfg.width_out, sae.device):
            yield torch.arange(part.start, part.stop, device=sae.device)


@dataclass(frozen=True)
class Geometry:
    """What decoder rows are to each other, ``[d_sae]`` float64 each, in activation units.

    ``norms[d_sae, 2]``, and ``stored_norms`` in the units of the weights; ``cosine`` between the two
    directions of a latent (not a number where one is 0); ``along[2, d_sae]`` is ``d_j^m · d_j^chat``,
    ``bias[2, d_sae]`` is ``b^m · d_j^chat``. ``random_along[2, d_sae]`` is ``d_j^m · r`` of the random
    unit direction ``r`` that the latent has.
    """

    norms: Floats
    stored_norms: Floats
    cosine: Floats
    along: Floats
    bias: Floats
    random_along: Floats

    @classmethod
    @torch.inference_mode()
    def of(cls, directions: LatentDirections) -> Geometry:
        """Read off a crosscoder, a chunk of latents at a time."""
        bias, parts = wide(directions.bias()), []
        for latents in directions.chunks():
            rows = wide(directions.rows(latents))
            chat, lengths = rows[:, CHAT], rows.norm(dim=2)
            stored = wide(directions.stored(latents)).norm(dim=2)
            own = (rows * chat[:, None]).sum(2)
            cosine = own[:, BASE] / (lengths[:, BASE] * lengths[:, CHAT])
            random = wide(directions.random.to(latents.device)[latents % N_RANDOM])
            columns = [lengths, stored, own, chat @ bias.T, (rows * random[:, None]).sum(2)]
            parts.append(torch.cat([*columns, cosine[:, None]], 1).cpu())
        pairs = np.split(torch.cat(parts).numpy(), [2, 4, 6, 8, 10], axis=1)
        norms, weights, along, biases, randomly, angle = pairs
        return cls(norms, weights, angle[:, 0], along.T, biases.T, randomly.T)
