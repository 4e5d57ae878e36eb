"""Layout ``dictionary_learning``: the folders that its forks push to the hub.

One source is a ``BatchTopKSAE``, several are a ``BatchTopKCrossCoder``; the normaliser lies in buffers.
Both classes know one scale for each source: ``(x − activation_mean) · activation_global_scale``, undone by
``/ (activation_global_scale + 1e-8) + activation_mean``. An SAE that scales each dimension by itself has the
rest of it folded into its weights. A crosscoder cannot: its gate takes decoder norms in these units, and
keeps ``f`` where ``f · Σ_m ‖d_m‖ > threshold``. ``training_config.yaml`` says which activations were read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from saebench.activations import JumpReLU
from saebench.adapters.dictionary_learning.files import CONFIG_FILE
from saebench.adapters.dictionary_learning.gate import CODE_ID, KINDS
from saebench.adapters.dictionary_learning.normalizer import MEAN, RMS, SCALE, STD
from saebench.sae import SAE
from saebench.sae.normalization import Affine, Normalization
from saebench.train.layouts.content import Content, refuse
from saebench.train.layouts.conversion import NEVER, affinity, apart, thresholds, unsupported
from saebench.train.layouts.one_scale import Rescaled, rescaled
from saebench.train.layouts.training_config import TRAINING_FILE, training_config, unnamed

NAME = "dictionary_learning"
WEIGHT_FILE = "model.safetensors"
CROSSCODER = 1  # the code normalisation by the sum of decoder norms
SMALLEST_SCALE = 0.1  # below it the 1e-8 of the library would be seen in float32
CLOSE = 1e-5  # of thresholds that are one number over decoder norms, in float32
NEEDED = "an SAE or crosscoder of class BatchTopKSAE or BatchTopKCrossCoder"
ELSEWHERE = "Save it in layout saebench, which can express it."


def check(sae: SAE) -> None:
    """Raise :class:`OutputError` for what neither class of the library can express."""
    found = unsupported(sae, (JumpReLU,), (Normalization, Affine))
    by, n_sources = affinity(sae), sae.cfg.n_sources
    if sae.cfg.k is None:
        found.append("no k")
    if sae.cfg.centred:
        found.append("activations of a centred model")
    if by is not None and not by.is_inverted:
        found.append("outputs normalised by other numbers than inputs")
    if by is not None and not bool((by.scale > 0).all()):
        found.append("an input scale that is not positive")
    if by is not None and n_sources > 1 and by.by_source(n_sources) is None:
        found.append(
            "inputs scaled dimension by dimension, where the gate needs one scale a source"
        )
    refuse(NAME, NEEDED, found + unnamed(sae.cfg), ELSEWHERE)


def content(sae: SAE, provenance: Mapping[str, Any]) -> Content:
    """The class's parameters and buffers, its arguments, and how it was trained."""
    check(sae)
    inner = rescaled(sae, SMALLEST_SCALE)
    rms = inner.unit * _target_rms(sae, provenance)
    single = sae.cfg.n_sources == 1
    tensors = _one_source(inner) if single else _several(inner)
    arguments: dict[str, Any] = {
        "dict_class": "BatchTopKSAE" if single else "BatchTopKCrossCoder",
        "activation_dim": sae.cfg.d_in,
        "dict_size": sae.cfg.d_sae,
        "k": sae.cfg.k,
        RMS: rms,
    }
    if single:
        arguments |= {MEAN: None, STD: None, "encoder_init_norm": 1.0}
    else:
        named = {"code_normalization": KINDS[CROSSCODER], "norm_init_scale": 1.0}
        arguments |= {"num_layers": sae.cfg.n_sources, **named}
    tensors |= {"k": torch.tensor(sae.cfg.k, dtype=torch.int32), **_buffers(inner, rms)}
    documents = {CONFIG_FILE: arguments, TRAINING_FILE: training_config(sae, provenance, rms)}
    return Content(apart(tensors), documents)


def _target_rms(sae: SAE, provenance: Mapping[str, Any]) -> float:
    """The root of the mean squared norm that inputs were scaled to; √d where that is not on record."""
    recipe = provenance.get("recipe", {})
    stated = recipe.get("target_rms")
    return float(stated) if stated else math.sqrt(sae.cfg.d_in)


def _one_source(inner: Rescaled) -> dict[str, Tensor]:
    """The parameters of a ``BatchTopKSAE``, which subtracts ``b_dec``; its threshold is one for all codes."""
    return {
        "encoder.weight": inner.W_enc.T,
        "encoder.bias": inner.encoder_bias(subtracts=True),
        "decoder.weight": inner.W_dec.T,
        "b_dec": inner.b_dec,
        "threshold": _one_threshold(inner, torch.ones(inner.sae.cfg.d_sae), "one for all latents"),
    }


def _several(inner: Rescaled) -> dict[str, Tensor]:
    """The parameters of a ``BatchTopKCrossCoder``, which subtracts nothing."""
    cfg = inner.sae.cfg
    M, d, F = cfg.n_sources, cfg.d_in, cfg.d_sae
    decoders = inner.W_dec.detach().cpu().reshape(F, M, d)
    norms = torch.stack([part.float().norm(dim=-1) for part in decoders.unbind(1)]).sum(0)
    return {
        "encoder.weight": inner.W_enc.reshape(M, d, F),
        "encoder.bias": inner.encoder_bias(subtracts=False),
        "decoder.weight": decoders.transpose(0, 1),
        "decoder.bias": inner.b_dec.reshape(M, d),
        "threshold": _one_threshold(inner, norms, "one number over the summed decoder norms"),
        CODE_ID: torch.tensor(CROSSCODER),
    }


def _one_threshold(inner: Rescaled, norms: Tensor, form: str) -> Tensor:
    """θ of thresholds θ / ``norms[d_sae]``; raises :class:`OutputError` for those of another form.

    A latent without a direction passes no threshold there, so that it may not fire here.
    """
    activation = inner.sae.activation
    assert isinstance(activation, JumpReLU)  # or it was refused
    values = thresholds(activation, inner.sae.cfg.d_sae).double()
    fires = values < NEVER
    ranked = (values * norms.double())[fires]
    if len(ranked) == 0:
        refuse(NAME, "a threshold that codes can pass", ["latents that never fire"], ELSEWHERE)
    theta = ranked.median()
    spread = float((ranked - theta).abs().max())
    silent = bool(((norms > 0) & ~fires).any())
    if silent or bool((norms[fires] == 0).any()) or spread > CLOSE * float(theta):
        found = f"{float(ranked.min()):.6g} to {float(ranked.max()):.6g} times these norms"
        found += ", and latents that never fire" if silent else ""
        refuse(NAME, f"thresholds that are {form}", [found], ELSEWHERE)
    return theta.float()


def _buffers(inner: Rescaled, rms: float) -> dict[str, Tensor]:
    """The normaliser: ``[d_in]`` and a scalar for one source, ``[M, d_in]`` and ``[M]`` for several.

    NaN in mean and std means that there is none. The standard deviations are those of the data where
    inputs were divided by them, else the same for all dimensions; the scale follows from them.
    """
    cfg = inner.sae.cfg
    M, d = cfg.n_sources, cfg.d_in
    shape = (d,) if M == 1 else (M, d)
    if inner.scale is None or inner.mean is None or inner.spread is None:
        nothing = torch.full(shape, math.nan)
        found = {MEAN: nothing, STD: nothing, SCALE: torch.ones(shape[:-1])}
    else:
        std = inner.spread * (rms / inner.unit / math.sqrt(d))
        scale = inner.scale.reshape(shape[:-1])
        found = {MEAN: inner.mean.reshape(shape), STD: std.reshape(shape), SCALE: scale}
    return found | {RMS: torch.tensor(rms)}
