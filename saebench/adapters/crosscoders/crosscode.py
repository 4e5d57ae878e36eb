"""crosscode checkpoints: SAEs, transcoders and crosscoders over models, hook points, or targets.

``model.pt`` with ``_W_enc_XiDiL`` and ``_W_dec_LXoDo`` beside ``model_cfg.yaml``: ``f = act(Σ x_i W_enc_i
+ b_enc)`` and ``x̂_o = f W_dec_o + b_dec_o [+ x W_skip]``, nothing subtracted. Training divides each
activation by its mean norm over ``√d``; files are meant to be saved with that folded into the weights,
and say whether it was (``is_folded``). Source: the repository's base class and its subclasses.
"""

from __future__ import annotations

from typing import Any

import torch

from saebench.adapters.crosscoders.crosscode_activation import PREFIXES, read_activation
from saebench.adapters.crosscoders.crosscode_shape import B_DEC, W_DEC, W_ENC, Shape, read_shape
from saebench.adapters.crosscoders.two_models import given_scale
from saebench.adapters.reading.batch_gate import ESTIMATE
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import Fields, config_from
from saebench.adapters.reading.readable import readable_headers
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, Crosscoder, Fact
from saebench.sae.normalization import AverageNorm, Normalization

FORMAT = "crosscode"
CONFIG_FILE = "model_cfg.yaml"
B_ENC = "b_enc_L"
SKIP, SKIP_OF_SEVERAL = "W_skip_DD", "W_skip_DPD"
FOLDED = "is_folded"
FACTORS = ("folded_scaling_factors_in_Xi", "folded_scaling_factors_out_Xo")


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim on the two matrices by their names, which spell out their dimensions."""
    for name, header in readable_headers(files):
        if set(header) >= {W_ENC, W_DEC}:
            shapes = (f"{key} {list(header[key].shape)}" for key in (W_ENC, W_DEC))
            configs = (CONFIG_FILE,) if CONFIG_FILE in files.names else ()
            return Claim(FORMAT, (f"{name}: {', '.join(shapes)}",), (name,), configs)
    return None


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> SAE:
    """The model; raises :class:`CheckpointError` for a shape that has no canonical counterpart."""
    fields, notes = _config(files, claim)
    tensors = Tensors(claim.weight, files.state_dict(claim.weight))
    shape = read_shape(fields, tensors, choices)
    _refuse_skips(tensors, shape)
    gate = read_activation(fields, tensors, choices, shape.d_sae)
    normalization, scale = _normalization(tensors, shape, choices)
    n_sources, n_targets = shape.n_sources, shape.n_targets
    source, source_out = (f"{claim.weight}: shape of {key}" for key in (W_ENC, W_DEC))
    facts = {
        "architecture": gate.architecture,
        "d_in": Fact(shape.d_in, source),
        "d_sae": Fact(shape.d_sae, source),
        "d_out": Fact(shape.d_out, source_out),
        "n_sources": Fact(n_sources, source),
        "n_targets": Fact(n_targets, source_out),
        "k": gate.k,
        "site": shape.site,
        "sites": shape.sites,
        "dtype": Fact(tensors.dtype(W_DEC), f"{claim.weight}: {W_DEC}"),
        "normalization": Fact(normalization.name, scale.source, scale.how),
        "input_scale": scale if normalization.name == AverageNorm.name else None,
        "subtract_b_dec": Fact(False, "definition of the format", "assumed"),
        "threshold": gate.threshold,
    }
    parts = _matrices(tensors, shape)
    tensors.ignore({FOLDED, *FACTORS})
    notes += shape.notes + _notes(scale, tensors)
    config = config_from(facts, format=FORMAT, notes=notes, provenance=_provenance(fields))
    kind = SAE if n_sources == n_targets == 1 else Crosscoder
    return kind(config, gate.activation, **parts, normalization=normalization)


def _config(files: CheckpointFiles, claim: Claim) -> tuple[Fields, list[str]]:
    """The config; where it holds Python objects it stays unread, and tensors and settings decide."""
    if not claim.configs:
        return Fields(CONFIG_FILE, {}), [f"no {CONFIG_FILE} beside {claim.weight}"]
    try:
        return Fields(CONFIG_FILE, files.yaml(CONFIG_FILE)), []
    except CheckpointError as error:
        return Fields(CONFIG_FILE, {}), [f"{CONFIG_FILE} was not read: {error.found}"]


def _refuse_skips(tensors: Tensors, shape: Shape) -> None:
    """Refuse skips that the library cannot compute, or that its formula does not cover."""
    if SKIP_OF_SEVERAL in tensors:
        raise CheckpointError(
            f"a skip to several targets ({SKIP_OF_SEVERAL} of {tensors.file})",
            f"shape {list(tensors.shape(SKIP_OF_SEVERAL))}, which crosscode's own formula, one "
            "matrix per target, cannot take",
            "Save the model without a skip, or with one per target in a layout of its own.",
        )
    if SKIP in tensors and (shape.n_sources, shape.n_targets) != (1, 1):
        raise CheckpointError(
            f"{SKIP} of {tensors.file} in a model of one source and one target",
            f"{shape.n_sources} sources and {shape.n_targets} targets",
            "Check that the file is one that crosscode wrote.",
        )


def _matrices(tensors: Tensors, shape: Shape) -> dict[str, torch.Tensor]:
    """Weights with sources and targets side by side: views of what the file holds."""
    sizes_in = {f"X{i}": n for i, n in enumerate(shape.dims_in)}
    sizes_out = {f"X{i}": n for i, n in enumerate(shape.dims_out)}
    d_in, d_sae, d_out = shape.d_in, shape.d_sae, shape.d_out
    W_enc = tensors.take(W_ENC, **sizes_in, d_in=d_in, d_sae=d_sae)
    W_dec = tensors.take(W_DEC, d_sae=d_sae, **sizes_out, d_out=d_out)
    width_out = shape.n_targets * d_out
    b_dec = torch.zeros(width_out)
    if B_DEC in tensors:
        b_dec = tensors.take(B_DEC, **sizes_out, d_out=d_out).reshape(width_out)
    parts = {
        "W_enc": W_enc.reshape(shape.n_sources * d_in, d_sae),
        "W_dec": W_dec.reshape(d_sae, width_out),
        "b_dec": b_dec,
    }
    if B_ENC in tensors:
        parts["b_enc"] = tensors.take(B_ENC, d_sae=d_sae)
    if SKIP in tensors:
        parts["W_skip"] = tensors.take(SKIP, d_in=d_in, d_out=d_out).T
    return parts


def _normalization(tensors: Tensors, shape: Shape, choices: Choices) -> tuple[Normalization, Fact]:
    """None where the factors are folded in; else the user's factors, or those that data give."""
    given = given_scale(choices, shape.n_sources)
    if FOLDED not in tensors and given is None:
        named = choices.text("normalization", ("none", AverageNorm.name))
        if named is None:
            raise CheckpointError(
                f"{FOLDED} in {tensors.file}",
                "no such tensor: whether the weights take raw activations is not known",
                f"Give --set normalization=none, or --set normalization={AverageNorm.name} where "
                "activations were scaled to a mean norm of √d.",
            )
        if named.value == "none":
            return Normalization(), named
    elif given is None and tensors.scalar(FOLDED):
        return Normalization(), Fact("none", f"{tensors.file}: {FOLDED}")
    if not shape.writes_what_it_reads or SKIP in tensors:
        raise CheckpointError(
            f"scaling factors of {tensors.file} folded into its weights",
            f"{FOLDED} is false, and the outputs' factors cannot be told from its inputs",
            "Fold them before saving (with_folded_scaling_factors).",
        )
    if given is not None:
        return AverageNorm(shape.n_sources, torch.tensor(given.value)), given
    source = f"{FOLDED} of {tensors.file} is false: √d over the mean norm of each source, from data"
    return AverageNorm(shape.n_sources), Fact(ESTIMATE, source, "assumed")


def _notes(scale: Fact, tensors: Tensors) -> list[str]:
    notes = []
    if scale.value == ESTIMATE:
        notes.append(
            "activations were scaled by factors that the file does not hold: they are estimated on "
            "data unless --set input_scale=… gives them"
        )
    known = {f"{prefix}log_threshold_L" for prefix in PREFIXES}
    rest = [name for name in tensors.unused() if name not in known]
    if rest:
        notes.append(f"tensors of {tensors.file} not used: {', '.join(rest)}")
    return notes


def _provenance(fields: Fields) -> dict[str, Any]:
    return {"config": dict(fields.data)} if fields.data else {}
