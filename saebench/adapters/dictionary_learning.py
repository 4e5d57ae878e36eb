"""dictionary_learning checkpoints: ``config.json`` with ``trainer.dict_class``, and a state dict.

The class has to be named: files of ``AutoEncoderTopK`` and ``BatchTopKSAE`` hold the same tensors.
Input scaling during training is folded into the biases when a run is saved, so that the final files
take raw activations.
"""

from __future__ import annotations

from typing import Any

from saebench.adapters.choices import Choices
from saebench.adapters.claims import Claim
from saebench.adapters.dictionary_classes import KINDS, Kind
from saebench.adapters.fields import Fields, config_from
from saebench.adapters.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, Fact
from saebench.weights import StateDict, is_weights

FORMAT = "dictionary_learning"
CONFIG_FILE = "config.json"
WEIGHT_FILES = ("ae.safetensors", "model.safetensors", "ae.pt")


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim when ``config.json`` names a dictionary class and weights lie beside it."""
    if CONFIG_FILE not in files.names:
        return None
    dict_class = Fields(CONFIG_FILE, files.json(CONFIG_FILE)).value("trainer.dict_class")
    weights = _weight_file(files.names)
    if not isinstance(dict_class, str) or weights is None:
        return None
    evidence = (f"{CONFIG_FILE}: trainer.dict_class {dict_class!r}", f"weights {weights}")
    return Claim(FORMAT, evidence, (weights,), (CONFIG_FILE,))


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> SAE:
    """The SAE; raises :class:`CheckpointError` where config and tensors contradict each other."""
    fields = Fields(claim.config, files.json(claim.config))
    fields.check_table("buffer")
    name = fields.one_of(tuple(KINDS), "trainer.dict_class")
    assert name is not None  # sniff saw it
    kind = KINDS[name.value]
    content = files.state_dict(claim.weight)
    tensors = Tensors(claim.weight, content)
    d_in, d_sae = _sizes(fields, tensors, kind)
    k = _k(fields, tensors, d_sae.value) if kind.needs_k else None
    parts = kind.read(tensors, d_in.value, d_sae.value, None if k is None else k.value)
    tensors.ignore({"k", "threshold", "group_sizes"})
    site = _site(fields)
    facts = {
        "architecture": Fact(kind.architecture, name.source),
        "d_in": d_in,
        "d_sae": d_sae,
        "d_out": d_in,
        "k": k,
        "site": site,
        "model": fields.text("trainer.lm_name"),
        "dtype": Fact(tensors.dtype(kind.encoder), f"{claim.weight}: {kind.encoder}"),
        "normalization": Fact("none", "folded into the biases when a run is saved", "assumed"),
        "subtract_b_dec": Fact(parts.subtract_b_dec, f"definition of {name.value}", "assumed"),
    }
    config = config_from(
        facts,
        format=FORMAT,
        notes=_notes(fields, tensors, content, site),
        provenance=_provenance(fields, content),
    )
    return SAE(
        config,
        parts.activation,
        W_enc=parts.W_enc,
        W_dec=parts.W_dec,
        b_dec=parts.b_dec,
        b_enc=parts.b_enc,
        b_in=parts.b_dec if parts.subtract_b_dec else None,
    )


def _weight_file(names: tuple[str, ...]) -> str | None:
    """The library's own file name, or the only weight file there is."""
    own = next((name for name in WEIGHT_FILES if name in names), None)
    weights = [name for name in names if is_weights(name)]
    return own or (weights[0] if len(weights) == 1 else None)


def _sizes(fields: Fields, tensors: Tensors, kind: Kind) -> tuple[Fact, Fact]:
    """d_in and d_sae from the config, else from the encoder's shape."""
    shape = tensors.shape(kind.encoder)
    if len(shape) != 2:
        raise CheckpointError(
            f"tensor {kind.encoder!r} of {tensors.file} with two dimensions",
            f"shape {list(shape)}",
            "The config names a class that these weights are not of.",
        )
    source = f"{tensors.file}: shape of {kind.encoder}"
    d_sae, d_in = shape if kind.encoder == "encoder.weight" else shape[::-1]
    return (
        fields.optional_size("trainer.activation_dim") or Fact(d_in, source),
        fields.optional_size("trainer.dict_size") or Fact(d_sae, source),
    )


def _k(fields: Fields, tensors: Tensors, d_sae: int) -> Fact:
    """k from the config and from the stored buffer, which have to agree."""
    asked = fields.optional_size("trainer.k")
    stored = int(tensors.scalar("k")) if "k" in tensors else None
    if asked is None and stored is None:
        asked = fields.size("trainer.k")  # raises: neither file says
    source = f"{tensors.file}: k"
    k = asked if asked is not None else Fact(stored, source)
    if stored is not None and stored != k.value:
        raise CheckpointError(
            f"k of {tensors.file} equal to {k.source} ({k.value})",
            str(stored),
            "Fetch the config that belongs to these weights.",
        )
    if k.value > d_sae:
        raise CheckpointError(
            f"{k.source} of at most d_sae = {d_sae}", str(k.value), "Correct the config."
        )
    return k


def _site(fields: Fields) -> Fact | None:
    """The hook point: ``layer`` is the output of that decoder layer unless a submodule is named."""
    layer = fields.value("trainer.layer")
    if not isinstance(layer, int) or isinstance(layer, bool):
        return None
    submodule = str(fields.value("trainer.submodule_name") or "resid").lower()
    io = fields.value("buffer.io") or "out"
    kind = {
        ("resid", "out"): "hook_resid_post",
        ("resid", "in"): "hook_resid_pre",
        ("mlp", "out"): "hook_mlp_out",
        ("mlp", "in"): "hook_mlp_in",
        ("attn", "out"): "hook_attn_out",
    }.get((next((part for part in ("mlp", "attn", "resid") if part in submodule), "resid"), io))
    if kind is None:
        return None
    source = f"{fields.file}: trainer.layer, trainer.submodule_name and buffer.io"
    return Fact(f"blocks.{layer}.{kind}", source, "assumed")


def _notes(fields: Fields, tensors: Tensors, content: StateDict, site: Fact | None) -> list[str]:
    notes = []
    if site is None:
        notes.append("the config does not say which hook point it was trained on")
    if content.wrapper is not None:
        factor = (content.siblings or {}).get("norm_factor")
        notes.append(
            f"{tensors.file} is the backup of an unfinished run (tensors under {content.wrapper!r})"
            + (f"; its biases are in units of activations / {factor}" if factor is not None else "")
        )
    if tensors.unused():
        notes.append(f"tensors of {tensors.file} not used: {', '.join(tensors.unused())}")
    if fields.value("buffer.io") == "in_and_out":
        notes.append("trained on pairs of inputs and outputs (buffer.io in_and_out)")
    return notes


def _provenance(fields: Fields, content: StateDict) -> dict[str, Any]:
    found = {key: fields.value(key) for key in ("trainer", "buffer") if key in fields}
    if content.siblings:
        found["run"] = dict(content.siblings)
    return found
