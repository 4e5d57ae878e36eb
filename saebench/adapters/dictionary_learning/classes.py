"""The classes of dictionary_learning: their tensors in the roles of the canonical SAE."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from saebench.activations import Activation, Gated, JumpReLU, ReLU, TopK
from saebench.adapters.reading.batch_gate import (
    ASK_ONE,
    ESTIMATE,
    batch_gate,
    estimated,
    given_threshold,
)
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.tensors import Tensors
from saebench.adapters.reading.thresholds import (
    HOW_STORED,
    not_estimated,
    said_threshold,
    stored_thresholds,
)
from saebench.errors import CheckpointError
from saebench.sae import Fact


@dataclass(frozen=True)
class Parts:
    """What a class of the library makes of its tensors, in the orientation of the canonical SAE."""

    W_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    b_enc: Tensor | None
    activation: Activation


@dataclass(frozen=True)
class Stored:
    """The tensors of one checkpoint, and what has to be known to read them.

    ``unit`` is the number of activation units in a unit of the biases and thresholds stored, and
    ``threshold`` that of a batch top-k in activation units, or ``estimate``; of a JumpReLU what the
    user says about those stored, None for nothing.
    """

    tensors: Tensors
    d_in: int
    d_sae: int
    k: int | None = None
    unit: float = 1.0
    threshold: Fact | None = None

    def bias(self, name: str) -> Tensor:
        """A bias of the encoder ``[d_sae]`` in activation units."""
        return self._raw(self.tensors.take(name, d_sae=self.d_sae))

    def b_dec(self, name: str) -> Tensor:
        """The bias of the decoder ``[d_in]`` in activation units."""
        return self._raw(self.tensors.take(name, d_in=self.d_in))

    def thresholds(self) -> Tensor:
        """The thresholds of a JumpReLU ``[d_sae]`` in activation units, or the user's one."""
        how = None if self.threshold is None else self.threshold.value
        if isinstance(how, float):
            self.tensors.ignore({"threshold"})
            return torch.tensor(how)
        return self._raw(stored_thresholds(self.tensors, "threshold", how, d_sae=self.d_sae))

    def linear(self) -> tuple[Tensor, Tensor]:
        """Encoder and decoder of two torch Linear modules."""
        D, F = self.d_in, self.d_sae
        encoder = self.tensors.encoder("encoder.weight", d_in=D, d_sae=F, linear=True)
        return encoder, self.tensors.decoder("decoder.weight", d_sae=F, d_out=D, linear=True)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """Encoder and decoder stored in the canonical orientation."""
        encoder = self.tensors.encoder("W_enc", d_in=self.d_in, d_sae=self.d_sae)
        return encoder, self.tensors.decoder("W_dec", d_sae=self.d_sae, d_out=self.d_in)

    def batch_gate(self) -> Activation:
        """The gate of a batch top-k by its threshold."""
        assert self.k is not None  # required of these classes, as the threshold is
        assert self.threshold is not None
        return batch_gate(self.k, self.threshold)

    def _raw(self, values: Tensor) -> Tensor:
        return values if self.unit == 1 else values.mul_(self.unit)


@dataclass(frozen=True)
class Kind:
    """One class of the library: its name here, the tensor that gives the sizes, and its reader.

    ``subtracts`` is whether it subtracts the decoder's bias from its input, ``batch`` whether it keeps
    the largest codes of a whole batch, so that a threshold stands in for that rule.
    """

    architecture: str
    encoder: str
    read: Callable[[Stored], Parts]
    subtracts: bool = True
    needs_k: bool = False
    batch: bool = False


def batch_threshold(tensors: Tensors, choices: Choices, k: Fact | None, unit: float = 1.0) -> Fact:
    """The one threshold of a batch top-k: the user's, else the stored one, else taken from data.

    ``unit`` is that of :class:`Stored`. Raises :class:`CheckpointError` for −1, its initial value, and
    where neither ``k`` nor a threshold is known.
    """
    given = given_threshold(choices)
    if given is None and "threshold" in tensors:
        return _stored_threshold(tensors, unit)
    tensors.ignore({"threshold"} if "threshold" in tensors else ())
    if given is not None and given.value != ESTIMATE:
        return given
    if k is None:
        raise CheckpointError(
            f"k in {tensors.file}, to estimate a threshold",
            "no such tensor",
            "Give --set k=… with the average number of latents per token.",
        )
    return given or estimated(tensors.file, k)


def settle_threshold(
    kind: Kind, tensors: Tensors, choices: Choices, k: Fact | None, unit: float = 1.0
) -> Fact | None:
    """What is known of the thresholds of a class: :func:`batch_threshold`, or the user's word."""
    if kind.batch:
        return batch_threshold(tensors, choices, k, unit)
    if kind.architecture != "jumprelu":
        return None
    said = said_threshold(choices)
    return None if said is None else not_estimated(said)


def _stored_threshold(tensors: Tensors, unit: float) -> Fact:
    value, source = tensors.scalar("threshold"), f"{tensors.file}: threshold"
    if value < 0:
        raise CheckpointError(
            f"threshold of {tensors.file} with a value >= 0",
            "-1, the initial value: training never estimated it" if value == -1 else f"{value:.4g}",
            ASK_ONE,
        )
    return Fact(value * unit, source if unit == 1 else f"{source} · norm_factor")


def group_sizes(tensors: Tensors, d_sae: int) -> Fact | None:
    """How many latents each nested dictionary adds; None where the file does not hold them."""
    if "group_sizes" not in tensors:
        return None
    groups = math.prod(tensors.shape("group_sizes"))
    sizes = tensors.numbers("group_sizes", groups=groups).to(torch.int64)
    if int(sizes.sum()) != d_sae:
        raise CheckpointError(
            f"group_sizes of {tensors.file} with sum d_sae = {d_sae}",
            str(int(sizes.sum())),
            "Fetch the weights that belong to this config.",
        )
    return Fact(tuple(sizes.tolist()), f"{tensors.file}: group_sizes")


def gate_notes(threshold: Fact | None, tensors: Tensors) -> list[str]:
    """What a reader should know about a threshold that is not the one stored."""
    if threshold is None:
        return []
    if threshold.value == ESTIMATE:
        return [
            "training kept the largest codes of a whole batch: one threshold, estimated on data, "
            "stands in for that rule"
        ]
    if threshold.how == "user" and threshold.value not in HOW_STORED and "threshold" in tensors:
        return [f"the threshold given overrules that of {tensors.file}"]
    return []


def _auto_encoder(stored: Stored) -> Parts:
    return Parts(*stored.linear(), stored.b_dec("bias"), stored.bias("encoder.bias"), ReLU())


def _auto_encoder_new(stored: Stored) -> Parts:
    b_dec, b_enc = stored.b_dec("decoder.bias"), stored.bias("encoder.bias")
    return Parts(*stored.linear(), b_dec, b_enc, ReLU())


def _gated(stored: Stored) -> Parts:
    r_mag = stored.tensors.take("r_mag", d_sae=stored.d_sae)
    activation = Gated(stored.bias("gate_bias"), r_mag, stored.bias("mag_bias"))
    return Parts(*stored.linear(), stored.b_dec("decoder_bias"), None, activation)


def _jump_relu(stored: Stored) -> Parts:
    b_dec, b_enc = stored.b_dec("b_dec"), stored.bias("b_enc")
    return Parts(*stored.matrices(), b_dec, b_enc, JumpReLU(stored.thresholds()))


def _top_k(stored: Stored) -> Parts:
    assert stored.k is not None
    b_dec, b_enc = stored.b_dec("b_dec"), stored.bias("encoder.bias")
    return Parts(*stored.linear(), b_dec, b_enc, TopK(stored.k))


def _batch_top_k(stored: Stored) -> Parts:
    b_dec, b_enc = stored.b_dec("b_dec"), stored.bias("encoder.bias")
    return Parts(*stored.linear(), b_dec, b_enc, stored.batch_gate())


def _matryoshka(stored: Stored) -> Parts:
    group_sizes(stored.tensors, stored.d_sae)
    b_dec, b_enc = stored.b_dec("b_dec"), stored.bias("b_enc")
    return Parts(*stored.matrices(), b_dec, b_enc, stored.batch_gate())


LINEAR, MATRICES = "encoder.weight", "W_enc"
KINDS = {
    "AutoEncoder": Kind("standard", LINEAR, _auto_encoder),
    "AutoEncoderNew": Kind("standard", LINEAR, _auto_encoder_new, subtracts=False),
    "GatedAutoEncoder": Kind("gated", LINEAR, _gated),
    "JumpReluAutoEncoder": Kind("jumprelu", MATRICES, _jump_relu, subtracts=False),
    "AutoEncoderTopK": Kind("topk", LINEAR, _top_k, needs_k=True),
    "BatchTopKSAE": Kind("batchtopk", LINEAR, _batch_top_k, needs_k=True, batch=True),
    "MatryoshkaBatchTopKSAE": Kind(
        "matryoshka_batchtopk", MATRICES, _matryoshka, needs_k=True, batch=True
    ),
}
