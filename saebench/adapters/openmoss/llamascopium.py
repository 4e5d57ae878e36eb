"""llamascopium checkpoints: ``config.json`` with ``sae_type``, and ``sae_weights``.

SAEs and transcoders, crosscoders over several hook points, and cross-layer transcoders. The library
encodes inputs that a separate step has normalised; here raw activations are taken and given back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from saebench.adapters.openmoss.gates import (
    ACT_FNS,
    Gate,
    latents,
    read_gate,
    read_normalization,
)
from saebench.adapters.openmoss.layers import CrossLayerParts, read_layers
from saebench.adapters.openmoss.llama_scope import (
    MODEL_CONFIG,
    architecture,
    site_facts,
    weight_file,
)
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import Fields, config_from
from saebench.adapters.reading.tensors import Tensors, row_norms
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, Crosscoder, CrossLayerTranscoder, Dictionary, Fact, SAEConfig
from saebench.sae.headwise import HeadwiseCrosscoder, HeadwiseGate
from saebench.weights import is_pickle

FORMAT = "llamascopium"
CONFIG_FILE = "config.json"
REFUSED = {
    "lorsa": "low-rank sparse attention, whose latents are attention heads",
    "molt": "a mixture of linear transforms, whose latents are matrices",
}
TYPES = ("sae", "crosscoder", "clt", *REFUSED)


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim when ``config.json`` names a type of the library and the weights have its tensors."""
    weights = weight_file(files)
    if weights is None or CONFIG_FILE not in files.names:
        return None
    fields = Fields(CONFIG_FILE, files.json(CONFIG_FILE))
    kind = fields.value("sae_type")
    if (kind is not None and kind not in TYPES) or "d_model" not in fields:
        return None
    if kind is None and "hook_point_in" not in fields:
        return None
    evidence = [f"{CONFIG_FILE}: sae_type {kind!r}"]
    if not is_pickle(weights) or files.allow_pickle:
        header = files.header(weights)
        if kind not in REFUSED and "W_E" not in header:
            return None
        evidence += [f"{weights}: W_E {list(header['W_E'].shape)}"] if "W_E" in header else []
    elif kind is None:
        return None
    configs = (CONFIG_FILE, MODEL_CONFIG) if MODEL_CONFIG in files.names else (CONFIG_FILE,)
    return Claim(FORMAT, tuple(evidence), (weights,), configs)


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> Dictionary:
    """The model; raises :class:`CheckpointError` for the types that are no dictionary of directions."""
    fields = Fields(claim.config, files.json(claim.config))
    source = f"not in {claim.config}: an SAE, as before types were named"
    kind = fields.one_of(TYPES, "sae_type") or Fact("sae", source, "assumed")
    if kind.value in REFUSED:
        raise CheckpointError(
            f"{kind.source} of sae, crosscoder or clt",
            f"{kind.value!r}: {REFUSED[kind.value]}",
            "Its latents are no directions in activation space, so it is not evaluated here.",
        )
    model = None
    if MODEL_CONFIG in claim.configs:
        model = Fields(MODEL_CONFIG, files.json(MODEL_CONFIG)).text("model_name")
    tensors = Tensors(claim.weight, files.state_dict(claim.weight))
    d_model = fields.size("d_model")
    facts: dict[str, Fact | None] = {
        "d_in": d_model,
        "d_out": d_model,
        "model": model,
        "dtype": Fact(tensors.dtype("W_E"), f"{claim.weight}: W_E"),
        "subtract_b_dec": Fact(False, "definition of the library's encoders", "assumed"),
    }
    return READERS[kind.value](fields, tensors, choices, facts)


def _config(
    fields: Fields, tensors: Tensors, facts: dict[str, Fact | None], notes: tuple[str, ...]
) -> SAEConfig:
    unused = tensors.unused()
    more = [f"tensors of {tensors.file} not used: {', '.join(unused)}"] if unused else []
    provenance = {"config": dict(fields.data)}
    return config_from(facts, format=FORMAT, notes=[*notes, *more], provenance=provenance)


def _decoder_bias(fields: Fields, tensors: Tensors, key: str, **sizes: int) -> Tensor:
    if not fields.flag("use_decoder_bias", default=True).value:
        return torch.zeros(*sizes.values())
    return tensors.take(key, **sizes)


def _read_sae(
    fields: Fields, tensors: Tensors, choices: Choices, facts: dict[str, Fact | None]
) -> SAE:
    if fields.value("use_glu_encoder") is True or "W_E_glu" in tensors:
        raise CheckpointError(
            f"an encoder with one matrix ({fields.file}: use_glu_encoder false)",
            "a gated linear unit: a second matrix, W_E_glu, multiplies every pre-activation",
            "Checkpoints with a GLU encoder cannot be evaluated.",
        )
    places = site_facts(fields)
    sites = [fact.value for fact in places.values()]
    d_in = fields.size("d_model").value
    d_sae = latents(tensors, "b_E")
    normalization, found = read_normalization(fields, tensors, choices, sites[:1], sites[-1:], d_in)
    gate = read_gate(fields, tensors, choices, allowed=ACT_FNS, d_sae=d_sae.value)
    facts |= places | found | gate.facts | {"d_sae": d_sae, "k": gate.k}
    facts["architecture"] = architecture(gate.act_fn, len(sites) > 1)
    W_dec = tensors.decoder("W_D", d_sae=d_sae.value, d_out=d_in)
    ranked = fields.flag("sparsity_include_decoder_norm", default=True).value
    parts: dict[str, Any] = {
        "W_dec": W_dec,
        "W_enc": tensors.encoder("W_E", d_in=d_in, d_sae=d_sae.value),
        "b_enc": tensors.take("b_E", d_sae=d_sae.value),
        "b_dec": _decoder_bias(fields, tensors, "b_D", d_out=d_in),
    }
    return SAE(
        _config(fields, tensors, facts, gate.notes),
        gate.activation(row_norms(W_dec) if ranked else None),
        normalization=normalization,
        **parts,
    )


def _read_crosscoder(
    fields: Fields, tensors: Tensors, choices: Choices, facts: dict[str, Fact | None]
) -> Crosscoder:
    sites = hook_points(fields, "hook_points")
    n, d_in = len(sites.value), fields.size("d_model").value
    d_sae = latents(tensors, "b_E")
    # the decoder first: rearranging it takes a second copy, which is gone before the encoder comes
    W_dec = tensors.take("W_D", heads=n, d_sae=d_sae.value, d_out=d_in).permute(1, 0, 2)
    W_dec = W_dec.reshape(d_sae.value, n * d_in)
    norms = row_norms(W_dec.view(-1, d_in)).view(d_sae.value, n).T
    normalization, found = read_normalization(
        fields, tensors, choices, sites.value, sites.value, d_in
    )
    gate = read_gate(fields, tensors, choices, allowed=ACT_FNS, d_sae=d_sae.value)
    facts |= found | gate.facts | {"d_sae": d_sae, "k": gate.k, "sites": sites}
    facts |= {name: Fact(n, sites.source) for name in ("n_sources", "n_targets")}
    kind = f"{gate.act_fn.value}_crosscoder"
    facts["architecture"] = Fact(kind, gate.act_fn.source, gate.act_fn.how)
    parts: dict[str, Any] = {
        "W_dec": W_dec,
        "W_enc": tensors.take("W_E", heads=n, d_in=d_in, d_sae=d_sae.value).reshape(n * d_in, -1),
        "b_enc": tensors.take("b_E", heads=n, d_sae=d_sae.value).sum(0),
        "b_dec": tensors.take("b_D", heads=n, d_out=d_in).reshape(-1),
        "normalization": normalization,
    }
    config = _config(fields, tensors, facts, (*gate.notes, *_headwise_note(gate)))
    if gate.act_fn.value == "relu":
        return Crosscoder(config, gate.activation(None), **parts)
    return HeadwiseCrosscoder(config, _headwise(gate, norms.contiguous()), **parts)


def _headwise(gate: Gate, norms: Tensor) -> HeadwiseGate:
    k = None if gate.k is None else gate.k.value
    if gate.act_fn.value == "topk":
        return HeadwiseGate(norms, top_k=k)
    return HeadwiseGate(norms, threshold=gate.threshold, mean_k=k)


def _headwise_note(gate: Gate) -> tuple[str, ...]:
    if gate.act_fn.value == "relu":
        return ()
    return (
        "each hook point has a gate of its own, by its decoder norms: a latent counts as active "
        "where any of them passes, and is written only to those that do",
    )


def _read_clt(
    fields: Fields, tensors: Tensors, choices: Choices, facts: dict[str, Fact | None]
) -> CrossLayerTranscoder:
    reads, writes = (hook_points(fields, f"hook_points_{end}") for end in ("in", "out"))
    if len(reads.value) != len(writes.value):
        raise CheckpointError(
            f"{writes.source}: as many as {reads.source} ({len(reads.value)})",
            str(len(writes.value)),
            "Correct the config.",
        )
    found: CrossLayerParts = read_layers(fields, tensors, choices, facts, reads.value, writes.value)
    n = len(reads.value)
    all_facts = facts | found.facts | {"sites": reads, "sites_out": writes}
    all_facts |= {name: Fact(n, reads.source) for name in ("n_sources", "n_targets")}
    all_facts["architecture"] = Fact("cross_layer_transcoder", f"{fields.file}: sae_type")
    config = _config(fields, tensors, all_facts, found.notes)
    targets = [range(source, n) for source in range(n)]
    return CrossLayerTranscoder(
        config, found.layers, targets, found.b_dec, normalization=found.normalization
    )


def hook_points(fields: Fields, key: str) -> Fact:
    """A list of hook-point names, not empty."""
    value = fields.value(key)
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise CheckpointError(
            f"{fields.file}: {key} (a list of hook points)",
            "no such key" if value is None else repr(value)[:200],
            "Fetch the config that belongs to these weights.",
        )
    return Fact(tuple(value), f"{fields.file}: {key}")


Reader = Callable[[Fields, Tensors, Choices, dict[str, Fact | None]], Dictionary]
READERS: dict[str, Reader] = {"sae": _read_sae, "crosscoder": _read_crosscoder, "clt": _read_clt}
