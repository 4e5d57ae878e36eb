"""The dictionary of a file of no known format, once everything about it is settled."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from saebench.activations import (
    AbsTopK,
    Activation,
    Gated,
    Identity,
    JumpReLU,
    ReLU,
    TopK,
)
from saebench.adapters.generic.config import MODEL, SITE, Knowledge, a_text
from saebench.adapters.generic.gate import Gate
from saebench.adapters.generic.inputs import Input, build_normalization
from saebench.adapters.generic.shapes import Layout
from saebench.adapters.generic.sheet import contradiction, shown
from saebench.adapters.reading.batch_gate import ASK_ONE, batch_gate, estimated
from saebench.adapters.reading.fields import config_from
from saebench.adapters.reading.tensors import Tensors, row_norms, scale_rows
from saebench.adapters.reading.thresholds import (
    AS_STORED,
    ASK_NUMBER,
    LOG,
    stored_thresholds,
)
from saebench.sae import SAE, Fact, UntiedGatedSAE
from saebench.weights import StateDict

MAX_LOGARITHM = 80  # exp() of more is no float32
_LAYER_IN_PATH = re.compile(
    r"layers?[_.-]?\d{1,3}(?!\d)|[/_.-]l\d{1,3}(?![\d_])",  # but not L0_50, a count of latents
    re.IGNORECASE,
)


def build(
    format: str,
    tensors: Tensors,
    content: StateDict,
    known: Knowledge,
    *,
    roles: Mapping[str, str],
    layout: Layout,
    gate: Gate,
    inputs: Input,
    variants: Mapping[str, Fact],
    hint: str = "",
) -> SAE:
    """The model; raises :class:`CheckpointError` where a tensor is not what its role needs."""
    d_sae = layout.d_sae.value
    if not min(layout.d_in.value, d_sae, layout.d_out.value):
        raise contradiction(f"matrices of {tensors.file} that are not empty", "a width of 0")
    if gate.k is not None and gate.k.value > d_sae:
        raise contradiction(f"k of at most d_sae = {d_sae}", f"{gate.k.value} ({gate.k.source})")
    parts = _matrices(tensors, roles, layout, variants)
    parts |= _biases(tensors, roles, layout, inputs)
    normalization, named = build_normalization(inputs, roles, tensors, layout.d_in.value)
    activation, threshold = _activation(tensors, roles, gate, d_sae, variants)
    transcoder = "skip" in roles or layout.d_in.value != layout.d_out.value
    facts = _facts(tensors, known, roles, layout, gate, inputs, variants)
    facts |= {"normalization": named, "threshold": threshold}
    if transcoder:
        because = "what is written is not what is read"
        facts["undo_normalization"] = Fact(False, because, "assumed")
    notes = _notes(tensors, content, facts, roles, hint)
    provenance: dict[str, Any] = {fields.file: dict(fields.data) for fields in known.sources}
    config = config_from(facts, format=format, notes=notes, provenance=provenance)
    if "gate" in roles and gate.activation.value == "gated":
        widths = {"d_in": layout.d_in.value, "d_sae": d_sae}
        parts["W_gate"] = tensors.encoder(roles["gate"], **widths, linear=layout.encoder_linear)
        parts["b_gate"] = (
            _vector(tensors, roles["b_gate"], d_sae=d_sae)
            if "b_gate" in roles
            else torch.zeros(d_sae)
        )
        return UntiedGatedSAE(config, activation, normalization=normalization, **parts)
    return SAE(config, activation, normalization=normalization, **parts)


def _matrices(
    tensors: Tensors, roles: Mapping[str, str], layout: Layout, variants: Mapping[str, Fact]
) -> dict[str, Tensor]:
    d_in, d_sae, d_out = layout.d_in.value, layout.d_sae.value, layout.d_out.value
    encoder = roles.get("encoder") or roles["decoder"]
    decoder = roles.get("decoder") or roles["encoder"]
    W_dec = tensors.decoder(decoder, d_sae=d_sae, d_out=d_out, linear=layout.decoder_linear)
    normalize = variants.get("normalize_decoder")
    if normalize is not None and normalize.value:
        norms = row_norms(W_dec)
        W_dec = scale_rows(W_dec, torch.where(norms > 0, 1 / norms, 1))
    if "multiplier" in roles:
        W_dec = scale_rows(W_dec, torch.full((d_sae,), _multiplier(tensors, roles["multiplier"])))
    parts = {
        "W_enc": tensors.encoder(encoder, d_in=d_in, d_sae=d_sae, linear=layout.encoder_linear),
        "W_dec": W_dec,
    }
    if "skip" in roles:
        parts["W_skip"] = tensors.take(roles["skip"], d_out=d_out, d_in=d_in)
    return parts


def _multiplier(tensors: Tensors, name: str) -> float:
    """The factor ``exp(m)`` of all decoder directions, where the file has ``m`` (Overcomplete)."""
    value = tensors.scalar(name)
    if abs(value) < MAX_LOGARITHM:
        return math.exp(value)
    raise contradiction(f"{shown(name)} of {tensors.file}, the logarithm of a factor", f"{value:g}")


def _biases(
    tensors: Tensors, roles: Mapping[str, str], layout: Layout, inputs: Input
) -> dict[str, Tensor]:
    d_in, d_out = layout.d_in.value, layout.d_out.value
    b_dec = torch.zeros(d_out)
    if "b_dec" in roles:
        b_dec = _vector(tensors, roles["b_dec"], d_out=d_out)
    parts = {"b_dec": b_dec}
    if "b_enc" in roles:
        parts["b_enc"] = _vector(tensors, roles["b_enc"], d_sae=layout.d_sae.value)
    b_in = _vector(tensors, roles["b_in"], d_in=d_in) if "b_in" in roles else None
    if inputs.subtract_b_dec.value:
        b_in = b_dec if b_in is None else b_in + b_dec
    return parts if b_in is None else parts | {"b_in": b_in}


def _activation(
    tensors: Tensors,
    roles: Mapping[str, str],
    gate: Gate,
    d_sae: int,
    variants: Mapping[str, Fact],
) -> tuple[Activation, Fact | None]:
    """The activation, and where its threshold comes from if it has one."""
    kind, k = gate.activation.value, 0 if gate.k is None else gate.k.value
    if kind == "relu":
        return ReLU(), None
    if kind == "topk":
        assert gate.relu is not None
        return TopK(k, rectify=bool(gate.relu.value)), None
    if kind == "abstopk":
        return AbsTopK(k), None
    if kind == "gated":
        return _gated(tensors, roles, d_sae), None
    if gate.threshold is None and "threshold" in roles:
        return JumpReLU(_thresholds(tensors, roles["threshold"], d_sae, variants)), None
    threshold = gate.threshold
    if threshold is None:
        assert gate.k is not None  # asked for otherwise
        threshold = estimated(tensors.file, gate.k)
    if gate.k is None and threshold.value == "estimate":
        raise contradiction("k, from which the threshold is estimated", "none: add --set k=K")
    return batch_gate(k, threshold), threshold


def _thresholds(tensors: Tensors, name: str, d_sae: int, variants: Mapping[str, Fact]) -> Tensor:
    shape = tensors.shape(name)
    one = math.prod(shape) == 1
    sizes = {f"dim {i}": 1 for i in range(len(shape) - (not one))} | (
        {} if one else {"d_sae": d_sae}
    )
    how = LOG if variants["log_threshold"].value else None
    how = AS_STORED if "stored_threshold" in variants else how
    values = stored_thresholds(tensors, name, how, ASK_ONE if one else ASK_NUMBER, **sizes)
    return values.reshape(()) if one else values.reshape(d_sae)


def _gated(tensors: Tensors, roles: Mapping[str, str], d_sae: int) -> Activation:
    """A gate of its own matrix has decided before; else the gate shares the encoder's matrix."""
    if "gate" in roles:
        return Identity()
    missing = [role for role in ("b_gate", "r_mag", "b_mag") if role not in roles]
    if missing:
        raise contradiction(
            "tensors of a gated dictionary (gate and b_gate; or b_gate, r_mag and b_mag)",
            f"{', '.join(missing)} not found: name them with --map {missing[0]}=NAME",
        )
    b_gate, r_mag, b_mag = (
        _vector(tensors, roles[role], d_sae=d_sae) for role in ("b_gate", "r_mag", "b_mag")
    )
    return Gated(b_gate, r_mag, b_mag)


def _vector(tensors: Tensors, name: str, **size: int) -> Tensor:
    """A vector that may be stored as a matrix of one row."""
    if len(tensors.shape(name)) == 2:
        return tensors.numbers(name, rows=1, **size).reshape(-1)
    return tensors.take(name, **size)


def _facts(
    tensors: Tensors,
    known: Knowledge,
    roles: Mapping[str, str],
    layout: Layout,
    gate: Gate,
    inputs: Input,
    variants: Mapping[str, Fact],
) -> dict[str, Fact | None]:
    decoder = roles.get("decoder") or roles["encoder"]
    return {
        "architecture": gate.activation,
        "d_in": layout.d_in,
        "d_sae": layout.d_sae,
        "d_out": layout.d_out,
        "orientation": layout.encoder,
        "decoder_orientation": layout.decoder,
        "k": gate.k,
        "relu": gate.relu,
        "site": next(iter(known.all(SITE, a_text)), None),
        "model": next(iter(known.all(MODEL, a_text)), None),
        "dtype": Fact(tensors.dtype(decoder), f"{tensors.file}: {shown(decoder)}"),
        "subtract_b_dec": inputs.subtract_b_dec,
        **variants,
    }


def _notes(
    tensors: Tensors,
    content: StateDict,
    facts: Mapping[str, Fact | None],
    roles: Mapping[str, str],
    hint: str,
) -> list[str]:
    """What matters and was not confirmed by anybody."""
    notes = [
        f"{name} {fact.value} is assumed: {fact.source}"
        for name, fact in facts.items()
        if fact is not None and fact.how == "assumed" and name in CHANGES_NUMBERS
    ]
    if "b_in" in roles:
        notes.append(f"{shown(roles['b_in'])} is subtracted from the input (by its name or --map)")
    if "skip" in roles:
        notes.append(f"{shown(roles['skip'])} is taken to be [d_out, d_in], as of a torch Linear")
    if "multiplier" in roles:
        name = roles["multiplier"]
        factor = _multiplier(tensors, name)
        notes.append(f"decoder directions are multiplied by exp({shown(name)}) = {factor:.6g}")
    if content.wrapper is not None:
        notes.append(f"the tensors lay under {content.wrapper!r} of {tensors.file}")
    if facts.get("site") is None:
        layer = _LAYER_IN_PATH.search(hint)
        said = f" ({layer[0]!r} in its path is a hint at the layer)" if layer else ""
        notes.append(f"no config says which hook point it was trained on{said}")
    tensors.ignore(roles.values())
    if tensors.unused():
        names = ", ".join(shown(name) for name in tensors.unused()[:12])
        notes.append(f"tensors of {tensors.file} not used: {names}")
    return notes


CHANGES_NUMBERS = ("subtract_b_dec", "relu", "normalization", "threshold", "log_threshold")
