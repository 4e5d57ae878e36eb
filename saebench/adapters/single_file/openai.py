"""OpenAI's autoencoders of GPT-2: one ``.pt`` with ``pre_bias`` and ``latent_bias``.

The entry ``activation`` beside the tensors decides everything: a ``TopK`` autoencoder standardises
each token, ranks, rectifies the ranked values and undoes the standardisation; a ``ReLU`` one does none
of it. ``p = (n(x) − pre_bias) Eᵀ + latent_bias`` and ``x̂ = n⁻¹(f Dᵀ + pre_bias)``. Source: Gao et al.
2024 (arXiv 2406.04093) and the code published with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from saebench.activations import Activation, ReLU, TopK
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import Fields, config_from
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, Fact
from saebench.weights import is_pickle, is_weights

FORMAT = "openai"
FOREIGN = "The file is not one of OpenAI's autoencoders, or it was changed."
ENCODER, DECODER, TIED = "encoder.weight", "decoder.weight", "decoder.linear.weight"
KEY_TENSORS = frozenset({"pre_bias", "latent_bias", ENCODER})

ACTIVATIONS = {"TopK": "topk", "ReLU": "relu"}
PLACES = {
    "resid_delta_attn": "hook_attn_out",
    "resid_post_attn": "hook_resid_mid",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_post_mlp": "hook_resid_post",
}
_PATH = re.compile(
    rf"(?P<place>{'|'.join(PLACES)})(?:_v\d+\w*)?(?:/autoencoders)?[/_](?:layer_?)?(?P<layer>\d+)\b"
)


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim when one weight file has pre_bias, latent_bias and an encoder."""
    fitting = [name for name in files.names if _fits(files, name)]
    if not fitting:
        return None
    if len(fitting) > 1:
        raise CheckpointError(
            f"one weight file in {files.root}", ", ".join(fitting), "Reference one of the files."
        )
    shape = list(files.header(fitting[0])[ENCODER].shape)
    evidence = (f"{fitting[0]}: pre_bias, latent_bias", f"{ENCODER} {shape}")
    return Claim(FORMAT, evidence, (fitting[0],))


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> SAE:
    """The SAE; raises :class:`CheckpointError` where tensors contradict each other or k is missing."""
    content = files.state_dict(claim.weight)
    tensors = Tensors(claim.weight, content)
    fields = Fields(claim.weight, content.siblings or {})
    d_in, d_sae = (tensors.length(key, FOREIGN) for key in ("pre_bias", "latent_bias"))
    sizes = {"d_in": d_in.value, "d_sae": d_sae.value}
    architecture = _architecture(fields, tensors, choices)
    topk = architecture.value == "topk"
    k = _k(fields, tensors, choices, d_sae.value) if topk else None
    relu = _relu(fields, choices) if topk else None
    tied = DECODER not in tensors and TIED in tensors
    bias = tensors.take("pre_bias", d_in=d_in.value)
    source = f"{architecture.source}: the library standardises tokens for TopK alone"
    facts = {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": d_sae,
        "d_out": d_in,
        "k": k,
        "relu": relu,
        "site": _site(files, claim),
        "model": _model(files),
        "dtype": Fact(tensors.dtype(ENCODER), f"{claim.weight}: {ENCODER}"),
        "normalization": Fact("layer_norm" if topk else "none", source, architecture.how),
        "subtract_b_dec": Fact(
            True, "pre_bias is subtracted by the format's definition", "assumed"
        ),
    }
    parts: dict[str, Any] = {
        "W_enc": tensors.encoder(ENCODER, **sizes, linear=True),
        "b_enc": tensors.take("latent_bias", d_sae=d_sae.value),
        "W_dec": tensors.decoder(
            TIED if tied else DECODER, d_sae=d_sae.value, d_out=d_in.value, linear=not tied
        ),
        "b_dec": bias,
        "b_in": bias,
    }
    notes = _notes(tensors, tied)
    if facts["site"] is None:
        notes.append("neither the file nor its path says which hook point it was trained on")
    config = config_from(facts, format=FORMAT, notes=notes, provenance=_plain(fields.data))
    return SAE(config, _activation(k, relu), **parts)


def _fits(files: CheckpointFiles, name: str) -> bool:
    if not is_weights(name) or (is_pickle(name) and not files.allow_pickle):
        return False
    try:
        header = files.header(name)
    except CheckpointError:
        return False  # what lies beside a checkpoint may be anything
    return set(header) >= KEY_TENSORS and bool({DECODER, TIED} & set(header))


def _architecture(fields: Fields, tensors: Tensors, choices: Choices) -> Fact:
    """What ``activation`` names; files without that entry hold ReLU autoencoders, unless they have a k."""
    given = choices.text("activation", tuple(ACTIVATIONS.values()))
    stated = fields.one_of(tuple(ACTIVATIONS), "activation")
    if given is not None:
        return given
    if stated is not None:
        return Fact(ACTIVATIONS[stated.value], stated.source)
    if "activation.k" in tensors or fields.value("activation_state_dict.k", "activation.k"):
        return Fact("topk", f"{fields.file}: a k, and no activation")
    return Fact("relu", f"no activation in {fields.file}: the library takes ReLU", "assumed")


def _k(fields: Fields, tensors: Tensors, choices: Choices, d_sae: int) -> Fact:
    k = choices.size("k") or fields.optional_size("activation_state_dict.k")
    if k is None and "activation.k" in tensors:
        k = Fact(int(tensors.scalar("activation.k")), f"{tensors.file}: activation.k")
    if k is None and "activation.k" in fields.data:  # beside the tensors, its name has the dot
        k = Fields(fields.file, {"k": fields.data["activation.k"]}).size("k")
    if k is None:
        raise CheckpointError(
            f"activation_state_dict.k in {fields.file} (TopK keeps k latents per token)",
            "no such entry",
            "Give it: --set k=32 (the v5 autoencoders of GPT-2 have k 32).",
        )
    if not 0 < k.value <= d_sae:
        raise CheckpointError(
            f"{k.source} between 1 and d_sae = {d_sae}", str(k.value), "Correct k: --set k=…"
        )
    return k


def _relu(fields: Fields, choices: Choices) -> Fact:
    """Whether the kept values are rectified: ``postact_fn`` says so."""
    given = choices.flag("relu")
    key = "activation_state_dict.postact_fn"
    stated = fields.one_of(("ReLU", "Identity"), key)
    if given is not None:
        return given
    if stated is not None:
        return Fact(stated.value == "ReLU", stated.source)
    return Fact(True, f"not in {fields.file}: {key} defaults to ReLU", "assumed")


def _activation(k: Fact | None, relu: Fact | None) -> Activation:
    return ReLU() if k is None or relu is None else TopK(k.value, rectify=bool(relu.value))


def _site(files: CheckpointFiles, claim: Claim) -> Fact | None:
    """The hook point that the path names (``…/resid_post_mlp/8.pt``)."""
    path = f"{files.hint}/{claim.weight}"
    found = _PATH.search(path)
    if found is None:
        return None
    site = f"blocks.{int(found['layer'])}.{PLACES[found['place']]}"
    return Fact(site, f"the path …{found[0]}"[:120], "assumed")


def _model(files: CheckpointFiles) -> Fact | None:
    if "gpt2-small" not in files.hint:
        return None
    return Fact("gpt2", "the path has gpt2-small", "assumed")


def _notes(tensors: Tensors, tied: bool) -> list[str]:
    tensors.ignore(("stats_last_nonzero", "activation.k"))
    notes = ["read through TransformerLens the model must not centre writing weights"]
    if tied:
        notes.append(f"the decoder is the encoder transposed ({TIED})")
    if tensors.unused():
        notes.append(f"tensors of {tensors.file} not used: {', '.join(tensors.unused())}"[:400])
    return notes


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """What stands beside the tensors, for the record."""
    return {"run": dict(data)} if data else {}
