"""Crosscoders of crosscoder-model-diff-replication: two models at one hook point, ReLU.

``f = relu(Σ_m h_m W_enc_m + b_enc)`` and ``ĥ_m = f W_dec_m + b_dec_m``, where ``h_m`` is the activation
of model ``m`` times ``√d / mean norm``. That factor is in none of the files: it is the user's, or is
estimated on data. Source: the CrossCoder and Buffer classes of the repository.
"""

from __future__ import annotations

from typing import Any

import torch

from saebench.activations import ReLU
from saebench.adapters.crosscoders.two_models import (
    N_MODELS,
    agreed,
    given_scale,
    headers,
    matrices,
    sizes,
)
from saebench.adapters.reading.batch_gate import ESTIMATE
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import Fields, config_from
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import Crosscoder, Fact
from saebench.sae.normalization import AverageNorm

FORMAT = "crosscoder-model-diff-replication"
CONFIG_FILE = "cfg.json"
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
RUN_KEYS = ("lr", "seed", "l1_coeff", "num_tokens", "batch_size", "seq_len", "dec_init_norm")


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim on the matrices of two models without a threshold."""
    found = {name: header for name, header in headers(files) if "threshold" not in header}
    if not found:
        return None
    names = tuple(found)
    name = names[0]
    configs = tuple(file for file in _config_names(name) if file in files.names)[:1]
    evidence = [f"{name}: W_enc {list(found[name]['W_enc'].shape)}, W_dec, no threshold"]
    if configs:
        said = files.json(configs[0]).get("hook_point")
        evidence.append(f"{configs[0]}: hook_point {said!r:.60}")
    return Claim(FORMAT, tuple(evidence), names, configs)


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> Crosscoder:
    """The crosscoder; raises :class:`CheckpointError` where config and tensors contradict each other."""
    if len(claim.weights) > 1:
        raise CheckpointError(
            f"one crosscoder in {files.root}",
            f"{len(claim.weights)}: {', '.join(claim.weights[:12])}",
            "Reference one of these files.",
        )
    data = files.json(claim.config) if claim.configs else {}
    fields = Fields(claim.config if claim.configs else CONFIG_FILE, data)
    content = files.state_dict(claim.weight)
    tensors = Tensors(claim.weight, content)
    d_in, d_sae = sizes(tensors)
    d_in = agreed(d_in, fields.optional_size("d_in"))
    d_sae = agreed(d_sae, fields.optional_size("dict_size"))
    normalization, scale = _normalization(choices, claim.weight)
    model = fields.text("model_name")
    dtype = Fact(tensors.dtype("W_dec"), f"{claim.weight}: W_dec")
    facts = {
        "architecture": Fact("standard", "definition of the format", "assumed"),
        "d_in": d_in,
        "d_sae": d_sae,
        "d_out": d_in,
        "n_sources": Fact(N_MODELS, f"{claim.weight}: shape of W_enc"),
        "n_targets": Fact(N_MODELS, f"{claim.weight}: shape of W_dec"),
        "site": fields.text("hook_point"),
        "model": model,
        "dtype": dtype,
        "normalization": Fact(AverageNorm.name, scale.source, scale.how),
        "input_scale": scale,
        "subtract_b_dec": Fact(False, "definition of the format", "assumed"),
    }
    parts = matrices(tensors, d_in.value, d_sae.value)
    config = config_from(
        facts,
        format=FORMAT,
        notes=_notes(fields, tensors, dtype, scale),
        provenance=_provenance(fields),
    )
    return Crosscoder(config, ReLU(), **parts, normalization=normalization)


def _config_names(weights: str) -> tuple[str, ...]:
    """The config of a numbered file, else that of the published one."""
    return f"{weights.rpartition('.')[0]}_cfg.json", CONFIG_FILE


def _normalization(choices: Choices, file: str) -> tuple[AverageNorm, Fact]:
    scale = given_scale(choices)
    if scale is not None:
        return AverageNorm(N_MODELS, torch.tensor(scale.value)), scale
    source = f"not in {file}: √d over the mean norm of each model, taken from data"
    return AverageNorm(N_MODELS), Fact(ESTIMATE, source, "assumed")


def _notes(fields: Fields, tensors: Tensors, dtype: Fact, scale: Fact) -> list[str]:
    notes = [
        "trained on tokens after the first of each sequence (BOS dropped), on models that "
        "TransformerLens had processed"
    ]
    if scale.value == ESTIMATE:
        notes.append(
            "each model's activations were scaled by a factor that no file holds: it is estimated "
            "on data unless --set input_scale=A,B gives it"
        )
    if fields.value("model_name") is not None:
        notes.append(f"{fields.file} names one of the two models only (model_name)")
    said = DTYPES.get(str(fields.value("enc_dtype")))
    if said is not None and said != dtype.value:
        notes.append(f"trained in {said} (enc_dtype), stored in {dtype.value}")
    if tensors.unused():
        notes.append(f"tensors of {tensors.file} not used: {', '.join(tensors.unused())}")
    return notes


def _provenance(fields: Fields) -> dict[str, Any]:
    return {"run": {key: value for key in RUN_KEYS if (value := fields.value(key)) is not None}}
