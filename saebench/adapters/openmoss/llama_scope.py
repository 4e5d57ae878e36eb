"""Llama Scope checkpoints and their successors with torch Linear modules, as OpenMOSS saved them.

The first releases have ``hyperparams.json`` (the averages of activation norms in it) beside
``checkpoints/final.safetensors``. Their own loader folds the scaling into biases and decoder, then
makes decoder rows unit vectors, and compares the threshold with those pre-activations of raw
activations; SAELens multiplies the threshold instead, so that its latents are larger by the input
scale, and agrees only where decoder rows are unit vectors already. Later ones (R1 distill) have
``config.json`` and the averages and thresholds among the tensors, and are scaled at run time.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from saebench.activations import Activation, JumpReLU, ReLU, TopK
from saebench.adapters.openmoss.gates import (
    ACT_FNS,
    ARCHITECTURES,
    latents,
    read_gate,
    read_k,
    read_mode,
    read_normalization,
)
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import Fields, config_from
from saebench.adapters.reading.tensors import Tensors, row_norms
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, Fact
from saebench.sae.normalization import ConstantNorm, Normalization
from saebench.weights import is_pickle

FORMAT = "llama_scope"
OLD_CONFIG = "hyperparams.json"
NEW_CONFIG = "config.json"
MODEL_CONFIG = "lm_config.json"
WEIGHT_FILES = tuple(  # in the order in which the library looks for them
    f"{stem}.{suffix}"
    for stem in ("sae_weights", "checkpoints/pruned", "checkpoints/final", "pruned", "final")
    for suffix in ("safetensors", "pt")
)
ENCODER, DECODER = "encoder.weight", "decoder.weight"


def weight_file(files: CheckpointFiles) -> str | None:
    """The weights that the library would read."""
    return next((name for name in WEIGHT_FILES if name in files.names), None)


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim when the config names hook points and the weights are two torch Linear modules."""
    weights = weight_file(files)
    config = next((name for name in (OLD_CONFIG, NEW_CONFIG) if name in files.names), None)
    if weights is None or config is None:
        return None
    fields = Fields(config, files.json(config))
    if "hook_point_in" not in fields or "d_model" not in fields:
        return None
    evidence = [f"{config}: hook_point_in {fields.value('hook_point_in')!r}"]
    if is_pickle(weights) and not files.allow_pickle:
        if config == NEW_CONFIG:
            return None
    else:
        header = files.header(weights)
        if ENCODER not in header or DECODER not in header:
            return None
        evidence.append(f"{weights}: {ENCODER} {list(header[ENCODER].shape)}")
    configs = (config, MODEL_CONFIG) if MODEL_CONFIG in files.names else (config,)
    return Claim(FORMAT, tuple(evidence), (weights,), configs)


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> SAE:
    """The SAE or transcoder; raises :class:`CheckpointError` where config and tensors disagree."""
    fields = Fields(claim.config, files.json(claim.config))
    tensors = Tensors(claim.weight, files.state_dict(claim.weight))
    _refuse_glu(fields, tensors)
    d_model = fields.size("d_model")
    d_sae = fields.optional_size("d_sae") or latents(tensors, "encoder.bias")
    model = None
    if MODEL_CONFIG in claim.configs:
        model = Fields(MODEL_CONFIG, files.json(MODEL_CONFIG)).text(
            "model_name", "model_from_pretrained_path"
        )
    facts = {
        "d_in": d_model,
        "d_sae": d_sae,
        "d_out": d_model,
        "model": model or fields.text("model_name"),
        "dtype": Fact(tensors.dtype(ENCODER), f"{claim.weight}: {ENCODER}"),
        **site_facts(fields),
    }
    reader = _Folded if claim.config == OLD_CONFIG else _Scaled
    return reader(fields, tensors, choices, facts).read()


def site_facts(fields: Fields) -> dict[str, Fact]:
    """The hook point read and, of a transcoder, the other one that is written."""
    site, site_out = fields.text("hook_point_in"), fields.text("hook_point_out")
    if site is None:
        raise CheckpointError(
            f"hook_point_in in {fields.file} (a string)", "no such key", "Add it to the config."
        )
    if site_out is None or site_out.value == site.value:
        return {"site": site}
    return {"site": site, "site_out": site_out}


def architecture(act_fn: Fact, is_transcoder: bool) -> Fact:
    """The name of the architecture that an activation function makes."""
    name = ARCHITECTURES[act_fn.value]
    if is_transcoder:
        name = "transcoder" if name == "standard" else f"{name}_transcoder"
    return Fact(name, act_fn.source, act_fn.how)


class _Reader:
    """One checkpoint in the course of being read: config, tensors and the facts found so far."""

    def __init__(
        self, fields: Fields, tensors: Tensors, choices: Choices, facts: dict[str, Any]
    ) -> None:
        self.fields, self.tensors, self.choices, self.facts = fields, tensors, choices, facts
        self.d_in, self.d_sae = facts["d_in"].value, facts["d_sae"].value
        self.notes: list[str] = []
        self.ranked = fields.flag("sparsity_include_decoder_norm", default=True)
        self.subtract = fields.flag("apply_decoder_bias_to_pre_encoder", default=False)
        facts["subtract_b_dec"] = self.subtract

    def decoder(self) -> Tensor:
        return self.tensors.decoder(DECODER, d_sae=self.d_sae, d_out=self.d_in, linear=True)

    def encoder(self) -> Tensor:
        return self.tensors.encoder(ENCODER, d_in=self.d_in, d_sae=self.d_sae, linear=True)

    def b_dec(self) -> Tensor:
        if not self.fields.flag("use_decoder_bias", default=True).value:
            return torch.zeros(self.d_in)
        return self.tensors.take("decoder.bias", d_out=self.d_in)

    def build(self, activation: Activation, normalization: Normalization, **parts: Any) -> SAE:
        if unused := self.tensors.unused():
            self.notes.append(f"tensors of {self.tensors.file} not used: {', '.join(unused)}")
        config = config_from(
            self.facts, format=FORMAT, notes=self.notes, provenance={"config": self.fields.data}
        )
        return SAE(config, activation, normalization=normalization, **parts)


class _Folded(_Reader):
    """``hyperparams.json``: scaling folded into biases and decoder, unit decoder rows."""

    def read(self) -> SAE:
        s_in, s_out, normalization = self.scaling()
        W_dec = self.decoder()
        if s_in != s_out:
            W_dec.mul_(s_in / s_out)
        b_dec = self.b_dec() / s_out
        return self.build(
            self.activation(),
            normalization,
            W_dec=W_dec,
            W_enc=self.encoder(),
            b_enc=self.tensors.take("encoder.bias", d_sae=self.d_sae) / s_in,
            b_dec=b_dec,
            b_in=b_dec if self.subtract.value else None,
            latent_scale=row_norms(W_dec) if self.ranked.value else None,
        )

    def scaling(self) -> tuple[float, float, Normalization]:
        mode = read_mode(self.fields)
        if mode.value in ("token-wise", "batch-wise"):
            if mode.value == "token-wise" and "site_out" not in self.facts:
                fact = Fact(ConstantNorm.name, mode.source, mode.how)
                self.facts["normalization"] = fact
                return 1.0, 1.0, ConstantNorm()
            raise CheckpointError(
                f"{mode.source} of dataset-wise or inference",
                repr(mode.value),
                "Scaling by norms of the data at hand cannot be undone on another site.",
            )
        source = f"{mode.source} is {mode.value}"
        if mode.value == "inference":
            self.facts["normalization"] = Fact("none", source, mode.how)
            return 1.0, 1.0, Normalization()
        norms = [self.average("in"), self.average("out")]
        s_in, s_out = (math.sqrt(self.d_in) / norm for norm in norms)
        folded = f"{source}, folded into biases and decoder here as by its own loader"
        self.facts["normalization"] = Fact("none", folded, mode.how)
        where = f"{self.fields.file}: √d_model / dataset_average_activation_norm"
        self.facts["folded_input_scale"] = Fact(s_in, where)
        self.facts["folded_output_scale"] = Fact(s_out, where)
        return s_in, s_out, Normalization()

    def average(self, end: str) -> float:
        key = f"dataset_average_activation_norm.{end}"
        value = self.fields.value(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
            raise CheckpointError(
                f"{self.fields.file}: {key}, the average norm of activations (a positive number)",
                "no such key" if value is None else repr(value)[:100],
                "Fetch the config that belongs to these weights.",
            )
        return float(value)

    def activation(self) -> Activation:
        act_fn = self.fields.one_of(("relu", "jumprelu", "topk"), "act_fn")
        if act_fn is None:
            act_fn = self.choices.text("activation", ("relu", "jumprelu", "topk"))
        if act_fn is None:
            raise CheckpointError(
                f"act_fn in {self.fields.file} (relu, jumprelu or topk)",
                "no such key",
                "Add it to the config, or give --set activation=jumprelu.",
            )
        self.facts["architecture"] = architecture(act_fn, "site_out" in self.facts)
        if act_fn.value == "relu":
            return ReLU()
        if act_fn.value == "topk":
            self.facts["k"] = read_k(self.fields, self.choices, self.d_sae)
            return TopK(self.facts["k"].value)
        return JumpReLU(torch.tensor(self.threshold().value))

    def threshold(self) -> Fact:
        key = "jump_relu_threshold"
        fact = self.choices.number("threshold")
        if fact is None:
            fact = Fact(self.fields.value(key), f"{self.fields.file}: {key}")
        value = fact.value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e30:
            raise CheckpointError(
                f"{fact.source} (a number of at least 0)",
                "no such key" if value is None else repr(value)[:100],
                "Add it to the config, or give --set threshold=VALUE.",
            )
        self.facts["threshold"] = fact
        return Fact(float(value), fact.source, fact.how)


class _Scaled(_Reader):
    """``config.json``: inputs and outputs scaled at run time by averages among the tensors."""

    def read(self) -> SAE:
        sites = [self.facts[name].value for name in ("site", "site_out") if name in self.facts]
        normalization, found = read_normalization(
            self.fields, self.tensors, self.choices, sites[:1], sites[-1:], self.d_in
        )
        gate = read_gate(self.fields, self.tensors, self.choices, allowed=ACT_FNS, d_sae=self.d_sae)
        self.facts |= found | gate.facts | {"k": gate.k}
        self.facts["architecture"] = architecture(gate.act_fn, len(sites) > 1)
        self.notes += gate.notes
        W_dec = self.decoder()
        b_dec = self.b_dec()
        return self.build(
            gate.activation(row_norms(W_dec) if self.ranked.value else None),
            normalization,
            W_dec=W_dec,
            W_enc=self.encoder(),
            b_enc=self.tensors.take("encoder.bias", d_sae=self.d_sae),
            b_dec=b_dec,
            b_in=b_dec if self.subtract.value else None,
        )


def _refuse_glu(fields: Fields, tensors: Tensors) -> None:
    if fields.value("use_glu_encoder") is True or "encoder_glu.weight" in tensors:
        raise CheckpointError(
            f"an encoder with one matrix ({fields.file}: use_glu_encoder false)",
            "a gated linear unit: a second matrix multiplies every pre-activation",
            "Checkpoints with a GLU encoder cannot be evaluated.",
        )
