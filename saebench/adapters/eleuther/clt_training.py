"""clt-training checkpoints, EleutherAI's fork of sparsify for cross-layer transcoders.

A folder holds what one layer reads: its latents are written to ``n_targets`` layers, its own first. With
``x' = x · √d_in / in_norm`` (``normalize_io``) and ``f = act((x' − b_dec) W_encᵀ + b_enc)`` (a transcoder
subtracts nothing), target t gets ``Σ_i s_it (f_i + c_it [f_i > 0]) W_dec_t,i + b_dec_t + x' W_skip_tᵀ``,
times ``out_norm / √d_out``; c is ``post_enc``, s ``post_enc_scale``. What the layers write to the same
target is summed outside the files.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from saebench.activations import Activation, TopK
from saebench.adapters.eleuther.hooks import hook_points
from saebench.adapters.eleuther.sparsify import (
    CONFIG_FILE,
    active_per_token,
    config_files,
    group_max,
    is_fork,
    provenance,
    sizes,
    skip_matrix,
    weights_of,
)
from saebench.adapters.reading.batch_gate import batch_gate, estimated, given_threshold
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import Fields, config_from
from saebench.adapters.reading.tensors import Tensors, scale_rows
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, Fact
from saebench.sae.latent_bias import LatentBiasSAE
from saebench.sae.normalization import Affine

FORMAT = "clt-training"
KEY_TENSORS = frozenset({"encoder.weight", "encoder.bias"})
ACTIVATIONS = ("topk", "groupmax", "batchtopk")
COMBINED = (
    "per_source_tied",
    "secondary_target_tied",
)  # one file alone does not say what it writes


class Target(NamedTuple):
    """What one target has for itself: names of tensors, by role."""

    W_dec: str
    b_dec: str
    W_skip: str
    post_enc: str
    post_enc_scale: str


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim when config or tensors of a sparsify file hold what only the fork writes."""
    found = weights_of(files, KEY_TENSORS)
    if found is None or not is_fork(files, found[1]):
        return None
    name, header = found
    decoder = next((key for key in ("W_decs.0", "W_dec") if key in header), None)
    if decoder is None:
        return None
    evidence = (f"{CONFIG_FILE}: d_in", f"{name}: encoder.weight and {decoder}")
    own = sorted(key for key in header if key.startswith(("W_decs.", "post_enc", "in_norm")))
    return Claim(FORMAT, (*evidence, *own[:2]), (name,), config_files(files))


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> SAE:
    """What one layer reads and writes; raises :class:`CheckpointError` where files disagree."""
    fields = Fields(CONFIG_FILE, files.json(CONFIG_FILE))
    _refuse_combined(fields)
    tensors = Tensors(claim.weight, files.state_dict(claim.weight))
    d_in, d_sae = sizes(fields)
    d_out = d_in if fields.value("d_out") in (0, None) else fields.size("d_out")
    transcode = fields.flag("transcode", default=False)
    targets = _targets(fields, tensors, bool(transcode.value))
    k = active_per_token(fields, choices, d_sae)
    name, threshold, activation = _activation(fields, choices, k, d_sae.value)
    normalization = _normalization(fields, tensors, d_in.value, d_out.value, len(targets))
    parts = _parts(fields, tensors, targets, normalization, (d_in.value, d_sae.value, d_out.value))
    bias = _latent_bias(tensors, targets, d_sae.value)
    facts = {
        "architecture": name,
        "d_in": d_in,
        "d_sae": d_sae,
        "d_out": d_out,
        "n_targets": _n_targets(fields, len(targets)),
        "k": k,
        "threshold": threshold,
        "transcode": transcode,
        "subtract_b_dec": Fact(not transcode.value, transcode.source, transcode.how),
        "normalization": _normalization_fact(fields, normalization),
        "dtype": Fact(tensors.dtype("encoder.weight"), f"{claim.weight}: encoder.weight"),
        **hook_points(files, transcode=bool(transcode.value), n_targets=len(targets)),
    }
    config = config_from(
        facts,
        format=FORMAT,
        notes=_notes(fields, tensors, facts, len(targets)),
        provenance=provenance(files, fields),
    )
    parts["b_in"] = None if transcode.value else parts["b_dec"]
    if bias is None:
        return SAE(config, activation, **parts, normalization=normalization)
    return LatentBiasSAE(config, activation, latent_bias=bias, **parts, normalization=normalization)


def _refuse_combined(fields: Fields) -> None:
    """Refuse what is only defined for the files of all layers together."""
    mode = fields.text("coalesce_topk")
    if mode is not None and mode.value != "none":
        raise CheckpointError(
            f"{mode.source} 'none'",
            f"{mode.value!r}: latents of several layers are selected and decoded together",
            "Such a folder cannot be evaluated alone; train with coalesce_topk none.",
        )
    for key in COMBINED:
        tied = fields.flag(key, default=False)
        if tied.value:
            raise CheckpointError(
                f"{tied.source} false",
                "true: what a layer writes depends on the folders of other layers",
                "Such a folder cannot be evaluated alone; train without tied decoders.",
            )


def _n_targets(fields: Fields, count: int) -> Fact:
    if fields.value("n_targets") in (0, None):
        return Fact(count, f"{fields.file}: n_targets 0 means the module itself")
    return Fact(count, f"{fields.file}: n_targets")


def _targets(fields: Fields, tensors: Tensors, transcode: bool) -> list[Target]:
    """The tensors of each target; one with plain names unless config and tensors say more."""
    plain = Target("W_dec", "b_dec", "W_skip", "post_enc", "post_enc_scale")
    if not transcode or fields.value("n_targets") in (0, None):
        return [plain]
    count = fields.size("n_targets").value
    if f"W_decs.{count - 1}" not in tensors or f"W_decs.{count}" in tensors:
        stored = sum(1 for key in tensors.unused() if key.startswith("W_decs."))
        raise CheckpointError(
            f"{fields.file}: n_targets of as many W_decs.<t> as {tensors.file} has",
            f"{count}, but there are {stored}",
            "Fetch the config that belongs to these weights.",
        )
    tensors.ignore({"W_dec", "b_dec", "W_skip"})  # the first target under its other name
    names = ("W_decs", "b_decs", "W_skips", "post_encs", "post_enc_scales")
    return [Target(*(f"{name}.{t}" for name in names)) for t in range(count)]


def _activation(
    fields: Fields, choices: Choices, k: Fact, d_sae: int
) -> tuple[Fact, Fact | None, Activation]:
    """Name, threshold where there is one, and the activation itself."""
    name = fields.one_of(ACTIVATIONS, "activation")
    if name is None:
        name = Fact("topk", f"not in {fields.file}: activation defaults to topk", "assumed")
    if name.value == "groupmax":
        return name, None, group_max(fields, k.value, d_sae)
    if name.value == "topk":
        return name, None, TopK(k.value)
    threshold = given_threshold(choices) or estimated(fields.file, k)
    return name, threshold, batch_gate(k.value, threshold)


def _normalization(
    fields: Fields, tensors: Tensors, d_in: int, d_out: int, n_targets: int
) -> Affine | None:
    if not fields.flag("normalize_io", default=False).value:
        return None
    if n_targets > 1:
        raise CheckpointError(
            f"{fields.file}: n_targets 1 with normalize_io",
            f"{n_targets}: what is written to a later layer is in units of that layer's out_norm, "
            "which is in another folder",
            "Evaluate a transcoder with one target, or train without normalize_io.",
        )
    return Affine(
        torch.tensor(d_in**0.5 / _norm(tensors, "in_norm")),
        scale_out=torch.tensor(_norm(tensors, "out_norm") / d_out**0.5),
    )


def _normalization_fact(fields: Fields, normalization: Affine | None) -> Fact:
    asked = fields.flag("normalize_io", default=False)
    name = "none" if normalization is None else normalization.name
    return Fact(name, asked.source, asked.how)


def _norm(tensors: Tensors, key: str) -> float:
    value = tensors.scalar(key)
    if value <= 0:
        raise CheckpointError(
            f"{key} of {tensors.file} above 0",
            f"{value:.4g}",
            "The file is damaged, or training never estimated it.",
        )
    return value


def _parts(
    fields: Fields,
    tensors: Tensors,
    targets: list[Target],
    normalization: Affine | None,
    shape: tuple[int, int, int],
) -> dict[str, Any]:
    """The tensors of all targets side by side."""
    d_in, d_sae, d_out = shape
    # The encoder last: what is put side by side needs memory beside what is kept.
    W_skip = _skips(fields, tensors, targets, d_out, d_in)
    if W_skip is not None and normalization is not None:  # it reads and writes normalised units
        W_skip.mul_(float(normalization.scale * normalization.scale_out))
    W_dec = _decoders(fields, tensors, targets, d_sae, d_out)
    return {
        "W_enc": tensors.encoder("encoder.weight", d_in=d_in, d_sae=d_sae, linear=True),
        "W_dec": W_dec,
        "b_enc": tensors.take("encoder.bias", d_sae=d_sae),
        "b_dec": torch.cat([tensors.take(names.b_dec, d_out=d_out) for names in targets]),
        "W_skip": W_skip,
    }


def _skips(
    fields: Fields, tensors: Tensors, targets: list[Target], d_out: int, d_in: int
) -> Tensor | None:
    """The skip matrices of all targets, ``[n_targets · d_out, d_in]``, or None where there are none."""
    found = [skip_matrix(fields, tensors, names.W_skip, d_out, d_in) for names in targets]
    skips = [skip for skip in found if skip is not None]
    return torch.cat(skips) if skips else None


def _decoders(
    fields: Fields, tensors: Tensors, targets: list[Target], d_sae: int, d_out: int
) -> Tensor:
    """The decoders of all targets side by side, ``[d_sae, n_targets · d_out]``."""
    if len(targets) == 1:
        return _decoder(fields, tensors, targets[0], 0, d_sae, d_out)
    whole = None
    for t, names in enumerate(targets):
        block = _decoder(fields, tensors, names, t, d_sae, d_out)
        whole = block.new_empty(d_sae, len(targets) * d_out) if whole is None else whole
        whole[:, t * d_out : (t + 1) * d_out] = block
        del block  # before the next one is opened
    assert whole is not None
    return whole


def _decoder(
    fields: Fields, tensors: Tensors, names: Target, target: int, d_sae: int, d_out: int
) -> Tensor:
    """``W_dec[d_sae, d_out]`` of one target, with the scale of each latent in it."""
    W_dec = tensors.decoder(names.W_dec, d_sae=d_sae, d_out=d_out)
    scale = _scale(fields, tensors, names, target, d_sae)
    return W_dec if scale is None else scale_rows(W_dec, scale)


def _latent_bias(tensors: Tensors, targets: list[Target], d_sae: int) -> Tensor | None:
    """What is added to active latents for each target, ``[d_sae, n_targets]``; None for nothing."""
    if not any(names.post_enc in tensors for names in targets):
        return None  # files older than it
    bias = torch.zeros(d_sae, len(targets))
    for t, names in enumerate(targets):
        if names.post_enc in tensors:
            bias[:, t] = tensors.take(names.post_enc, d_sae=d_sae)
    return bias if bool(bias.any()) else None


def _scale(
    fields: Fields, tensors: Tensors, names: Target, target: int, d_sae: int
) -> Tensor | None:
    """The scale of each latent, or None; where the file lacks it, what training starts from."""
    if not fields.flag("post_encoder_scale", default=False).value:
        return None
    if names.post_enc_scale in tensors:
        return tensors.take(names.post_enc_scale, d_sae=d_sae)
    return torch.ones(d_sae) if target == 0 else torch.zeros(d_sae)


def _notes(fields: Fields, tensors: Tensors, facts: dict[str, Any], n_targets: int) -> list[str]:
    notes = []
    if n_targets > 1 or fields.value("n_sources") not in (0, 1, None):
        notes.append(
            "one layer of a cross-layer transcoder: the reconstruction of a target is the sum over "
            "the folders of all layers that write to it, of which this is one"
        )
    if facts["architecture"].value == "batchtopk":
        notes.append(
            "in training a token had at most 4 k latents and k on average over its batch; here a "
            "threshold stands in for both"
        )
    if facts.get("site") is None:
        notes.append("neither config nor path say which hook point it was trained on")
    if tensors.unused():
        notes.append(f"tensors of {tensors.file} not used: {', '.join(tensors.unused())}")
    return notes
