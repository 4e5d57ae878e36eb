"""The classes of dictionary_learning: their tensors in the roles of the canonical SAE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from saebench.activations import Activation, Gated, JumpReLU, ReLU, TopK
from saebench.adapters.tensors import Tensors
from saebench.errors import CheckpointError


@dataclass(frozen=True)
class Parts:
    """What a class of the library makes of its tensors, in the orientation of the canonical SAE."""

    W_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    b_enc: Tensor | None
    subtract_b_dec: bool
    activation: Activation


@dataclass(frozen=True)
class Kind:
    """One class of the library: its name here, the tensor that gives the sizes, and its reader."""

    architecture: str
    encoder: str
    read: Callable[[Tensors, int, int, int | None], Parts]
    needs_k: bool = False


def _linear(tensors: Tensors, d_in: int, d_sae: int) -> tuple[Tensor, Tensor]:
    """Encoder and decoder of two torch Linear modules, in the canonical orientation."""
    encoder = tensors.take("encoder.weight", d_sae=d_sae, d_in=d_in)
    decoder = tensors.take("decoder.weight", d_in=d_in, d_sae=d_sae)
    return encoder.T.contiguous(), decoder.T.contiguous()


def _matrices(tensors: Tensors, d_in: int, d_sae: int) -> tuple[Tensor, Tensor]:
    W_enc = tensors.take("W_enc", d_in=d_in, d_sae=d_sae)
    return W_enc, tensors.take("W_dec", d_sae=d_sae, d_in=d_in)


def _batch_threshold(tensors: Tensors) -> JumpReLU:
    tensors.scalar("threshold")  # one value, in whatever shape
    shape = tensors.shape("threshold")
    values = tensors.threshold("threshold", **{f"dim {i}": n for i, n in enumerate(shape)})
    return JumpReLU(values.reshape(()))


def _auto_encoder(tensors: Tensors, d_in: int, d_sae: int, k: int | None) -> Parts:
    W_enc, W_dec = _linear(tensors, d_in, d_sae)
    b_enc = tensors.take("encoder.bias", d_sae=d_sae)
    return Parts(W_enc, W_dec, tensors.take("bias", d_in=d_in), b_enc, True, ReLU())


def _auto_encoder_new(tensors: Tensors, d_in: int, d_sae: int, k: int | None) -> Parts:
    W_enc, W_dec = _linear(tensors, d_in, d_sae)
    b_enc = tensors.take("encoder.bias", d_sae=d_sae)
    return Parts(W_enc, W_dec, tensors.take("decoder.bias", d_in=d_in), b_enc, False, ReLU())


def _gated(tensors: Tensors, d_in: int, d_sae: int, k: int | None) -> Parts:
    W_enc, W_dec = _linear(tensors, d_in, d_sae)
    names = ("gate_bias", "r_mag", "mag_bias")
    activation = Gated(*(tensors.take(name, d_sae=d_sae) for name in names))
    return Parts(W_enc, W_dec, tensors.take("decoder_bias", d_in=d_in), None, True, activation)


def _jump_relu(tensors: Tensors, d_in: int, d_sae: int, k: int | None) -> Parts:
    W_enc, W_dec = _matrices(tensors, d_in, d_sae)
    activation = JumpReLU(tensors.threshold("threshold", d_sae=d_sae))
    b_enc = tensors.take("b_enc", d_sae=d_sae)
    return Parts(W_enc, W_dec, tensors.take("b_dec", d_in=d_in), b_enc, False, activation)


def _top_k(tensors: Tensors, d_in: int, d_sae: int, k: int | None) -> Parts:
    assert k is not None
    W_enc, W_dec = _linear(tensors, d_in, d_sae)
    b_enc = tensors.take("encoder.bias", d_sae=d_sae)
    return Parts(W_enc, W_dec, tensors.take("b_dec", d_in=d_in), b_enc, True, TopK(k))


def _batch_top_k(tensors: Tensors, d_in: int, d_sae: int, k: int | None) -> Parts:
    W_enc, W_dec = _linear(tensors, d_in, d_sae)
    b_enc = tensors.take("encoder.bias", d_sae=d_sae)
    activation = _batch_threshold(tensors)
    return Parts(W_enc, W_dec, tensors.take("b_dec", d_in=d_in), b_enc, True, activation)


def _matryoshka(tensors: Tensors, d_in: int, d_sae: int, k: int | None) -> Parts:
    W_enc, W_dec = _matrices(tensors, d_in, d_sae)
    if "group_sizes" in tensors:
        (groups,) = tensors.shape("group_sizes") or (1,)
        total = int(tensors.numbers("group_sizes", groups=groups).to(torch.int64).sum())
        if total != d_sae:
            raise CheckpointError(
                f"group_sizes of {tensors.file} with sum d_sae = {d_sae}",
                str(total),
                "Fetch the weights that belong to this config.",
            )
    b_enc = tensors.take("b_enc", d_sae=d_sae)
    activation = _batch_threshold(tensors)
    return Parts(W_enc, W_dec, tensors.take("b_dec", d_in=d_in), b_enc, True, activation)


KINDS = {
    "AutoEncoder": Kind("standard", "encoder.weight", _auto_encoder),
    "AutoEncoderNew": Kind("standard", "encoder.weight", _auto_encoder_new),
    "GatedAutoEncoder": Kind("gated", "encoder.weight", _gated),
    "JumpReluAutoEncoder": Kind("jumprelu", "W_enc", _jump_relu),
    "AutoEncoderTopK": Kind("topk", "encoder.weight", _top_k, needs_k=True),
    "BatchTopKSAE": Kind("batchtopk", "encoder.weight", _batch_top_k, needs_k=True),
    "MatryoshkaBatchTopKSAE": Kind("matryoshka_batchtopk", "W_enc", _matryoshka, needs_k=True),
}
