"""The layers of llamascopium's cross-layer transcoders, one encoder with its decoders per source.

The file groups decoders by target, ``W_D.<t> [t + 1, d_sae, d_model]``; here they are grouped by source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saebench.adapters.openmoss.gates import (
    ACT_FNS,
    Gate,
    latents,
    read_gate,
    read_normalization,
)
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.fields import Fields, config_from
from saebench.adapters.reading.tensors import Tensors, row_norms
from saebench.errors import CheckpointError
from saebench.sae import SAE, Fact
from saebench.sae.normalization import Normalization

ACROSS = {
    "layertopk": "the k largest of all layers of a token are kept together",
    "batchlayertopk": "one threshold is shared by all layers, and it is not stored",
}


@dataclass(frozen=True)
class CrossLayerParts:
    """What a cross-layer transcoder is made of, and the facts and notes found on the way."""

    layers: list[SAE]
    b_dec: Tensor
    normalization: Normalization
    facts: dict[str, Fact | None]
    notes: tuple[str, ...]


def read_layers(
    fields: Fields,
    tensors: Tensors,
    choices: Choices,
    facts: dict[str, Fact | None],
    reads: Sequence[str],
    writes: Sequence[str],
) -> CrossLayerParts:
    """The layers of a checkpoint that reads ``reads`` and writes ``writes``.

    Raises :class:`CheckpointError` for gates that choose among the latents of several layers.
    """
    n, d_in = len(reads), fields.size("d_model").value
    per_layer = latents(tensors, "b_E").value
    shared = _shared_threshold(fields, choices)
    decoders = _decoders(tensors, n, per_layer, d_in)  # first: it needs memory beside what is kept
    shape = {"layers": n, "d_sae": per_layer}
    gate = read_gate(fields, tensors, choices, allowed=(*ACT_FNS, *shared), **shape)
    normalization, found = read_normalization(fields, tensors, choices, reads, writes, d_in)
    ranked = fields.flag("sparsity_include_decoder_norm", default=True).value
    W_enc = tensors.take("W_E", layers=n, d_in=d_in, d_sae=per_layer)
    b_enc = tensors.take("b_E", layers=n, d_sae=per_layer)
    d_sae = Fact(n * per_layer, f"{tensors.file}: shape of b_E")
    found |= {**gate.facts, "d_sae": d_sae, "k": _k_of_all(gate, n)}
    layers = []
    for s in range(n):
        flat = decoders[s].reshape(per_layer, -1)
        threshold = gate.threshold
        if threshold is not None and threshold.ndim == 2:
            threshold = threshold[s]
        layer = {
            "architecture": gate.act_fn,
            "d_in": facts["d_in"],
            "d_out": facts["d_out"],
            "d_sae": Fact(per_layer, d_sae.source),
            "n_targets": Fact(n - s, fields.file),
            "site": Fact(reads[s], fields.file),
        }
        layers.append(
            SAE(
                config_from(layer, format="llamascopium", notes=[], provenance={}),
                gate.activation(row_norms(flat) if ranked else None, threshold),
                W_enc=W_enc[s],
                b_enc=b_enc[s],
                W_dec=flat,
                b_dec=torch.zeros((n - s) * d_in),
            )
        )
    biases = torch.stack([tensors.take(f"b_D.{t}", d_out=d_in) for t in range(n)])
    return CrossLayerParts(layers, biases, normalization, found, gate.notes)


def _shared_threshold(fields: Fields, choices: Choices) -> tuple[str, ...]:
    """The gates over several layers that a threshold given by the user settles."""
    act_fn = fields.value("act_fn")
    if not isinstance(act_fn, str) or act_fn not in ACROSS:
        return ()
    if act_fn == "batchlayertopk" and "threshold" in choices:
        return ("batchlayertopk",)
    give = ", or give it: --set threshold=VALUE" if act_fn == "batchlayertopk" else ""
    raise CheckpointError(
        f"{fields.file}: act_fn that gates each layer by itself ({', '.join(ACT_FNS)})",
        f"{act_fn!r}: {ACROSS[act_fn]}",
        f"Convert it to JumpReLU with the library{give}.",
    )


def _k_of_all(gate: Gate, n: int) -> Fact | None:
    """k of all layers together, as ``d_sae`` counts latents."""
    if gate.k is None or gate.act_fn.value in ACROSS:
        return gate.k
    return Fact(n * gate.k.value, f"{gate.k.source}, times {n} layers", gate.k.how)


def _decoders(tensors: Tensors, n: int, d_sae: int, d_out: int) -> list[Tensor]:
    """The decoders of each source, ``[d_sae, n − source, d_out]``, filled target by target."""
    decoders: list[Tensor] = []
    for target in range(n):
        key = f"W_D.{target}"
        group = tensors.take(key, sources=target + 1, d_sae=d_sae, d_out=d_out)
        decoders.append(group.new_empty(d_sae, n - target, d_out))
        for source in range(target + 1):
            decoders[source][:, target - source] = group[source]
    return decoders
