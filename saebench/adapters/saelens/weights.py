"""The tensors of a SAELens checkpoint in the roles of the canonical SAE, by architecture."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from saebench.activations import AbsTopK, Activation, Gated, JumpReLU, ReLU, TanhReLU, TopK
from saebench.adapters.reading.batch_gate import ASK_ONE, batch_gate, estimated, given_threshold
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.fields import Fields
from saebench.adapters.reading.tensors import Tensors, row_norms, scale_rows
from saebench.adapters.reading.thresholds import (
    AS_STORED,
    HOW_STORED,
    LOG,
    said_threshold,
    stored_thresholds,
)
from saebench.adapters.saelens.architecture import BATCH, tanh_activation
from saebench.errors import CheckpointError
from saebench.sae import Fact

MIN_DECODER_NORM = 1e-8  # the library's floor; without one a zero row would divide by zero
RESCALE_KEY = "rescale_acts_by_decoder_norm"
FINETUNING_KEY = "finetuning_scaling_factor"
THRESHOLDS = ("threshold", "log_threshold", "topk_threshold")


class Weights(NamedTuple):
    """Weights by role; ``latent_scale`` is there where latents are in units of decoder norms."""

    W_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    b_enc: Tensor | None
    W_skip: Tensor | None
    latent_scale: Tensor | None
    activation: Activation
    facts: dict[str, Fact | None]
    notes: list[str]


def read_weights(
    fields: Fields,
    tensors: Tensors,
    choices: Choices,
    architecture: Fact,
    sizes: tuple[int, int, int],
    k: Fact | None,
) -> Weights:
    """The weights for ``sizes`` (d_in, d_sae, d_out).

    Raises :class:`CheckpointError` when a tensor is missing, of another shape, or not usable.
    """
    d_in, d_sae, d_out = sizes
    name = architecture.value
    W_enc = tensors.encoder("W_enc", d_in=d_in, d_sae=d_sae)
    W_dec = tensors.decoder("W_dec", d_sae=d_sae, d_out=d_out)
    rescale = fields.flag(RESCALE_KEY, default=False) if "topk" in name else None
    norms = None
    if rescale is not None and rescale.value:
        norms = row_norms(W_dec).clamp_min(MIN_DECODER_NORM)
    tanh = tanh_activation(fields, architecture)
    threshold = _given_threshold(choices, tensors, name)
    if threshold is None and name in BATCH and not _has_threshold(tensors) and k is not None:
        threshold = estimated(tensors.file, k)
    notes: list[str] = []
    if tanh is not None:
        notes.append(
            f"{tanh.source} is {tanh.value}: codes are tanh(relu(pre)), as in SAELens before "
            "version 6; later versions load it as plain ReLU"
        )
    return Weights(
        W_enc=W_enc,
        W_dec=_finetuned(fields, tensors, W_dec, notes),
        b_dec=tensors.take("b_dec", d_out=d_out),
        b_enc=None if name == "gated" else tensors.take("b_enc", d_sae=d_sae),
        W_skip=tensors.take("W_skip", d_out=d_out, d_in=d_in) if "skip" in name else None,
        latent_scale=norms,
        activation=(
            TanhReLU()
            if tanh is not None
            else _gate_given(tensors, threshold, k, d_sae)
            if threshold is not None
            else _activation(tensors, name, d_sae, k)
        ),
        facts={
            "rescale_by_decoder_norm": rescale,
            "activation": tanh,
            "threshold": threshold,
        },
        notes=notes,
    )


def _given_threshold(choices: Choices, tensors: Tensors, architecture: str) -> Fact | None:
    """The user's threshold: a number, ``estimate``, or how to take the numbers of the file."""
    if architecture in BATCH:
        return given_threshold(choices)
    if "jumprelu" not in architecture:
        return None
    said, logarithms = said_threshold(choices), choices.flag("log_threshold")
    if said is None and logarithms is not None and _key(tensors) == "log_threshold":
        return Fact(AS_STORED, logarithms.source, "user")  # false: the name misleads
    return said


def _activation(tensors: Tensors, architecture: str, d_sae: int, k: Fact | None) -> Activation:
    if architecture == "gated":
        return Gated(*(tensors.take(name, d_sae=d_sae) for name in ("b_gate", "r_mag", "b_mag")))
    if architecture in ("topk", "abstopk"):
        assert k is not None  # required of these architectures
        return TopK(k.value) if architecture == "topk" else AbsTopK(k.value)
    if architecture in BATCH and "threshold" not in tensors:
        return JumpReLU(tensors.threshold("topk_threshold", ASK_ONE, ASK_ONE))
    if architecture in BATCH:
        return JumpReLU(tensors.threshold("threshold", ASK_ONE, ASK_ONE, d_sae=d_sae))
    if "jumprelu" in architecture:
        key = _key(tensors)
        how = LOG if key == "log_threshold" else None
        return JumpReLU(stored_thresholds(tensors, key, how, ASK_ONE, d_sae=d_sae))
    return ReLU()


def _has_threshold(tensors: Tensors) -> bool:
    return any(name in tensors for name in THRESHOLDS)


def _key(tensors: Tensors) -> str:
    """The tensor of a JumpReLU's thresholds; some files hold logarithms by a name that says so."""
    named = "log_threshold" in tensors and "threshold" not in tensors
    return "log_threshold" if named else "threshold"


def _gate_given(tensors: Tensors, threshold: Fact, k: Fact | None, d_sae: int) -> Activation:
    """The gate where the user overrules the thresholds of the file: a number, or from data."""
    if threshold.value in HOW_STORED:
        key = _key(tensors)
        return JumpReLU(stored_thresholds(tensors, key, threshold.value, d_sae=d_sae))
    tensors.ignore(name for name in THRESHOLDS if name in tensors)
    if not isinstance(threshold.value, float) and k is None:
        raise CheckpointError(
            f"k, since {threshold.source} takes a threshold that k latents per token pass",
            "neither the config nor a setting has it",
            "Pass --set k=… with the average number of latents per token.",
        )
    return batch_gate(1 if k is None else k.value, threshold)


def _finetuned(fields: Fields, tensors: Tensors, W_dec: Tensor, notes: list[str]) -> Tensor:
    """The decoder with the factor that versions before 6 multiplied latents by before decoding."""
    key = next((name for name in (FINETUNING_KEY, "scaling_factor") if name in tensors), None)
    if key is None:
        return W_dec
    factor = tensors.take(key, d_sae=W_dec.shape[0])
    if fields.flag(FINETUNING_KEY, default=False).value:
        notes.append(
            f"latents are multiplied by {key} of {tensors.file} before decoding, as SAELens did "
            "before version 6; later versions drop the factor"
        )
        return scale_rows(W_dec, factor)
    if bool(torch.allclose(factor, torch.ones_like(factor))):
        return W_dec
    raise CheckpointError(
        f"{FINETUNING_KEY} true in {fields.file}, since {tensors.file} has factors in {key!r}",
        "false or absent",
        "Fetch the config that belongs to these weights.",
    )
