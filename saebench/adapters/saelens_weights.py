"""The tensors of a SAELens checkpoint in the roles of the canonical SAE, by architecture."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from saebench.activations import Activation, Gated, JumpReLU, ReLU, TopK
from saebench.adapters.fields import Fields
from saebench.adapters.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.sae import Fact

MIN_DECODER_NORM = 1e-8  # the library's floor; without one a zero row would divide by zero
RESCALE_KEY = "rescale_acts_by_decoder_norm"
FINETUNING_KEY = "finetuning_scaling_factor"


class Weights(NamedTuple):
    """Weights by role; ``latent_scale`` is there where latents are in units of decoder norms."""

    W_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    b_enc: Tensor | None
    W_skip: Tensor | None
    latent_scale: Tensor | None
    activation: Activation


def read_weights(
    fields: Fields,
    tensors: Tensors,
    architecture: str,
    sizes: tuple[int, int, int],
    k: Fact | None,
) -> Weights:
    """The weights for ``sizes`` (d_in, d_sae, d_out).

    Raises :class:`CheckpointError` when a tensor is missing, of another shape, or not usable.
    """
    d_in, d_sae, d_out = sizes
    W_enc = tensors.take("W_enc", d_in=d_in, d_sae=d_sae)
    W_dec = tensors.take("W_dec", d_sae=d_sae, d_out=d_out)
    gated, skip = architecture == "gated", "skip" in architecture
    rescale = rescaling(fields, architecture)
    return Weights(
        W_enc,
        _finetuned(fields, tensors, W_dec),
        tensors.take("b_dec", d_out=d_out),
        None if gated else tensors.take("b_enc", d_sae=d_sae),
        tensors.take("W_skip", d_out=d_out, d_in=d_in) if skip else None,
        W_dec.norm(dim=-1).clamp_min(MIN_DECODER_NORM) if rescale and rescale.value else None,
        _activation(tensors, architecture, d_sae, k),
    )


def rescaling(fields: Fields, architecture: str) -> Fact | None:
    """Whether latents are ranked in units of decoder norms; None where none are ranked."""
    return fields.flag(RESCALE_KEY, default=False) if "topk" in architecture else None


def _activation(tensors: Tensors, architecture: str, d_sae: int, k: Fact | None) -> Activation:
    if architecture == "gated":
        return Gated(*(tensors.take(name, d_sae=d_sae) for name in ("b_gate", "r_mag", "b_mag")))
    if architecture == "topk":
        assert k is not None  # required of this architecture
        return TopK(k.value)
    if architecture in ("batchtopk", "matryoshka_batchtopk"):
        return JumpReLU(tensors.threshold("topk_threshold"))
    if "jumprelu" in architecture:
        if "log_threshold" in tensors and "threshold" not in tensors:
            return JumpReLU(tensors.take("log_threshold", d_sae=d_sae).exp())
        return JumpReLU(tensors.threshold("threshold", d_sae=d_sae))
    return ReLU()


def _finetuned(fields: Fields, tensors: Tensors, W_dec: Tensor) -> Tensor:
    """The decoder with the factor that versions before 6 multiplied latents by before decoding."""
    key = next((name for name in (FINETUNING_KEY, "scaling_factor") if name in tensors), None)
    if key is None:
        return W_dec
    factor = tensors.take(key, d_sae=W_dec.shape[0])
    if fields.flag(FINETUNING_KEY, default=False).value:
        return W_dec * factor[:, None]
    if bool(torch.allclose(factor, torch.ones_like(factor))):
        return W_dec
    raise CheckpointError(
        f"{FINETUNING_KEY} true in {fields.file}, since {tensors.file} has factors in {key!r}",
        "false or absent",
        "Fetch the config that belongs to these weights.",
    )
