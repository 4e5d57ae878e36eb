"""Layout ``open_interp``: crosscoders over two models, with one scale for each and a threshold a latent.

``h_m = x_m · norm_scale_m`` and ``pre = Σ_m (h_m − b_dec_m) W_enc_m + b_enc``: the decoder's bias is always
subtracted. Thresholds are in units of ``pre``. What is read is the output of one layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from saebench._version import __version__
from saebench.activations import JumpReLU
from saebench.adapters.crosscoders.open_interp import CONFIG_FILE, SCALES
from saebench.adapters.crosscoders.two_models import N_MODELS, is_factor
from saebench.adapters.reading.ours import PROVENANCE_KEY
from saebench.sae import SAE
from saebench.sae.normalization import Affine, Normalization
from saebench.train.layouts.content import Content, refuse
from saebench.train.layouts.conversion import (
    affinity,
    apart,
    encoder_bias,
    thresholds,
    unsupported,
)

NAME = "open_interp"
WEIGHT_FILE = "crosscoder_final.safetensors"
ARCHITECTURE = "cross_model_crosscoder"
NEEDED = "a crosscoder of two models at the output of one layer"
ELSEWHERE = "Save it in layout saebench, which can express it."
_LAYER_OUTPUT = re.compile(r"blocks\.(\d+)\.hook_resid_post")


def check(sae: SAE) -> None:
    """Raise :class:`OutputError` for what this layout has no place for."""
    cfg, by = sae.cfg, affinity(sae)
    found = []
    if cfg.n_sources != N_MODELS:
        found.append(f"{cfg.n_sources} source{'s' * (cfg.n_sources != 1)}")
    if cfg.sites:
        found.append(f"layers of one model ({', '.join(cfg.sites)})")
    if cfg.site and not _LAYER_OUTPUT.fullmatch(cfg.site):
        found.append(f"the hook point {cfg.site!r}")
    found += unsupported(sae, (JumpReLU,), (Normalization, Affine))
    if cfg.centred:
        found.append("activations of a centred model")
    if by is not None:
        scales = by.by_source(cfg.n_sources)
        if scales is None:
            found.append("inputs scaled dimension by dimension")
        elif not all(map(is_factor, scales.tolist())):
            found.append("an input scale that is not positive")
        if bool(by.shift.any()):
            found.append("inputs with a mean taken out")
        if not by.is_inverted:
            found.append("outputs normalised by other numbers than inputs")
    refuse(NAME, NEEDED, found, ELSEWHERE)


def content(sae: SAE, provenance: Mapping[str, Any]) -> Content:
    """The tensors in float32, as its readers compute with them, and ``cfg.json``."""
    check(sae)
    cfg = sae.cfg
    assert isinstance(sae.activation, JumpReLU)  # or it was refused
    values = thresholds(sae.activation, cfg.d_sae)
    if not bool((values > 0).any()):
        refuse(NAME, "thresholds above 0", ["0 for all latents: never estimated"], ELSEWHERE)
    tensors = {
        "W_enc": sae.W_enc.float().reshape(N_MODELS, cfg.d_in, cfg.d_sae),
        "W_dec": sae.W_dec.float().reshape(cfg.d_sae, N_MODELS, cfg.d_in),
        "b_enc": encoder_bias(sae, sae.b_dec.detach().cpu()),
        "b_dec": sae.b_dec.float().reshape(N_MODELS, cfg.d_in),
        "threshold": values,
    }
    return Content(apart(tensors), {CONFIG_FILE: _config(sae, provenance)})


def _config(sae: SAE, provenance: Mapping[str, Any]) -> dict[str, Any]:
    cfg, by = sae.cfg, affinity(sae)
    scales = None if by is None else by.by_source(N_MODELS)
    factors = [1.0] * N_MODELS if scales is None else scales.tolist()
    layer = _LAYER_OUTPUT.fullmatch(cfg.site) if cfg.site else None
    models = dict(zip(("base_model", "chat_model"), cfg.models, strict=False))
    given = {"layer": int(layer[1]) if layer else None, "k_batchtopk": cfg.k}
    return {
        "architecture": ARCHITECTURE,
        **models,
        **{key: value for key, value in given.items() if value is not None},
        "d_model": cfg.d_in,
        "expansion": cfg.d_sae / cfg.d_in,
        "n_features": cfg.d_sae,
        **dict(zip(SCALES, factors, strict=True)),
        PROVENANCE_KEY: {"version": __version__, **provenance},
    }
