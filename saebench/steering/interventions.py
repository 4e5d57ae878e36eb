"""What is done to an activation at a site: a vector is added, or a latent's code is set.

Both add a multiple of one unit vector and keep the rest of the activation, the error of the SAE included.
Each is a function from ``h[b, t, width]`` to what takes its place, and one that adds nothing returns the
very tensor it was given: a run without steering, to the last bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saebench.codes import SparseCodes
from saebench.errors import CheckpointError
from saebench.sae import SAE, Dictionary
from saebench.sae.latent_bias import LatentBiasSAE


class Add:
    """``h ← h + size · d/‖d‖``, with ``direction[width]`` and a ``size`` in units of the activation.

    The vector is made in float32 and rounded once to the dtype of the activation.
    """

    def __init__(self, direction: Tensor, size: float) -> None:
        self.size = size
        self._vector = size * unit(direction)

    def __call__(self, h: Tensor) -> Tensor:
        """The steered activation; ``h`` itself where the size is 0."""
        if self.size == 0:
            return h
        self._vector = self._vector.to(h)
        return h + self._vector


class Clamp:
    """``h ← h + (value − f_j(h)) · d_j``: latent j of ``sae`` has the code ``value``, all else stays.

    ``f_j`` is the encoder's code on the activation as it comes, so that the SAE's error and the other
    latents' parts are kept; a value of 0 ablates the latent. ``along[width]`` takes the place of the
    latent's direction in controls: the same coefficients, norm included, along another unit vector.
    ``centred`` takes the mean over dimensions out of what is encoded.

    Raises
    ------
    CheckpointError : the reconstruction is not linear in the codes of one activation.
    """

    def __init__(
        self,
        sae: Dictionary,
        latent: int,
        value: float | None,
        *,
        along: Tensor | None = None,
        centred: bool = False,
    ) -> None:
        self.sae, self.latent, self.value = linear_decoded(sae), latent, value
        self.along = None if along is None else unit(along)
        self.centred = centred

    def __call__(self, h: Tensor) -> Tensor:
        """The activation with the latent's code set."""
        flat = h.reshape(-1, h.shape[-1]).to(self.sae.device, self.sae.dtype)
        if self.centred:
            flat = flat - flat.mean(-1, keepdim=True)
        code = code_of(self.sae.codes(flat), self.latent)
        missing = (code if self.value is None else self.value) - code
        rows = latent_directions(self.sae, self.latent, flat)
        if self.along is not None:
            rows = rows.norm(dim=-1, keepdim=True) * self.along.to(rows)
        shift = missing[:, None] * rows
        return h + shift.reshape(h.shape).to(h)


def unit(direction: Tensor) -> Tensor:
    """``direction[width]`` at norm 1, float32; raises :class:`CheckpointError` where it has no length."""
    norm = direction.double().norm()
    if not bool(norm > 0) or not bool(norm.isfinite()):
        raise CheckpointError(
            "a direction to steer along",
            f"a vector of norm {float(norm):g}",
            "Choose another latent, or direction = in [steering].",
        )
    return (direction.double() / norm).float()


def code_of(codes: SparseCodes, latent: int) -> Tensor:
    """``f_j[n]`` of one latent, 0 where it does not fire."""
    found = codes.values.new_zeros(codes.n_tokens)
    here = codes.indices == latent
    found[codes.rows()[here]] = codes.values[here]
    return found


def latent_directions(sae: SAE, latent: int, x: Tensor) -> Tensor:
    """What a code of 1 adds to the reconstruction of each of ``x[n, width]``.

    ``[1, width]``, or ``[n, width]`` where tokens are normalised one by one, so that it depends on them.
    """
    if not sae.normalization.needs_input or not sae.cfg.undo_normalization:
        return latent_direction(sae, latent)[None]
    ones = x.new_ones(x.shape[0], 1)
    places = torch.full_like(ones, latent, dtype=torch.int64)
    return sae.decode_sparse(ones, places, x) - sae.decode_sparse(0 * ones, places, x)


def latent_direction(sae: SAE, latent: int) -> Tensor:
    """``d_j[width]``: what a code of 1 adds to the reconstruction, in units of activations.

    Where tokens are normalised one by one it is in the units of the file.
    """
    return decoded(sae, torch.tensor([latent]), torch.ones(1))


def decoded(sae: SAE, latents: Tensor, values: Tensor) -> Tensor:
    """``Σ_i values[i] · d_latents[i]``, ``[width]``: a difference of codes decoded; the bias cancels."""
    latents = latents.to(sae.device)
    values = values.to(sae.device, sae.dtype)
    if sae.latent_scale is not None:
        scale = sae.latent_scale[latents]
        values = values / scale.masked_fill(scale == 0, 1)
    row = values[None] @ sae.W_dec[latents]
    return (sae.normalization.directions(row) if sae.cfg.undo_normalization else row)[0]


def linear_decoded(sae: Dictionary) -> SAE:
    """The SAE, if its reconstruction is linear in the codes of one activation that it reads and writes.

    Raises :class:`CheckpointError` otherwise.
    """
    cfg = sae.cfg
    if cfg.n_sources != 1 or cfg.n_targets != 1 or cfg.is_transcoder or cfg.difference is not None:
        found = f"{cfg.n_sources} activations read and {cfg.n_targets} written"
        if cfg.difference is not None:
            found = "a difference of two models, which no forward holds"
        elif cfg.n_sources == cfg.n_targets == 1:
            found = f"{cfg.site} read and {cfg.site_out} written"
        raise CheckpointError(
            "one site that is read and written, which steering needs",
            found,
            "Steer with an SAE, not with a transcoder or crosscoder.",
        )
    if not isinstance(sae, SAE) or isinstance(sae, LatentBiasSAE) or sae.needs_sequences:
        raise CheckpointError(
            "a reconstruction that is linear in the codes of each token, which steering needs",
            f"a {type(sae).__name__}",
            "Steer with another SAE.",
        )
    return sae
