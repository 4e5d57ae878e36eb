"""SAELens before version 2, and the transcoders made with its code: one pickle with a config object.

``{"cfg": object, "state_dict": {W_enc, b_enc, W_dec, b_dec}}`` in ``.pt``, ``.pkl`` or ``.pkl.gz``. The
class of the config is that of another package, so its attributes are read and it is never made.
SAEs are ReLU with b_dec subtracted: ``f = relu((x − b_dec) W_enc + b_enc)``. With ``b_dec_out`` it is
a transcoder of Dunefsky et al. 2024 (arXiv 2406.11944), which subtracts ``b_dec`` and adds
``b_dec_out``: ``y = f W_dec + b_dec_out``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saebench.activations import ReLU
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import Fields, config_from
from saebench.adapters.reading.tensors import Tensors
from saebench.adapters.saelens.context import (
    default_processing,
    provenance,
    sampling_facts,
    warnings,
)
from saebench.adapters.saelens.sae import read_as
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, Fact
from saebench.weights import StateDict, is_pickle

FORMAT = "saelens_legacy"
CONFIG = "cfg"  # the key of the config object
KEY_TENSORS = frozenset({"W_enc", "W_dec", "b_enc", "b_dec"})
CONFIG_KEYS = frozenset({"d_in", "hook_point", "hook_point_layer"})  # later versions renamed them
BIAS_OUT = "b_dec_out"


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim when a pickle has the tensors and, under cfg, the attributes of a runner's config."""
    if not files.allow_pickle:
        return None
    fitting = [name for name in files.names if is_pickle(name) and _fits(files, name)]
    if not fitting:
        return None
    if len(fitting) > 1:
        raise CheckpointError(
            f"one weight file in {files.root}",
            ", ".join(fitting[:12]),
            "Reference one of the files.",
        )
    name = fitting[0]
    return Claim(
        FORMAT,
        (f"{name}: cfg with {', '.join(sorted(CONFIG_KEYS))}", f"{name}: W_enc, W_dec"),
        (name,),
    )


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> SAE:
    """The SAE or transcoder; raises :class:`CheckpointError` where config and tensors disagree."""
    content = files.state_dict(claim.weight)
    tensors = Tensors(claim.weight, content)
    found = dict(_config(content) or {})
    if found.get("d_sae") is None:
        found["d_sae"] = tensors.shape("W_enc")[-1]
    fields = Fields(f"{CONFIG} in {claim.weight}", found)
    if BIAS_OUT in tensors:
        return _transcoder(files, fields, tensors, choices)
    return read_as(FORMAT, files, fields, tensors, choices, processed=True)


def _fits(files: CheckpointFiles, name: str) -> bool:
    try:
        content = files.state_dict(name)
        header = files.header(name)
    except CheckpointError:
        return False  # the state of an optimizer beside a checkpoint, say
    config = _config(content)
    if config is None or not set(header) >= KEY_TENSORS:
        return False
    return len(header["W_enc"].shape) == 2 and set(config) >= CONFIG_KEYS


def _config(content: StateDict) -> Mapping[str, Any] | None:
    found = (content.siblings or {}).get(CONFIG)
    return found if isinstance(found, Mapping) else None


def _length(tensors: Tensors) -> int:
    shape = tensors.shape(BIAS_OUT)
    return shape[0] if shape else 1


def _transcoder(files: CheckpointFiles, fields: Fields, tensors: Tensors, choices: Choices) -> SAE:
    d_in, d_sae = fields.size("d_in"), fields.size("d_sae")
    d_out = fields.optional_size("d_out")
    if d_out is None:
        d_out = Fact(_length(tensors), f"{tensors.file}: shape of {BIAS_OUT}")
    defined = "definition of a transcoder with b_dec_out"
    architecture = Fact("transcoder", f"{tensors.file}: {BIAS_OUT}")
    site, site_out = fields.text("hook_point"), fields.text("out_hook_point")
    centred, notes = default_processing(fields, choices, site, site_out)
    facts = {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": d_sae,
        "d_out": d_out,
        "site": site,
        "site_out": site_out,
        "centred": centred,
        "model": fields.text("model_name"),
        "dtype": Fact(tensors.dtype("W_dec"), f"{tensors.file}: W_dec"),
        "normalization": Fact("none", defined, "assumed"),
        "undo_normalization": Fact(False, defined, "assumed"),
        "subtract_b_dec": Fact(True, f"{defined}: b_dec is of its input", "assumed"),
        **sampling_facts(fields),
    }
    b_in = tensors.take("b_dec", d_in=d_in.value)
    W_enc = tensors.encoder("W_enc", d_in=d_in.value, d_sae=d_sae.value)
    W_dec = tensors.decoder("W_dec", d_sae=d_sae.value, d_out=d_out.value)
    b_enc = tensors.take("b_enc", d_sae=d_sae.value)
    b_dec = tensors.take(BIAS_OUT, d_out=d_out.value)
    notes += warnings(fields, tensors, files, architecture)
    return SAE(
        config_from(facts, format=FORMAT, notes=notes, provenance=provenance(fields)),
        ReLU(),
        W_enc=W_enc,
        W_dec=W_dec,
        b_dec=b_dec,
        b_enc=b_enc,
        b_in=b_in,
    )
