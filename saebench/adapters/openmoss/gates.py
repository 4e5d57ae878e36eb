"""What all formats of OpenMOSS share: inputs scaled to norm √d_model, and latents gated by decoder norm.

``f = act(pre · ‖W_dec‖) / ‖W_dec‖`` where the norm counts (``sparsity_include_decoder_norm``); inputs
and outputs are scaled by ``√d_model / average norm`` of their hook points. Source of the formulas:
Language-Model-SAEs and its successor llamascopium 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from saebench.activations import Activation, BatchTopK, JumpReLU, ReLU, TopK
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.fields import Fields
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.sae import Fact
from saebench.sae.normalization import Affine, AverageNorm, ConstantNorm, Normalization

ACT_FNS = ("relu", "jumprelu", "topk", "batchtopk")
MODES = ("token-wise", "batch-wise", "dataset-wise", "inference")
AVERAGE_KEY = "dataset_average_activation_norm."
LOG_THRESHOLD_KEYS = ("activation_function.log_jumprelu_threshold", "log_jumprelu_threshold")
ARCHITECTURES = {
    "relu": "standard",
    "jumprelu": "jumprelu",
    "topk": "topk",
    "batchtopk": "batchtopk",
}


def latents(tensors: Tensors, bias: str) -> Fact:
    """The number of latents from the length of the encoder's bias, its last dimension."""
    shape = tensors.shape(bias)
    if not shape or 0 in shape:
        raise CheckpointError(
            f"tensor {bias!r} of {tensors.file}, one value per latent",
            f"shape {list(shape)}",
            "Fetch the weights again; these are incomplete.",
        )
    return Fact(shape[-1], f"{tensors.file}: shape of {bias}")


@dataclass(frozen=True)
class Gate:
    """Which latents fire: the activation function, k, and the threshold where one is known."""

    act_fn: Fact
    k: Fact | None = None
    threshold: Tensor | None = None
    facts: dict[str, Fact | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def activation(self, norms: Tensor | None, threshold: Tensor | None = None) -> Activation:
        """The activation of latents with decoder norms ``norms[d_sae]``, or None where they do not count.

        ``threshold`` replaces the gate's own, for one of several layers.
        """
        threshold = self.threshold if threshold is None else threshold
        if self.act_fn.value == "relu":
            return ReLU()
        if threshold is not None:
            if norms is None or threshold.is_meta:
                return JumpReLU(threshold)
            return JumpReLU(threshold / norms)
        assert self.k is not None
        if self.act_fn.value == "topk":
            return TopK(self.k.value, weight=norms)
        return BatchTopK(self.k.value, weight=norms)


def read_gate(
    fields: Fields, tensors: Tensors, choices: Choices, *, allowed: Sequence[str], **shape: int
) -> Gate:
    """The gate of config and tensors; ``shape`` is that of the stored log thresholds.

    Raises :class:`CheckpointError` for an activation function that is not ``allowed``, and where k or
    the thresholds are missing.
    """
    act_fn = fields.one_of(tuple(allowed), "act_fn")
    if act_fn is None:
        act_fn = choices.text("activation", tuple(allowed))
    if act_fn is None:
        act_fn = Fact("relu", f"not in {fields.file}: act_fn defaults to relu", "assumed")
    if act_fn.value == "relu":
        return Gate(act_fn)
    if act_fn.value == "topk":
        return Gate(act_fn, read_k(fields, choices, shape["d_sae"]))
    given = choices.number("threshold")
    if given is not None and given.value < 0:
        raise CheckpointError(
            f"{given.source} of at least 0", "a negative number", "Give the threshold itself."
        )
    user: dict[str, Fact | None] = {"threshold": given} if given is not None else {}
    if act_fn.value == "jumprelu":
        if given is not None:
            return Gate(act_fn, None, torch.tensor(given.value), user)
        keys = [key for key in LOG_THRESHOLD_KEYS if key in tensors] or [LOG_THRESHOLD_KEYS[0]]
        return Gate(act_fn, None, tensors.take(keys[0], **shape).exp())
    latents_ranked = math.prod(shape.values())  # of all layers together where they share one k
    k = read_k(fields, choices, latents_ranked)
    if given is not None:
        return Gate(act_fn, k, torch.tensor(given.value), user)
    assumed = Fact("estimated", "no threshold is stored: taken from data so that k hold", "assumed")
    note = (
        "no threshold is stored; the library keeps the top k · batch of whatever batch it is given, "
        "here a threshold is estimated on data"
    )
    return Gate(act_fn, k, None, {"threshold": assumed}, (note,))


def read_k(fields: Fields, choices: Choices, d_sae: int) -> Fact:
    """``top_k``, at most the number of latents; raises :class:`CheckpointError` otherwise."""
    k = choices.size("k") or fields.size("top_k")
    if k.value > d_sae:
        raise CheckpointError(
            f"{k.source} of at most d_sae = {d_sae}", str(k.value), "Correct the config."
        )
    return k


@dataclass(frozen=True)
class Scaling:
    """Factors from activations to the units of the weights: one per hook point read, and written."""

    inputs: tuple[float, ...]
    outputs: tuple[float, ...]
    fact: Fact

    def affine(self, width: int) -> Affine:
        """The factors as a normalisation of activations of ``width`` side by side."""
        scale_out = 1 / _spread(self.outputs, width)
        return Affine(_spread(self.inputs, width), scale_out=scale_out)


def _spread(factors: Sequence[float], width: int) -> Tensor:
    values = torch.tensor(factors, dtype=torch.float32)
    return values[0] if len(factors) == 1 else values.repeat_interleave(width)


def read_mode(fields: Fields) -> Fact:
    """``norm_activation``; the library's default where the config lacks it."""
    source = f"not in {fields.file}: norm_activation defaults to dataset-wise"
    return fields.one_of(MODES, "norm_activation") or Fact("dataset-wise", source, "assumed")


def read_scaling(
    tensors: Tensors, reads: Sequence[str], writes: Sequence[str], width: int
) -> Scaling | None:
    """The stored average norms as factors, or None where none is stored.

    Raises :class:`CheckpointError` where only some are, or one is not positive.
    """
    needed = [AVERAGE_KEY + hook for hook in dict.fromkeys((*reads, *writes))]
    if not any(key in tensors for key in needed):
        return None
    norms = {key: tensors.scalar(key) for key in needed}
    for key, norm in norms.items():
        if norm <= 0:
            raise CheckpointError(
                f"{key!r} of {tensors.file}, the average norm of activations, above 0",
                f"{norm:.4g}",
                "It was saved before the averages were measured; fetch the final checkpoint.",
            )
    factors = {key: math.sqrt(width) / norm for key, norm in norms.items()}
    return Scaling(
        tuple(factors[AVERAGE_KEY + hook] for hook in reads),
        tuple(factors[AVERAGE_KEY + hook] for hook in writes),
        Fact(
            tuple(factors[AVERAGE_KEY + hook] for hook in reads),
            f"{tensors.file}: √d_model / {AVERAGE_KEY}<hook point>",
        ),
    )


def given_scaling(choices: Choices, n_sources: int) -> Scaling | None:
    """The factors that the user gives for what is both read and written."""
    given = choices.numbers("input_scale")
    if given is None:
        return None
    if len(given.value) != n_sources or min(given.value) <= 0:
        raise CheckpointError(
            f"{given.source}: {n_sources} positive numbers",
            f"{len(given.value)}, the smallest {min(given.value):g}",
            "Give √d_model / average norm for each hook point, in the order of the config.",
        )
    return Scaling(given.value, given.value, given)


def read_normalization(
    fields: Fields,
    tensors: Tensors,
    choices: Choices,
    reads: Sequence[str],
    writes: Sequence[str],
    width: int,
) -> tuple[Normalization, dict[str, Fact | None]]:
    """What is done to the input and undone on the output, with the facts about it.

    Raises :class:`CheckpointError` where the output of a transcoder cannot be brought back to
    activations because its scale depends on the output itself.
    """
    mode = read_mode(fields)
    tensors.ignore(AVERAGE_KEY + hook for hook in (*reads, *writes))
    if mode.value == "inference":
        return Normalization(), {"normalization": Fact("none", mode.source, mode.how)}
    same = tuple(reads) == tuple(writes)
    if mode.value == "dataset-wise":
        scaling = given_scaling(choices, len(reads)) if same else None
        scaling = scaling or read_scaling(tensors, reads, writes, width)
        if scaling is not None:
            name = Fact(Affine.name, mode.source, mode.how)
            return scaling.affine(width), {"normalization": name, "input_scale": scaling.fact}
    if not same:
        raise _unknown_output_scale(fields, tensors, mode, writes)
    if mode.value == "token-wise":
        fact = Fact(ConstantNorm.name, mode.source, mode.how)
        return ConstantNorm(len(reads)), {"normalization": fact}
    why = "of each batch" if mode.value == "batch-wise" else f"and {tensors.file} has no averages"
    source = f"{mode.source} is {mode.value}, {why}: averages over the evaluation's data instead"
    return AverageNorm(len(reads)), {"normalization": Fact(AverageNorm.name, source, "assumed")}


def _unknown_output_scale(
    fields: Fields, tensors: Tensors, mode: Fact, writes: Sequence[str]
) -> CheckpointError:
    if mode.value == "dataset-wise":
        return CheckpointError(
            f"tensor {AVERAGE_KEY + writes[0]!r} in {tensors.file} ({mode.source} is dataset-wise)",
            "no average norms are stored, so the scale of the output is unknown",
            "Fetch the final checkpoint, which has them.",
        )
    return CheckpointError(
        f"a transcoder whose outputs can be brought back to activations ({fields.file})",
        f"norm_activation {mode.value!r}: outputs are scaled by norms of the activations that it is "
        "to predict",
        "Only dataset-wise and inference scaling can be evaluated on what a transcoder writes.",
    )
