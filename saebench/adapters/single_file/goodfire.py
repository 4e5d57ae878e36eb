"""Goodfire's SAEs of Llama 3: one ``.pt`` or ``.pth`` with two Linear modules and a ReLU.

``f = relu(x Eᵀ + b_E)`` and ``x̂ = f Dᵀ + b_D``: nothing is subtracted from the input and nothing is
normalised. The layer is in the file's name only (``…-SAE-l50.pt``).
"""

from __future__ import annotations

import re
from typing import Any

from saebench.activations import ReLU
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import config_from
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, Fact
from saebench.weights import is_pickle, is_weights

FORMAT = "goodfire"
FOREIGN = "The file is not one of Goodfire's SAEs, or it was changed."
ENCODER, DECODER = "encoder_linear", "decoder_linear"
KEY_TENSORS = frozenset({f"{ENCODER}.weight", f"{DECODER}.weight"})
_LAYER = re.compile(r"-l(\d{1,3})(?![0-9a-z])", re.IGNORECASE)
_MODEL = re.compile(r"(Llama-3[\w.-]*?-Instruct)-SAE", re.IGNORECASE)


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim when one weight file has encoder_linear and decoder_linear."""
    fitting = [name for name in files.names if _fits(files, name)]
    if not fitting:
        return None
    if len(fitting) > 1:
        raise CheckpointError(
            f"one weight file in {files.root}", ", ".join(fitting), "Reference one of the files."
        )
    evidence = (f"{fitting[0]}: {ENCODER}.weight, {DECODER}.weight",)
    return Claim(FORMAT, evidence, (fitting[0],))


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> SAE:
    """The SAE; raises :class:`CheckpointError` where tensors contradict each other."""
    tensors = Tensors(claim.weight, files.state_dict(claim.weight))
    d_sae, d_in = (tensors.length(f"{name}.bias", FOREIGN) for name in (ENCODER, DECODER))
    path = f"{files.hint}/{claim.weight}"
    layer, model = _LAYER.search(path), _MODEL.search(path)
    definition = "definition of the format"
    facts = {
        "architecture": Fact("relu", definition, "assumed"),
        "d_in": d_in,
        "d_sae": d_sae,
        "d_out": d_in,
        "site": _site(layer),
        "model": Fact(f"meta-llama/{model[1]}", f"the path …{model[0]}", "assumed")
        if model
        else None,
        "dtype": Fact(tensors.dtype(f"{DECODER}.weight"), f"{claim.weight}: {DECODER}.weight"),
        "normalization": Fact("none", definition, "assumed"),
        "subtract_b_dec": Fact(False, definition, "assumed"),
    }
    parts = _weights(tensors, d_in.value, d_sae.value)
    notes = []
    if layer is None:
        notes.append("the file's name has no layer (-l50): the hook point is not known")
    if tensors.unused():
        notes.append(f"tensors of {tensors.file} not used: {', '.join(tensors.unused())}"[:400])
    config = config_from(facts, format=FORMAT, notes=notes, provenance={})
    return SAE(config, ReLU(), **parts)


def _weights(tensors: Tensors, d_in: int, d_sae: int) -> dict[str, Any]:
    encoder, decoder = f"{ENCODER}.weight", f"{DECODER}.weight"
    return {
        "W_enc": tensors.encoder(encoder, d_in=d_in, d_sae=d_sae, linear=True),
        "b_enc": tensors.take(f"{ENCODER}.bias", d_sae=d_sae),
        "W_dec": tensors.decoder(decoder, d_sae=d_sae, d_out=d_in, linear=True),
        "b_dec": tensors.take(f"{DECODER}.bias", d_out=d_in),
    }


def _fits(files: CheckpointFiles, name: str) -> bool:
    if not is_weights(name) or (is_pickle(name) and not files.allow_pickle):
        return False
    try:
        return set(files.header(name)) >= KEY_TENSORS
    except CheckpointError:
        return False  # what lies beside a checkpoint may be anything


def _site(layer: re.Match[str] | None) -> Fact | None:
    """The residual stream after the layer that the name ends in."""
    if layer is None:
        return None
    source = f"the path …{layer[0]}, residual stream after that layer"
    return Fact(f"blocks.{int(layer[1])}.hook_resid_post", source, "assumed")
