"""The activation functions of crosscode, which keep what they select as it is: no ReLU in top-k."""

from __future__ import annotations

from typing import NamedTuple

import torch

from saebench.activations import Activation, GroupMax, JumpReLU, ReLU, TopK
from saebench.adapters.reading.batch_gate import batch_gate, estimated, given_threshold
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.fields import Fields
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.sae import Fact

PREFIXES = ("_activation_fn.", "activation_fn.")  # newer and older files
KIND_KEY = "activation_fn.classname"
CLASSES = {
    "ReLUActivation": "relu",
    "JumpReLUActivation": "jumprelu",
    "AnthropicSTEJumpReLUActivation": "jumprelu",
    "TopkActivation": "topk",
    "BatchTopkActivation": "batchtopk",
    "GroupMaxActivation": "groupmax",
}
K_KEYS = {"topk": "k", "batchtopk": "k_per_example", "groupmax": "k_groups"}


class Gate(NamedTuple):
    """An activation, the architecture that it makes, and its numbers where the file lacks them."""

    activation: Activation
    architecture: Fact
    k: Fact | None = None
    threshold: Fact | None = None


def read_activation(fields: Fields, tensors: Tensors, choices: Choices, d_sae: int) -> Gate:
    """The activation that the user, the tensors or the config name.

    Raises :class:`CheckpointError` when neither config, tensors nor user say which it is.
    """
    log_threshold = next(
        (key for prefix in PREFIXES if (key := f"{prefix}log_threshold_L") in tensors), None
    )
    named = _named(fields, tensors, choices, log_threshold)
    if named.value == "relu":
        return Gate(ReLU(), named)
    if named.value == "jumprelu":
        if log_threshold is None:
            raise CheckpointError(
                f"log_threshold_L in {tensors.file}, as {named.source} asks for",
                "no such tensor",
                "Fetch the config that belongs to these weights.",
            )
        values = tensors.take(log_threshold, d_sae=d_sae).exp()
        if not bool(torch.isfinite(values).all()):
            raise CheckpointError(
                f"logarithms of thresholds in {log_threshold!r} of {tensors.file}",
                f"{int((~torch.isfinite(values)).sum()):,} whose exponential is not finite",
                "The values may be thresholds already; store their logarithms.",
            )
        return Gate(JumpReLU(values), named)
    k = _k(fields, choices, named, d_sae)
    if named.value == "topk":
        return Gate(TopK(k.value, rectify=False), named, k)
    if named.value == "groupmax":
        return Gate(GroupMax(k.value, rectify=False), named, k)
    threshold = given_threshold(choices) or estimated(tensors.file, k)
    return Gate(batch_gate(k.value, threshold), named, k, threshold)


def _named(fields: Fields, tensors: Tensors, choices: Choices, log_threshold: str | None) -> Fact:
    """The kind of activation: from the user, the tensors of one kind, or the config."""
    given = choices.text("activation", ("relu", "jumprelu", "topk", "batchtopk"))
    if given is not None:
        return given
    if log_threshold is not None:
        return Fact("jumprelu", f"{tensors.file}: {log_threshold}")
    named = fields.one_of(tuple(CLASSES), KIND_KEY)
    if named is not None:
        return Fact(CLASSES[named.value], named.source)
    raise CheckpointError(
        f"the activation function of {tensors.file}",
        f"no {KIND_KEY} that could be read from {fields.file}",
        "Give --set activation=relu, topk or batchtopk (and --set k=NUMBER).",
    )


def _k(fields: Fields, choices: Choices, named: Fact, d_sae: int) -> Fact:
    key = f"activation_fn.cfg.{K_KEYS[named.value]}"
    k = choices.size("k") or fields.optional_size(key)
    if k is None:
        raise CheckpointError(
            f"{key} in {fields.file} (a positive integer)", "no such key", "Give --set k=NUMBER."
        )
    if k.value > d_sae or (named.value == "groupmax" and d_sae % k.value):
        what = "that divides" if named.value == "groupmax" else "of at most"
        raise CheckpointError(
            f"{k.source} {what} d_sae = {d_sae}", str(k.value), "Correct the config."
        )
    return k
