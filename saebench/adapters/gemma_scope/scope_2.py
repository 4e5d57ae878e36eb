"""Gemma Scope 2: lower-case ``w_enc``, ``w_dec`` in ``params.safetensors``, or one file per layer.

``f = p · [p > threshold] · [p > 0]`` with ``p = x w_enc + b_enc``, and ``x̂ = f w_dec + b_dec``, to which an
affine skip adds ``x A`` (``A[d_in, d_out]``); b_dec is not subtracted. With ``params_layer_<i>.safetensors``
each layer encodes its own input only, ``w_dec`` is ``[d_sae, layers, d_out]``, a target gets the sum over
all files plus its own ``b_dec``, and a skip connects a layer with itself. That latents do not write to
earlier layers is in the values, not in the shape: all targets are kept.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from saebench.adapters.gemma_scope.scope_2_config import check_affine, config_of, places
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import Fields, config_from
from saebench.adapters.reading.tensors import Tensors
from saebench.adapters.reading.thresholds import jump_relu, said_threshold
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, CrossLayerTranscoder, Dictionary, Fact, SAEConfig

FORMAT = "Gemma Scope 2"
FOREIGN = "The file is not of a Gemma Scope 2 checkpoint."
KEY_TENSORS = frozenset({"w_enc", "w_dec", "b_enc", "b_dec", "threshold"})
SKIP = "affine_skip_connection"
SINGLE_FILE = "params.safetensors"

# The tensor whose first dimension each size is.
_SIZES = {"d_in": "w_enc", "d_sae": "b_enc", "d_out": "b_dec"}

_LAYER_FILE = re.compile(r"params_layer_(\d+)\.safetensors")


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim for lower-case tensors of a JumpReLU SAE, in one file or in one per layer."""
    names = [name for name in files.names if name.endswith(".safetensors")]
    headers = {name: files.header(name) for name in names}
    found = {name: header for name, header in headers.items() if set(header) >= KEY_TENSORS}
    layers = {name: int(match[1]) for name in found if (match := _LAYER_FILE.fullmatch(name))}
    weights = sorted(layers, key=lambda name: layers[name])
    if not weights:
        weights = list(found) if len(found) == 1 else [n for n in found if n == SINGLE_FILE]
    if not weights:
        return None
    shapes = found[weights[0]]
    evidence = (
        f"{weights[0]}: w_enc {list(shapes['w_enc'].shape)}, w_dec {list(shapes['w_dec'].shape)}"
    )
    more = (f"{len(weights)} such files, one per layer",) if len(weights) > 1 else ()
    return Claim(FORMAT, (evidence, *more), tuple(weights), config_of(files.names))


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> Dictionary:
    """The SAE, transcoder or multi-layer dictionary.

    Raises :class:`CheckpointError` where a layer's file is missing or config and tensors disagree.
    """
    fields = Fields(claim.config, files.json(claim.config)) if claim.configs else None
    if fields is not None:
        fields.one_of(("jump_relu",), "architecture")
    if len(files.header(claim.weight)["w_dec"].shape) == 2 and len(claim.weights) == 1:
        return _single(files, claim, fields, choices)
    return _multi_layer(files, claim, fields, choices)


def _sizes(tensors: Tensors) -> dict[str, Fact]:
    """The widths and the number of latents, each by the length of a tensor."""
    return {
        name: tensors.length(key, FOREIGN, dimensions=2 if key == "w_enc" else 1)
        for name, key in _SIZES.items()
    }


def _single(files: CheckpointFiles, claim: Claim, fields: Fields | None, choices: Choices) -> SAE:
    tensors = Tensors(claim.weight, files.state_dict(claim.weight))
    sizes = _sizes(tensors)
    facts = _facts(tensors, choices) | sizes | places(fields, files.hint, None)
    cfg = config_from(
        facts, format=FORMAT, notes=_notes(files, claim, facts), provenance=_provenance(fields)
    )
    W_skip = _skip(tensors, fields, cfg)
    b_dec = tensors.take("b_dec", d_out=cfg.d_out)
    return _dictionary(tensors, cfg, choices, b_dec, W_skip)


def _multi_layer(
    files: CheckpointFiles, claim: Claim, fields: Fields | None, choices: Choices
) -> CrossLayerTranscoder:
    count = _check_layer_files(files, claim)
    layers, biases, skips = [], [], []
    facts: dict[str, Fact | None] = {}
    for name in claim.weights:  # one file after another: no two are held as they are stored
        tensors = Tensors(name, files.state_dict(name))
        sizes = _sizes(tensors)
        facts = facts or {**_facts(tensors, choices), **sizes}
        values = {key: size.value for key, size in sizes.items()}
        cfg = SAEConfig("jumprelu", **values, n_targets=count)
        biases.append(tensors.take("b_dec", d_out=cfg.d_out))
        skips.append(_skip(tensors, fields, cfg))
        none = torch.zeros(count * cfg.d_out)
        layers.append(_dictionary(tensors, cfg, choices, none, None))
    facts |= places(fields, files.hint, count)
    source = f"{claim.weight} and the files of the other layers: shapes of b_enc"
    facts["d_sae"] = Fact(sum(layer.cfg.d_sae for layer in layers), source)
    for name in ("n_sources", "n_targets"):
        facts[name] = Fact(count, f"{claim.weight}: shape of w_dec")
    config = config_from(
        facts, format=FORMAT, notes=_notes(files, claim, facts), provenance=_provenance(fields)
    )
    same = list(range(count))
    _check_biases(claim, biases)
    return CrossLayerTranscoder(
        config,
        layers,
        [same] * count,
        torch.stack(biases),
        skips if any(skip is not None for skip in skips) else (),
        skip_targets=same,
    )


def _check_layer_files(files: CheckpointFiles, claim: Claim) -> int:
    """How many layers there are, as every ``w_dec`` has it; each has to have its file."""
    shape = files.header(claim.weight)["w_dec"].shape
    if len(shape) != 3:
        raise CheckpointError(
            f"tensor 'w_dec' of {claim.weight} with shape [d_sae, layers, d_out]",
            f"shape {list(shape)}",
            "A file with two dimensions is a checkpoint of its own: reference it alone.",
        )
    some = min(shape[1], len(claim.weights) + 8)  # a header may claim any number of layers
    wanted = [f"params_layer_{i}.safetensors" for i in range(some)]
    missing = [name for name in wanted if name not in claim.weights]
    if missing or len(claim.weights) != shape[1]:
        more = [name for name in claim.weights if name not in wanted]
        raise CheckpointError(
            f"{shape[1]} files params_layer_<i>.safetensors, as w_dec of {claim.weight} has layers",
            f"{', '.join(missing[:8])} missing" if missing else f"also {', '.join(more[:8])}",
            "Fetch the files of all layers, and reference their folder.",
        )
    return shape[1]


def _check_biases(claim: Claim, biases: list[Tensor]) -> None:
    widths = {name: bias.shape[0] for name, bias in zip(claim.weights, biases, strict=True)}
    if len(set(widths.values())) > 1:
        raise CheckpointError(
            "b_dec of one width in the files of all layers",
            ", ".join(f"{width} in {name}" for name, width in widths.items()),
            "Fetch files of one checkpoint.",
        )


def _dictionary(
    tensors: Tensors, cfg: SAEConfig, choices: Choices, b_dec: Tensor, W_skip: Tensor | None
) -> SAE:
    """Encoder and decoder of one file; the targets of a multi-layer one lie side by side."""
    layers = {"layers": cfg.n_targets} if len(tensors.shape("w_dec")) == 3 else {}
    W_dec = tensors.take("w_dec", d_sae=cfg.d_sae, **layers, d_out=cfg.d_out)
    return SAE(
        cfg,
        jump_relu(tensors, "threshold", choices, d_sae=cfg.d_sae)[0],
        W_enc=tensors.encoder("w_enc", d_in=cfg.d_in, d_sae=cfg.d_sae),
        W_dec=W_dec.reshape(cfg.d_sae, cfg.width_out),
        b_enc=tensors.take("b_enc", d_sae=cfg.d_sae),
        b_dec=b_dec,
        W_skip=W_skip,
    )


def _skip(tensors: Tensors, fields: Fields | None, cfg: SAEConfig) -> Tensor | None:
    """``W_skip[d_out, d_in]``; the file has ``[d_in, d_out]``."""
    check_affine(fields, SKIP in tensors, tensors.file)
    return tensors.take(SKIP, d_in=cfg.d_in, d_out=cfg.d_out).T if SKIP in tensors else None


def _facts(tensors: Tensors, choices: Choices) -> dict[str, Fact | None]:
    source = f"definition of {FORMAT}"
    return {
        "architecture": Fact("jumprelu", source, "assumed"),
        "dtype": Fact(tensors.dtype("w_enc"), f"{tensors.file}: w_enc"),
        "subtract_b_dec": Fact(False, source, "assumed"),
        "normalization": Fact("none", source, "assumed"),
        "threshold": said_threshold(choices),
    }


def _notes(files: CheckpointFiles, claim: Claim, facts: dict[str, Fact | None]) -> list[str]:
    notes = []
    if not claim.configs:
        notes.append("there is no config.json: model and hook points are read from the path")
    if facts.get("site") is None and facts.get("sites") is None:
        notes.append("neither config nor path say which hook points it was trained on")
    for name in claim.weights:
        unused = sorted(set(files.header(name)) - KEY_TENSORS - {SKIP})
        if unused:
            notes.append(f"tensors of {name} not used: {', '.join(unused)}")
    return notes


def _provenance(fields: Fields | None) -> dict[str, Any]:
    """The config as written, with the width and L0 it was trained for."""
    return {} if fields is None else dict(fields.data)
