"""``training_config.yaml`` beside a folder for the hub: which activations were read, and how it was trained.

The library's own config holds neither layer nor models nor direction. The keys are those that its forks'
runs write (``target``, ``layer``, ``normalization``, ``k``), and the whole provenance under ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from saebench._version import __version__
from saebench.adapters.dictionary_learning.trainer import hook_point
from saebench.adapters.reading.ours import PROVENANCE_KEY, READS
from saebench.adapters.reading.places import DIRECTIONS
from saebench.sae import SAE, SAEConfig

TRAINING_FILE = "training_config.yaml"
TARGETS = {direction: target for target, direction in DIRECTIONS.items()}
_LAYER = re.compile(r"blocks\.(\d+)\.")
FROM_RECIPE = ("lr", "tokens", "batch_size", "seed", "k_start", "k_anneal")


def unnamed(cfg: SAEConfig) -> list[str]:
    """What the file has no words for: a hook point, or what several sources are."""
    sites = [*cfg.sites, *([cfg.site] if cfg.site else [])]
    found = [f"the hook point {site!r}" for site in sites if hook_point(*_place(site)) != site]
    if cfg.n_sources > 2 and not cfg.sites and len(cfg.models) != cfg.n_sources:
        found.append(f"{cfg.n_sources} models without their names")
    if len(set(cfg.sites)) < len(cfg.sites):
        found.append("a hook point that is read twice")
    return found


def training_config(sae: SAE, provenance: Mapping[str, Any], rms: float) -> dict[str, Any]:
    """The file's content as plain values."""
    cfg = sae.cfg
    recipe = provenance.get("recipe", {})
    trainer = _trainer(cfg)
    found = {
        "target": _target(cfg, recipe) if cfg.n_sources == 1 else None,
        "layer": trainer.pop("layer", None),
        "k": cfg.k,
        "expansion_factor": cfg.d_sae / cfg.d_in,
        "normalization": {"enabled": sae.normalization.name != "none", "target_rms": rms},
        **{key: recipe[key] for key in FROM_RECIPE if key in recipe},
        "trainer": trainer or None,
        PROVENANCE_KEY: {"version": __version__, **provenance, **_reads(cfg)},
    }
    plain = {key: value for key, value in found.items() if value is not None}
    read: dict[str, Any] = json.loads(json.dumps(plain, allow_nan=False))
    return read


def _target(cfg: SAEConfig, recipe: Mapping[str, Any]) -> str:
    """Which activation one source is: the difference, or that of the base or fine-tuned model."""
    if cfg.difference is not None:
        return TARGETS[cfg.difference]
    return "ft" if recipe.get("read_model") else "base"


def _reads(cfg: SAEConfig) -> dict[str, Any]:
    if cfg.n_sources > 1 or not cfg.models:
        return {}
    difference = {} if cfg.difference is None else {"difference": cfg.difference}
    return {READS: {**difference, "models": list(cfg.models)}}


def _trainer(cfg: SAEConfig) -> dict[str, Any]:
    """Layer, module and models as a trainer's config names them; the output of a layer needs no module."""
    sites = cfg.sites or ((cfg.site,) if cfg.site else ())
    places = [_place(site) for site in sites]
    layers, modules = [place[0] for place in places], [place[1] for place in places]
    many = bool(cfg.sites)
    found: dict[str, Any] = {}
    if places:
        found["layer"] = layers if many else layers[0]
    if any(modules):
        found["submodule_name"] = list(sites) if many else modules[0]
    if cfg.n_sources > 1 and cfg.models:
        found["lm_name"] = list(cfg.models)
    elif cfg.model and cfg.difference is None:
        found["lm_name"] = cfg.model
    return found


def _place(site: str) -> tuple[int, str | None]:
    """The layer of a hook point, and its name where it is not the output of that layer."""
    match = _LAYER.match(site)
    layer = int(match[1]) if match else 0
    return layer, None if site == hook_point(layer) else site
