"""Crosscoders as saebench saves them: ``cfg.json`` and ``sae_weights.safetensors``.

With ``h_m = (x_m − input_mean_m) · input_scale_m``: ``f = act(Σ_m (h_m [− b_dec_m]) W_enc_m + b_enc)`` and
``x̂_m = (f W_dec_m + b_dec_m) / input_scale_m + input_mean_m``. ``W_enc [M, d_in, d_sae]``, ``W_dec [d_sae,
M, d_in]``, ``b_enc [d_sae]``, ``b_dec [M, d_in]``, ``threshold [d_sae]`` or one for all; the normalisation's
tensors are ``[M, d_in]`` or ``[M]``. Decoder norms in thresholds are those in units of ``h``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saebench.activations import Activation, ReLU, TopK
from saebench.adapters.native.marks import (
    CONFIG_FILE,
    FORMAT_KEY,
    FORMAT_NAME,
    MARKER,
    WEIGHT_FILE,
    is_named,
    is_native,
)
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import Fields, config_from
from saebench.adapters.reading.ours import written_provenance
from saebench.adapters.reading.readable import readable_headers
from saebench.adapters.reading.tensors import Tensors
from saebench.adapters.reading.thresholds import jump_relu
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import Crosscoder, Fact
from saebench.sae.normalization import Affine, ConstantNorm, Normalization

__all__ = ["ACTIVATIONS", "FORMAT", "VERSION", "read", "sniff"]

FORMAT = FORMAT_NAME
VERSION = 1  # of the layout; a later one may hold what this reader does not know
ACTIVATIONS = ("relu", "topk", "jumprelu")
NORMALIZATIONS = (Normalization.name, Affine.name, ConstantNorm.name)
IN, OUT = ("input_scale", "input_mean"), ("output_scale", "output_mean")
MAX_SCALE = 1e30  # activations scaled by it and back are still finite in float32


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim on weights with our marker, or beside a config that names our format."""
    found = [name for name, header in readable_headers(files) if is_native(files, header)]
    if not found:
        return None
    weights = WEIGHT_FILE if WEIGHT_FILE in found else found[0]
    header = files.header(weights)
    evidence = [f"{weights}: W_enc {list(header['W_enc'].shape)}, W_dec, b_enc, b_dec"]
    evidence += [f"{weights}: {MARKER}"] if MARKER in header else []
    if is_named(files):
        evidence.append(f"{CONFIG_FILE}: {FORMAT_KEY} {FORMAT_NAME!r}")
    configs = (CONFIG_FILE,) if CONFIG_FILE in files.names else ()
    return Claim(FORMAT, tuple(evidence), (weights,), configs)


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> Crosscoder:
    """The crosscoder; raises :class:`CheckpointError` where config and tensors contradict each other."""
    if not claim.configs:
        raise CheckpointError(
            f"{CONFIG_FILE} beside {claim.weight}, which says how it is to be read",
            "no such file",
            f"Copy the {CONFIG_FILE} that was saved with these weights into the folder.",
        )
    fields = Fields(CONFIG_FILE, files.json(CONFIG_FILE))
    tensors = Tensors(claim.weight, files.state_dict(claim.weight))
    _check_version(fields)
    tensors.ignore({MARKER} if MARKER in tensors else ())
    n_sources, d_in, d_sae = (_size(fields, tensors, i) for i in range(3))
    M, d, F = n_sources.value, d_in.value, d_sae.value
    W_enc = tensors.take("W_enc", sources=M, d_in=d, d_sae=F).reshape(M * d, F)
    W_dec = tensors.take("W_dec", d_sae=F, sources=M, d_in=d).reshape(F, M * d)
    b_enc = tensors.take("b_enc", d_sae=F)
    b_dec = tensors.take("b_dec", sources=M, d_in=d).reshape(M * d)
    k = choices.size("k") or fields.optional_size("k")
    activation, gate = _activation(fields, tensors, choices, k, F)
    normalization, named = _normalization(fields, tensors, M, d)
    subtract = fields.flag("subtract_b_dec", default=False)
    facts: dict[str, Fact | None] = {
        "architecture": fields.text("architecture") or gate["activation"],
        "d_in": d_in,
        "d_sae": d_sae,
        "d_out": d_in,
        "n_sources": n_sources,
        "n_targets": n_sources,
        "k": k,
        **_sources(fields, M),
        "dtype": Fact(tensors.dtype("W_dec"), f"{claim.weight}: W_dec"),
        "normalization": named,
        "subtract_b_dec": subtract,
        "centred": fields.flag("centred", default=False) if "centred" in fields else None,
        **gate,
    }
    unused = ", ".join(tensors.unused())
    notes = [f"tensors of {tensors.file} not used: {unused}"[:400]] if unused else []
    config = config_from(facts, format=FORMAT, notes=notes, provenance=written_provenance(fields))
    return Crosscoder(
        config,
        activation,
        W_enc=W_enc,
        W_dec=W_dec,
        b_enc=b_enc,
        b_dec=b_dec,
        b_in=b_dec if subtract.value else None,
        normalization=normalization,
    )


def _check_version(fields: Fields) -> None:
    version = fields.size("version")
    if version.value > VERSION:
        raise CheckpointError(
            f"{version.source} of at most {VERSION}",
            str(version.value),
            "A newer saebench wrote it: upgrade saebench to read it.",
        )


def _size(fields: Fields, tensors: Tensors, which: int) -> Fact:
    """Sources, d_in or d_sae as the config says, and the encoder's shape has to."""
    key = ("n_sources", "d_in", "d_sae")[which]
    said, shape = fields.size(key), tensors.shape("W_enc")
    if said.value != shape[which]:
        raise CheckpointError(
            f"{said.source} as in the shape of W_enc in {tensors.file} {list(shape)}",
            str(said.value),
            "Fetch the config that belongs to these weights.",
        )
    return said


def _activation(
    fields: Fields, tensors: Tensors, choices: Choices, k: Fact | None, d_sae: int
) -> tuple[Activation, dict[str, Fact | None]]:
    """The activation that the config names, with the facts behind it."""
    named = fields.one_of(ACTIVATIONS, "activation")
    if named is None:
        raise CheckpointError(
            f"activation in {fields.file} (one of {', '.join(ACTIVATIONS)})",
            "no such key",
            "Fetch the config that belongs to these weights.",
        )
    if named.value == "jumprelu":
        shape = {} if tensors.shape("threshold") == () else {"d_sae": d_sae}
        activation, threshold = jump_relu(tensors, "threshold", choices, **shape)
        return activation, {"activation": named, "threshold": threshold}
    if named.value == "relu":
        return ReLU(), {"activation": named}
    k = k or fields.size("k")  # raises: nobody says
    if k.value > d_sae:
        raise CheckpointError(
            f"{k.source} of at most d_sae = {d_sae}", str(k.value), "Correct the config."
        )
    return TopK(k.value), {"activation": named}


def _normalization(
    fields: Fields, tensors: Tensors, n_sources: int, d_in: int
) -> tuple[Normalization, Fact]:
    """The normalisation that the config names, with its numbers from the weight file."""
    named = fields.one_of(NORMALIZATIONS, "normalization")
    present = [key for key in (*IN, *OUT) if key in tensors]
    if named is None:
        raise CheckpointError(
            f"normalization in {fields.file} (one of {', '.join(NORMALIZATIONS)})",
            "no such key",
            "Fetch the config that belongs to these weights.",
        )
    if named.value != Affine.name:
        if present:
            raise CheckpointError(
                f"{named.source} in agreement with {tensors.file}",
                f"{named.value!r} and the tensors {', '.join(present)} of a normalisation",
                "Fetch the config that belongs to these weights.",
            )
        constant = named.value == ConstantNorm.name
        return (ConstantNorm(n_sources) if constant else Normalization()), named
    pairs = [pair for pair in (IN, OUT) if pair == IN or any(key in present for key in pair)]
    missing = [key for pair in pairs for key in pair if key not in present]
    if missing:
        raise CheckpointError(
            f"the normalisation of the inputs in {tensors.file}, since {named.source} is "
            f"{named.value!r}",
            f"no {', '.join(missing)}: the weights are of no use without these numbers",
            "Fetch the whole weight file, or save the crosscoder again with its normalisation.",
        )
    wide = [[_wide(tensors, key, n_sources, d_in) for key in pair] for pair in pairs]
    (scale, mean), out = wide[0], wide[1] if len(wide) > 1 else [None, None]
    _check_scale(tensors.file, scale)
    return Affine(scale, mean, scale_out=out[0], shift_out=out[1]), named


def _wide(tensors: Tensors, key: str, n_sources: int, d_in: int) -> Tensor:
    """Numbers of each source ``[M, d_in]``, or one of each ``[M]``, as ``[M · d_in]``."""
    if len(tensors.shape(key)) == 1:
        return tensors.numbers(key, sources=n_sources).repeat_interleave(d_in)
    return tensors.numbers(key, sources=n_sources, d_in=d_in).reshape(-1)


def _check_scale(file: str, scale: Tensor) -> None:
    size = scale.abs()
    if not bool(((size > 1 / MAX_SCALE) & (size < MAX_SCALE)).all()):
        raise CheckpointError(
            f"input_scale of {file} with values that inputs can be scaled by, and back",
            f"values from {float(torch.min(size)):.4g} to {float(torch.max(size)):.4g}",
            "The file is damaged, or a dimension never varied in training: fetch it again.",
        )


def _sources(fields: Fields, n_sources: int) -> dict[str, Fact | None]:
    """Hook points and models; one of each for every source where there is a list."""
    site, model = fields.text("site"), fields.text("model")
    sites, models = _names(fields, "sites", n_sources), _names(fields, "models", n_sources)
    if site is not None and sites is not None:
        raise CheckpointError(
            f"site or sites in {fields.file}", "both", "Correct the config: keep one of them."
        )
    return {"site": site, "sites": sites, "model": model, "models": models}


def _names(fields: Fields, key: str, n_sources: int) -> Fact | None:
    value = fields.value(key)
    if value is None:
        return None
    listed = isinstance(value, list) and all(isinstance(name, str) for name in value)
    if not listed or len(value) != n_sources:
        raise CheckpointError(
            f"{key} in {fields.file} ({n_sources} names, one for each source)",
            repr(value)[:200],
            "Correct the config, or fetch the config that belongs to these weights.",
        )
    return Fact(tuple(value), f"{fields.file}: {key}")
