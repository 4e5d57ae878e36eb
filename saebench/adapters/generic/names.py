"""Which role a tensor's name suggests: encoder, decoder, their biases, and what else there may be.

A name suggests, a shape has to agree, and the user overrules both (``--map role=name``). Names never
decide an orientation: ``W_enc`` is ``[d_in, d_sae]`` in one library and ``[d_sae, d_in]`` in the next.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

MATRICES = ("encoder", "decoder", "gate", "skip")

_ENCODER = {"enc", "encode", "encoder", "encoding", "e", "wenc", "benc"}
_DECODER = {"dec", "decode", "decoder", "decoding", "d", "wdec", "bdec", "dictionary", "dict"}
_BIAS = {"b", "bias", "biases", "benc", "bdec"}
_FILLER = {
    *("w", "weight", "weights", "matrix", "kernel", "linear", "lin", "layer", "proj", "final"),
    *("block", "sae", "autoencoder", "ae", "model", "net", "cc", "fc", "transcoder", "vectors"),
}
_HOLDERS = {"sae", "ae", "autoencoder", "model", "net", "transcoder", "module"}
_EXACT: Mapping[frozenset[str], str] = {
    frozenset(words): role
    for role, many in {
        "b_in": (("b", "in"), ("bias", "in"), ("input", "bias"), ("b", "pre"), ("bias", "pre")),
        "b_enc": (("latent", "bias"), ("hidden", "bias"), ("b", "hidden"), ("b", "latent")),
        "b_dec": (("output", "bias"), ("b", "out"), ("bias", "out")),
        "bias": (("bias",), ("b",)),
        "gate": (("w", "gate"), ("gate", "weight"), ("w", "gate", "weight")),
        "b_gate": (("b", "gate"), ("gate", "bias"), ("w", "gate", "bias")),
        "r_mag": (("r", "mag"),),
        "b_mag": (("b", "mag"), ("mag", "bias")),
        "k": (("k",), ("topk",), ("top", "k"), ("activation", "k")),
        "multiplier": (("dictionary", "multiplier"),),  # of Overcomplete
    }.items()
    for words in many
}
_MEAN = {"mean", "means", "mu", "center", "centre", "avg", "average", "median"}
_STD = {"std", "stds", "sigma", "stdev"}
_SCALE = {"scale", "scaling", "scales", "norm", "factor"}
_THRESHOLD = {"threshold", "thresholds", "theta", "thresh"}
_HARMLESS = {
    *("step", "steps", "since", "fired", "fires", "firing", "count", "counts", "counter", "ema"),
    *("freq", "frequency", "stats", "tokens", "activity", "usage", "dead", "loss", "age", "seen"),
    *("last", "nonzero", "batches", "tracked", "inactive", "density", "lr", "epoch"),
}


def words_of(name: str) -> tuple[str, ...]:
    """The words of a name in lower case: ``encoder.0.weight`` is encoder, 0, weight."""
    return tuple(word for word in re.split(r"[\W_]+", name.lower()) if word)


def role_of(name: str, shape: tuple[int, ...]) -> str | None:
    """The role that the name of a tensor suggests, where its number of dimensions agrees.

    ``bias`` and ``k`` are suggestions that only the rest of the file settles.
    """
    words = words_of(name)
    kept = frozenset(word for word in words if word not in _HOLDERS and not word.isdigit())
    exact = _EXACT.get(kept)
    vector = len(shape) == 1 or (len(shape) == 2 and shape[0] == 1)
    if exact == "multiplier":
        return exact if math.prod(shape) == 1 else None
    if exact is not None and (exact == "gate") == (len(shape) == 2 and not vector):
        return exact
    sides = [side for side in (_ENCODER, _DECODER) if side & kept]
    if len(sides) == 1 and not kept - sides[0] - _FILLER - _BIAS:
        name_of_side = "enc" if sides[0] is _ENCODER else "dec"
        if vector:
            return f"b_{name_of_side}" if kept & _BIAS else None
        return f"{name_of_side}oder" if len(shape) == 2 else None
    if "skip" in kept and len(shape) == 2:
        return "skip"
    few = vector or not shape
    for role, sign in (("threshold", _THRESHOLD), ("mean", _MEAN), ("std", _STD)):
        if few and kept & sign:
            return role
    return "scale" if few and kept & _SCALE else None


def is_logarithm(name: str) -> bool:
    """Whether the name says that logarithms are stored."""
    return "log" in words_of(name)


def is_harmless(name: str, dtype: str) -> bool:
    """Whether a tensor counts something during training and takes no part in encoding or decoding."""
    return "float" not in dtype or bool(set(words_of(name)) & _HARMLESS)


def find_roles(tensors: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names that each role is suggested by, in the order of the file."""
    found: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        role = role_of(name, tuple(tensor.shape))
        if role is not None:
            found.setdefault(role, []).append(name)
    return found


def matrices(tensors: Mapping[str, Any]) -> list[str]:
    """The names of matrices, those of one row or column left out."""
    return [name for name, item in tensors.items() if len(item.shape) == 2 and min(item.shape) > 1]
