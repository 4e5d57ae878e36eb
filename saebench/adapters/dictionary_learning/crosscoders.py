"""Crosscoders of the forks of dictionary_learning, over models or over layers.

Each source has an encoder of its own (``encoder.weight [M, d_in, d_sae]``) and a decoder
(``decoder.weight [M, d_sae, d_in]``). ``f = relu(Σ_m n(x)_m E_m + e)``; a ``BatchTopKCrossCoder`` keeps ``f``
where ``f · c > threshold``, ``c`` made of decoder norms, and leaves ``f`` as it is: a gate on ``f`` with a
threshold for each latent. ``x̂_m = n⁻¹(f D_m + b_m)``. Source: the classes of the forks.
"""

from __future__ import annotations

from typing import Any

from saebench.adapters.dictionary_learning.classes import gate_notes
from saebench.adapters.dictionary_learning.difference import run_files
from saebench.adapters.dictionary_learning.files import (
    CONFIG_FILE,
    CROSSCODERS,
    DECODER,
    ENCODER,
    dict_class,
    header_of,
    is_crosscoder,
    place_of,
    weight_file,
)
from saebench.adapters.dictionary_learning.gate import read_gate
from saebench.adapters.dictionary_learning.normalizer import read_normalizer
from saebench.adapters.dictionary_learning.sources import config_fields, source_facts
from saebench.adapters.dictionary_learning.trainer import step_of
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import Fields, config_from
from saebench.adapters.reading.ours import without_ours, written_provenance
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import Crosscoder, Fact

FORMAT = "dictionary_learning crosscoder"
GATED = "BatchTopKCrossCoder"


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim on weights with an encoder for each source, or on a config that names such a class."""
    weights = weight_file(files.names)
    if weights is None or not is_crosscoder(files, weights):
        return None
    header = header_of(files, weights)
    evidence = [
        f"{weights}: {k} {list(header[k].shape)}" for k in (ENCODER, DECODER) if k in header
    ]
    if named := dict_class(files):
        evidence.append(f"{named[1]} {named[0]!r:.80}")
    config = place_of(files.names, CONFIG_FILE)
    configs = () if config is None else (config,)
    return Claim(FORMAT, tuple(evidence), (weights,), (*configs, *run_files(files)))


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> Crosscoder:
    """The crosscoder; raises :class:`CheckpointError` where config and tensors contradict each other."""
    fields = config_fields(files)
    content = files.state_dict(claim.weight)
    tensors = Tensors(claim.weight, content)
    n_sources, d_in, d_sae = _sizes(fields, tensors)
    M, d, F = n_sources.value, d_in.value, d_sae.value
    name = _class_name(files, tensors)
    normalizer = read_normalizer(tensors, fields[0], choices, d, M)
    W_enc = tensors.take(ENCODER, sources=M, d_in=d, d_sae=F).reshape(M * d, F)
    W_dec = tensors.decoders(DECODER, sources=M, d_sae=F, d_out=d)
    gate = read_gate(fields, tensors, choices, W_dec, M, batch=name.value == GATED)
    sources, source_notes = source_facts(files, fields, choices, M)
    step, step_notes = step_of(claim.weight, fields[0])
    facts: dict[str, Fact | None] = {
        "architecture": Fact("batchtopk" if name.value == GATED else "standard", name.source),
        "d_in": d_in,
        "d_sae": d_sae,
        "d_out": d_in,
        "n_sources": n_sources,
        "n_targets": n_sources,
        **gate.facts,
        **sources,
        "dtype": Fact(tensors.dtype(DECODER), f"{claim.weight}: {DECODER}"),
        **normalizer.facts,
        "subtract_b_dec": Fact(False, f"definition of {name.value}", "assumed"),
        "step": step,
    }
    b_enc = tensors.take("encoder.bias", d_sae=F)
    b_dec = tensors.take("decoder.bias", sources=M, d_out=d).reshape(M * d)
    notes = gate.notes + normalizer.notes + source_notes + step_notes
    notes += gate_notes(gate.facts.get("threshold"), tensors)
    if unused := tensors.unused():
        notes.append(f"tensors of {tensors.file} not used: {', '.join(unused)}"[:400])
    config = config_from(
        facts, format=FORMAT, notes=notes, provenance=_provenance(fields, content.siblings)
    )
    return Crosscoder(
        config,
        gate.activation,
        W_enc=W_enc,
        W_dec=W_dec,
        b_enc=b_enc,
        b_dec=b_dec,
        normalization=normalizer.normalization,
    )


def _sizes(fields: list[Fields], tensors: Tensors) -> tuple[Fact, Fact, Fact]:
    """Sources, d_in and d_sae by the encoder, which the config and the decoder have to agree with."""
    shape = tensors.shape(ENCODER)
    if len(shape) != 3:
        raise CheckpointError(
            f"tensor {ENCODER!r} of {tensors.file} with shape [sources, d_in, d_sae]",
            f"shape {list(shape)}",
            "The config names a crosscoder, and these weights are of another class.",
        )
    if 0 in shape:
        raise CheckpointError(
            f"tensor {ENCODER!r} of {tensors.file} with values",
            f"shape {list(shape)}",
            "The file is empty or damaged.",
        )
    source = f"{tensors.file}: shape of {ENCODER}"
    keys = ("num_layers", "activation_dim", "dict_size")
    for key, size in zip(keys, shape, strict=True):
        said = fields[0].optional_size(key, f"trainer.{key}")
        if said is not None and said.value != size:
            raise CheckpointError(
                f"{said.source} as in the {source} {list(shape)} ({size})",
                str(said.value),
                "Fetch the config that belongs to these weights.",
            )
    written = tensors.shape(DECODER)[:1]
    if written != shape[:1] or fields[0].value("encoder_layers") is not None:
        raise CheckpointError(
            f"a crosscoder that reads the {list(written)} sources it writes",
            f"an encoder of {list(shape[:1])}: it was built to read some of them (encoder_layers)",
            "Only crosscoders that read and write the same activations are supported.",
        )
    M, d_in, d_sae = (Fact(size, source) for size in shape)
    return M, d_in, d_sae


def _class_name(files: CheckpointFiles, tensors: Tensors) -> Fact:
    """The class, by the tensors that the batch top-k has more; a config may not say otherwise."""
    named = dict_class(files)
    more = [key for key in ("k", "threshold") if key in tensors]
    name = GATED if more else CROSSCODERS[0]
    if named is None:
        found = f"{tensors.file}: {', '.join(more)}" if more else f"no threshold in {tensors.file}"
        return Fact(name, found)
    if named[0] == GATED and not more:
        return Fact(GATED, named[1])  # saved without buffers: k is in the config or asked for
    if named[0] != name:
        raise CheckpointError(
            f"tensors of {named[0]!r:.80} ({named[1]}) in {tensors.file}",
            f"those of {name}: {', '.join(sorted(tensors.names)[:20])}",
            "Fetch the config that belongs to these weights.",
        )
    return Fact(name, named[1])


def _provenance(fields: list[Fields], siblings: Any) -> dict[str, Any]:
    found: dict[str, Any] = {item.file: without_ours(item.data) for item in fields if item.data}
    found |= written_provenance(*fields)
    return found | ({"run": dict(siblings)} if siblings else {})
