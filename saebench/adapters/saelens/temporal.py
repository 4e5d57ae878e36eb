"""Temporal SAEs as their authors save them: ``conf.yaml`` and weights ``D``, ``b``, ``attn_layers.*``.

``D[d_sae, d_in]`` is the decoder, ``E[d_in, d_sae]`` the encoder where it is not tied to it. SAELens
reads the same files by its loader ``temporal``. The hook point is in no file: the layer is in the
path that the checkpoint goes by.
"""

from __future__ import annotations

import math
import re

import torch

from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import Fields, config_from
from saebench.adapters.reading.tensors import Tensors
from saebench.adapters.saelens.temporal_weights import ATTENTION, read_attention, read_settings
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import Fact
from saebench.sae.normalization import Affine
from saebench.sae.temporal import TemporalSAE
from saebench.weights import is_pickle, is_weights

FORMAT = "temporal"
CONFIG_FILE = "conf.yaml"
KEY_TENSORS = frozenset({"D", "b"})
SAE = "sae."  # where conf.yaml keeps what is about the dictionary
_LAYER = re.compile(r"(?:^|[/_.-])layer_?(\d{1,4})(?=[/_.-]|$)")


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim when conf.yaml has tables llm and sae, and one file D, b and attention layers."""
    if CONFIG_FILE not in files.names:
        return None
    fields = Fields(CONFIG_FILE, files.yaml(CONFIG_FILE))
    if f"{SAE}exp_factor" not in fields or "llm.dimin" not in fields:
        return None
    fitting = [name for name in files.names if _fits(files, name)]
    if not fitting:
        return None
    if len(fitting) > 1:
        raise CheckpointError(
            f"one weight file in {files.root}", ", ".join(fitting), "Reference one of the files."
        )
    evidence = (f"{CONFIG_FILE}: llm.dimin, sae.exp_factor", f"{fitting[0]}: D, b, {ATTENTION}*")
    return Claim(FORMAT, evidence, (fitting[0],), (CONFIG_FILE,))


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> TemporalSAE:
    """The temporal SAE; raises :class:`CheckpointError` where config and tensors disagree."""
    fields = Fields(claim.config, files.yaml(claim.config))
    tensors = Tensors(claim.weight, files.state_dict(claim.weight))
    settings = read_settings(fields, choices, SAE)
    d_in = fields.size("llm.dimin")
    d_sae = _d_sae(fields, tensors, d_in)
    scale = _scale(fields, choices)
    subtract = Fact(True, "definition of the temporal SAE", "assumed")
    facts = {
        "architecture": Fact("temporal", f"{claim.weight}: {ATTENTION}*"),
        "d_in": d_in,
        "d_sae": d_sae,
        "d_out": d_in,
        "site": _site(files.hint),
        "model": fields.text("llm.name", "llm.model_name"),
        "dtype": Fact(tensors.dtype("D"), f"{claim.weight}: D"),
        "normalization": Fact("constant_scalar_rescale", scale.source, scale.how),
        "input_scale": scale,
        "subtract_b_dec": subtract,
        **settings.facts,
    }
    sizes = {"d_in": d_in.value, "d_sae": d_sae.value}
    W_dec = tensors.decoder("D", d_sae=sizes["d_sae"], d_out=sizes["d_in"])
    W_enc = None if settings.tied_weights.value else tensors.encoder("E", **sizes)
    lead = tensors.shape("b")[:-1]  # [1, d_in] in the authors' files
    bias = tensors.take("b", **dict.fromkeys(("one",) * len(lead), 1), d_in=sizes["d_in"])
    attention = read_attention(tensors, settings, d_sae.value)
    notes = ["codes are of what earlier tokens do not predict: decoding them alone leaves that out"]
    if tensors.unused():
        notes.append(f"tensors of {tensors.file} not used: {', '.join(tensors.unused())}")
    return TemporalSAE(
        config_from(facts, format=FORMAT, notes=notes, provenance=dict(fields.data)),
        settings.activation,
        W_dec=W_dec,
        b_dec=bias.reshape(-1),
        W_enc=W_enc,
        b_in=bias.reshape(-1),
        attention=attention,
        normalization=Affine(torch.tensor(float(scale.value))),
    )


def _fits(files: CheckpointFiles, name: str) -> bool:
    if not is_weights(name) or (is_pickle(name) and not files.allow_pickle):
        return False
    header = files.header(name)
    return set(header) >= KEY_TENSORS and any(key.startswith(ATTENTION) for key in header)


def _d_sae(fields: Fields, tensors: Tensors, d_in: Fact) -> Fact:
    """The number of latents: the expansion factor times the width, as SAELens has it."""
    key = f"{SAE}exp_factor"
    factor = fields.value(key)
    rows = tensors.shape("D")[0] if tensors.shape("D") else 0
    is_number = isinstance(factor, int | float) and not isinstance(factor, bool)
    if is_number and math.isfinite(factor * d_in.value) and int(factor * d_in.value) == rows:
        return Fact(rows, f"{fields.file}: {key}, {tensors.file}: shape of D")
    raise CheckpointError(
        f"{fields.file}: {key} x llm.dimin = the rows of D in {tensors.file}",
        f"{factor!r:.40} x {d_in.value} and {rows} rows",
        "Fetch the config that belongs to these weights.",
    )


def _scale(fields: Fields, choices: Choices) -> Fact:
    """The factor that activations are multiplied by before the encoder."""
    key = f"{SAE}scaling_factor"
    given = choices.number("input_scale")
    value = fields.value(key) if given is None else given.value
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return given or Fact(float(value), f"{fields.file}: {key}")
    raise CheckpointError(
        f"{fields.file}: {key} (a positive number)" if given is None else given.source,
        "no such key" if value is None else repr(value)[:80],
        "Pass --set input_scale=… with the factor that activations were multiplied by.",
    )


def _site(hint: str) -> Fact | None:
    """The output of the layer in the path, which is where SAELens puts these checkpoints."""
    found = list(_LAYER.finditer(hint))
    if not found:
        return None
    source = f"the path …/{found[-1][0].lstrip('/_.-')}"
    return Fact(f"blocks.{int(found[-1][1])}.hook_resid_post", source, "assumed")
