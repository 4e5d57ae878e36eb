"""Crosscoders in layout ``saebench``: ``cfg.json`` and the tensors of all sources, normalisation included.

The tensors are those of the canonical crosscoder with its sources apart; nothing is folded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from saebench._version import __version__
from saebench.activations import JumpReLU, ReLU, TopK
from saebench.adapters.native.crosscoder import ACTIVATIONS, VERSION
from saebench.adapters.native.marks import (
    CONFIG_FILE,
    FORMAT_KEY,
    FORMAT_NAME,
    MARKER,
    WEIGHT_FILE,
)
from saebench.adapters.reading.ours import PROVENANCE_KEY
from saebench.sae import SAE
from saebench.sae.normalization import Affine, ConstantNorm, Normalization
from saebench.train.layouts.content import Content, refuse
from saebench.train.layouts.conversion import (
    affinity,
    apart,
    encoder_bias,
    in_dtype,
    thresholds,
    unsupported,
)

NAMES: dict[type, str] = {ReLU: "relu", TopK: "topk", JumpReLU: "jumprelu"}
assert set(NAMES.values()) == set(ACTIVATIONS)


def check(sae: SAE) -> None:
    """Raise :class:`OutputError` for a crosscoder with parts that this layout has no place for."""
    known = (Normalization, ConstantNorm, Affine)
    found = unsupported(sae, tuple(NAMES), known)
    if sae.cfg.difference is not None:
        found.append("a difference of several sources")
    needed = "a crosscoder with a ReLU, TopK or JumpReLU"
    refuse("saebench", needed, found, "Save it in the format it came in.")


def content(sae: SAE, provenance: Mapping[str, Any]) -> Content:
    """The tensors with the sources apart, and ``cfg.json``."""
    check(sae)
    cfg = sae.cfg
    M, d, F = cfg.n_sources, cfg.d_in, cfg.d_sae
    b_in = None if sae.b_in is None else sae.b_dec.detach().cpu()
    tensors = {
        "W_enc": in_dtype(sae.W_enc, sae.W_enc, cfg.dtype).reshape(M, d, F),
        "W_dec": in_dtype(sae.W_dec, sae.W_dec, cfg.dtype).reshape(F, M, d),
        "b_enc": encoder_bias(sae, b_in),
        "b_dec": sae.b_dec.float().reshape(M, d),
        MARKER: torch.tensor(VERSION),
        **_normalization(sae),
    }
    if isinstance(sae.activation, JumpReLU):
        tensors["threshold"] = thresholds(sae.activation, F)
    return Content(apart(tensors), {CONFIG_FILE: _config(sae, provenance)})


def _normalization(sae: SAE) -> dict[str, Tensor]:
    """Scale and mean of every source; those of the way out where it is not the way in undone."""
    by = affinity(sae)
    if by is None:
        return {}
    shape = (sae.cfg.n_sources, sae.cfg.d_in)
    found = {"input_scale": by.scale, "input_mean": by.shift}
    if not (torch.equal(by.scale_out, 1 / by.scale) and torch.equal(by.shift_out, by.shift)):
        found |= {"output_scale": by.scale_out, "output_mean": by.shift_out}
    return {name: value.reshape(shape) for name, value in found.items()}


def _config(sae: SAE, provenance: Mapping[str, Any]) -> dict[str, Any]:
    cfg = sae.cfg
    given = {
        "site": cfg.site,
        "sites": list(cfg.sites) or None,
        "model": cfg.model,
        "models": list(cfg.models) or None,
        "k": sae.activation.k or cfg.k,
        "centred": cfg.centred or None,
    }
    return {
        FORMAT_KEY: FORMAT_NAME,
        "version": VERSION,
        "architecture": cfg.architecture,
        "activation": NAMES[type(sae.activation)],
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "n_sources": cfg.n_sources,
        **{key: value for key, value in given.items() if value is not None},
        "normalization": sae.normalization.name if affinity(sae) is None else Affine.name,
        "subtract_b_dec": sae.b_in is not None,
        PROVENANCE_KEY: {"version": __version__, **provenance},
    }


__all__ = ["CONFIG_FILE", "WEIGHT_FILE", "check", "content"]
