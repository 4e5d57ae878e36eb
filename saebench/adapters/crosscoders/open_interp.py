"""OpenInterpretability crosscoders: two models read at one layer, with a threshold for each latent.

``h_m = x_m · norm_scale_m``, ``pre = Σ_m (h_m − b_dec_m) W_enc_m + b_enc``, ``f = pre · [pre > threshold]
· [pre > 0]`` and ``x̂_m = (f W_dec_m + b_dec_m) / norm_scale_m``. Thresholds are in units of ``pre``,
although training ranked ``f · (‖d_A‖ + ‖d_B‖)``. Source: the notebook that trains them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saebench.activations import Activation, JumpReLU
from saebench.adapters.crosscoders.two_models import (
    KEY_TENSORS,
    N_MODELS,
    agreed,
    given_scale,
    headers,
    is_factor,
    matrices,
    sizes,
)
from saebench.adapters.reading.batch_gate import (
    ASK_ONE,
    ESTIMATE,
    batch_gate,
    estimated,
    given_threshold,
)
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import Fields, config_from
from saebench.adapters.reading.ours import written_provenance
from saebench.adapters.reading.tensors import Tensors, row_norms
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import Crosscoder, Fact
from saebench.sae.normalization import Affine, AverageNorm, Normalization
from saebench.weights import StateDict, is_pickle

FORMAT = "OpenInterpretability crosscoder"
CONFIG_FILE = "cfg.json"
SCALES = ("norm_scale_A", "norm_scale_B")
PROGRESS = ("step", "tokens_seen")
RESULTS = ("val_metrics", "taxonomy_counts")
RUN_KEYS = (
    *("variant", "reference", "expansion", "seq_len", "lr", "lambda_l1", "dec_init_norm"),
    *("token_budget", "k_warmup_init", "k_warmup_steps", "data_web_frac", "seed"),
)


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim on the matrices of two models with a threshold for each latent."""
    found = {
        name: header
        for name, header in headers(files)
        if "threshold" in header and header["threshold"].shape == header["b_enc"].shape
    }
    if not found:
        return None
    name = min(found, key=lambda file: (is_pickle(file), file))  # the final file before the resume
    shapes = f"W_enc {list(found[name]['W_enc'].shape)}, W_dec, threshold"
    evidence = [f"{name}: {shapes} {list(found[name]['threshold'].shape)}"]
    configs = (CONFIG_FILE,) if CONFIG_FILE in files.names else ()
    if configs:
        said = files.json(CONFIG_FILE).get("architecture")
        evidence.append(f"{CONFIG_FILE}: architecture {said!r:.60}")
    return Claim(FORMAT, tuple(evidence), (name,), configs)


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> Crosscoder:
    """The crosscoder; raises :class:`CheckpointError` where config and tensors contradict each other."""
    content = files.state_dict(claim.weight)
    fields = _fields(files, claim, content)
    tensors = Tensors(claim.weight, content)
    d_in, d_sae = sizes(tensors)
    d_in = agreed(d_in, fields.optional_size("d_model"))
    d_sae = agreed(d_sae, fields.optional_size("n_features"))
    k = choices.size("k") or fields.optional_size("k_batchtopk")
    parts = matrices(tensors, d_in.value, d_sae.value)
    normalization, scale = _normalization(fields, choices, d_in.value)
    activation, threshold = _activation(tensors, content, k, parts["W_dec"], choices)
    facts = {
        "architecture": Fact("batchtopk", f"{claim.weight}: threshold [d_sae]"),
        "d_in": d_in,
        "d_sae": d_sae,
        "d_out": d_in,
        "n_sources": Fact(N_MODELS, f"{claim.weight}: shape of W_enc"),
        "n_targets": Fact(N_MODELS, f"{claim.weight}: shape of W_dec"),
        "k": k,
        "site": _site(fields),
        "models": _models(fields),
        "dtype": Fact(tensors.dtype("W_dec"), f"{claim.weight}: W_dec"),
        "normalization": Fact(normalization.name, scale.source, scale.how),
        "input_scale": scale,
        "subtract_b_dec": Fact(True, "definition of the format", "assumed"),
        "threshold": threshold,
    }
    notes = [*_notes(activation, scale, content), *_unused(tensors)]
    config = config_from(facts, format=FORMAT, notes=notes, provenance=_provenance(fields, content))
    return Crosscoder(config, activation, **parts, b_in=parts["b_dec"], normalization=normalization)


def _fields(files: CheckpointFiles, claim: Claim, content: StateDict) -> Fields:
    """The config beside the weights, else the one that a run keeps in its own checkpoints."""
    if claim.configs:
        return Fields(CONFIG_FILE, files.json(CONFIG_FILE))
    inside = (content.siblings or {}).get("cfg")
    if isinstance(inside, dict):
        return Fields(f"{claim.weight}, cfg", inside)
    return Fields(CONFIG_FILE, {})


def _normalization(fields: Fields, choices: Choices, d_in: int) -> tuple[Normalization, Fact]:
    """The factors that the config stores; without a config estimated as training estimated them."""
    scale = given_scale(choices)
    if scale is None and fields.value(*SCALES) is None:
        source = f"no {' and '.join(SCALES)}: √d over the mean norm of each model, taken from data"
        return AverageNorm(N_MODELS), Fact(ESTIMATE, source, "assumed")
    if scale is None:
        factors = tuple(_factor(fields, key) for key in SCALES)
        scale = Fact(factors, f"{fields.file}: {', '.join(SCALES)}")
    return Affine(torch.tensor(scale.value).repeat_interleave(d_in)), scale


def _factor(fields: Fields, key: str) -> float:
    value = fields.value(key)
    if is_factor(value):
        return float(value)
    raise CheckpointError(
        f"{key} in {fields.file} (a positive number)",
        "no such key" if value is None else repr(value)[:200],
        "Fetch the config that belongs to these weights, or give --set input_scale=A,B.",
    )


def _activation(
    tensors: Tensors, content: StateDict, k: Fact | None, W_dec: Tensor, choices: Choices
) -> tuple[Activation, Fact | None]:
    """The thresholds stored; those of a run that has not ended were never set."""
    (d_sae,) = tensors.shape("threshold")
    given = given_threshold(choices)
    if given is None:
        values = tensors.threshold("threshold", ASK_ONE, ASK_ONE, d_sae=d_sae)
        if bool((values > 0).any()):
            return JumpReLU(values), None
        if content.wrapper is None or k is None:
            raise CheckpointError(
                f"thresholds of {tensors.file} with a value > 0",
                "0 for all latents, the initial value: training never estimated them",
                ASK_ONE,
            )
    tensors.ignore({"threshold"})
    if k is None:
        if given is not None and given.value != ESTIMATE:
            return batch_gate(d_sae, given), given
        raise CheckpointError(
            f"k_batchtopk in {CONFIG_FILE}, to estimate a threshold",
            "no such key",
            "Give --set k=NUMBER, the latents per token asked for in training.",
        )
    threshold = given or estimated(tensors.file, k)
    weight = torch.zeros(d_sae)
    for decoder in W_dec.chunk(N_MODELS, -1):  # training ranked by the sum of both norms
        weight += row_norms(decoder)
    return batch_gate(k.value, threshold, weight), threshold


def _site(fields: Fields) -> Fact | None:
    layer = fields.value("layer")
    if type(layer) is not int or layer < 0:
        return None
    source = f"{fields.file}: layer, of which the output is read"
    return Fact(f"blocks.{layer}.hook_resid_post", source, "assumed")


def _models(fields: Fields) -> Fact | None:
    base, chat = fields.text("base_model"), fields.text("chat_model")
    if base is None or chat is None:
        return None
    return Fact((base.value, chat.value), f"{fields.file}: base_model, chat_model")


def _notes(activation: Activation, scale: Fact, content: StateDict) -> list[str]:
    notes = ["trained on tokens after the first of each sequence (BOS dropped)"]
    if isinstance(activation, JumpReLU) and activation.threshold.ndim:
        zero = int((activation.threshold == 0).sum())
        if zero:
            notes.append(
                f"{zero:,} of {activation.threshold.numel():,} thresholds are 0 (latents that "
                "passed the gate nowhere in calibration): these are active wherever their "
                "pre-activation is positive"
            )
    if scale.value == ESTIMATE:
        notes.append("the factors of the two models are not stored: they are estimated on data")
    if content.wrapper is not None:
        step = (content.siblings or {}).get("step")
        at = "" if step is None else f", at step {step}"
        notes.append(f"a checkpoint of a run that had not ended (tensors under 'cc'{at})")
    return notes


def _unused(tensors: Tensors) -> list[str]:
    tensors.ignore(KEY_TENSORS)
    names = ", ".join(tensors.unused())
    return [f"tensors of {tensors.file} not used: {names}"] if names else []


def _provenance(fields: Fields, content: StateDict) -> dict[str, Any]:
    """What its author measured, and how it was trained."""
    found = {key: value for key in RESULTS if (value := fields.value(key)) is not None}
    run = {key: value for key in RUN_KEYS if (value := fields.value(key)) is not None}
    beside = content.siblings or {}
    run |= {key: beside[key] for key in PROGRESS if key in beside}
    return {**found, "run": run, **written_provenance(fields)}
