"""One source in layout ``saebench``: the folder that SAELens v6 loads, with our key in ``cfg.json``.

SAELens has no place for numbers that shift and scale inputs: they are folded into the weights. With
``h = (x − m) · s`` and ``x̂ = y · s' + m'``: ``W_enc' = s W_enc``, ``W_dec' = W_dec s'``, ``b_dec' = b_dec
s' + m'``, and the encoder's bias takes up the rest. Codes and thresholds stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from saebench._version import __version__
from saebench.activations import JumpReLU, ReLU, TopK
from saebench.adapters.reading.ours import PROVENANCE_KEY, READS
from saebench.adapters.saelens.sae import CONFIG_FILE, LAYOUT_VERSION, WEIGHT_FILE
from saebench.sae import SAE
from saebench.sae.normalization import Affine
from saebench.train.layouts.content import Content, refuse
from saebench.train.layouts.conversion import (
    BY_TOKEN,
    Affinity,
    affinity,
    apart,
    encoder_bias,
    in_dtype,
    numbers,
    plus_product,
    thresholds,
    unsupported,
)

FOLDED_KEY = "folded_normalization"


def check(sae: SAE) -> None:
    """Raise :class:`OutputError` for an SAE with parts that SAELens' layout has no place for."""
    found = unsupported(sae, (TopK, JumpReLU, ReLU), (*BY_TOKEN, Affine))
    needed = "an SAE of architecture topk, batchtopk, jumprelu or standard"
    refuse("saebench", needed, found, "Save it in the format it came in.")


def content(sae: SAE, provenance: Mapping[str, Any]) -> Content:
    """The tensors under SAELens' names, and ``cfg.json``."""
    check(sae)
    folded = affinity(sae)
    tensors = _tensors(sae) if folded is None else _folded(sae, folded)
    if isinstance(sae.activation, JumpReLU):
        tensors["threshold"] = thresholds(sae.activation, sae.cfg.d_sae)
    return Content(apart(tensors), {CONFIG_FILE: _config(sae, provenance, folded)})


def _tensors(sae: SAE) -> dict[str, Tensor]:
    dtype = sae.cfg.dtype
    return {
        "W_enc": in_dtype(sae.W_enc, sae.W_enc, dtype),
        "W_dec": in_dtype(sae.W_dec, sae.W_dec, dtype),
        "b_enc": encoder_bias(sae, None if sae.b_in is None else sae.b_dec.detach().cpu()),
        "b_dec": sae.b_dec.float(),
    }


def _folded(sae: SAE, by: Affinity) -> dict[str, Tensor]:
    """The same with the normalisation in the weights, in float32 where ``cfg.dtype`` is too coarse."""
    W_enc, W_dec = sae.W_enc.detach().cpu().float(), sae.W_dec.detach().cpu().float()
    b_dec = (sae.b_dec.detach().cpu().double() * by.scale_out + by.shift_out).float()
    # what the encoder is now given too much, in the units it had before
    offset = -by.shift.double() * by.scale
    if sae.b_in is not None:
        offset = offset - sae.b_in.detach().cpu().double()
    if _subtracts(sae, by):
        offset = offset + b_dec.double() * by.scale
    assert sae.b_enc is not None  # or it was refused
    return {
        "W_enc": in_dtype(W_enc * by.scale[:, None], sae.W_enc, sae.cfg.dtype),
        "W_dec": in_dtype(W_dec * by.scale_out, sae.W_dec, sae.cfg.dtype),
        "b_enc": plus_product(sae.b_enc.detach().cpu().float(), offset, W_enc),
        "b_dec": b_dec,
    }


def _subtracts(sae: SAE, folded: Affinity | None) -> bool:
    """Whether ``b_dec`` is taken from the input: as in the SAE, or to keep a shift out of the product.

    Activations far from zero lose digits in a product that nothing was subtracted before.
    """
    return sae.b_in is not None or (folded is not None and bool(folded.shift.any()))


def _config(sae: SAE, provenance: Mapping[str, Any], folded: Affinity | None) -> dict[str, Any]:
    """``cfg.json``. Its ``dtype`` is that of the computation: SAELens casts what it reads to it."""
    cfg = sae.cfg
    recipe = provenance.get("recipe", {})
    metadata = {
        "sae_lens_version": LAYOUT_VERSION,  # announces the layout; what wrote it is under our key
        "sae_lens_training_version": None,
        "model_name": cfg.model,
        "hook_name": cfg.site,
        "hook_head_index": None,
        "context_size": recipe.get("context_size"),
        "prepend_bos": recipe.get("prepend_bos", True),
        "exclude_special_tokens": recipe.get("mask", "special") == "special",
        "dataset_path": recipe.get("data"),
        "model_from_pretrained_kwargs": {"center_writing_weights": True} if cfg.centred else None,
        "training_architecture": cfg.architecture,
    }
    config = {
        "architecture": _inference_architecture(sae),
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": _subtracts(sae, folded),
        "normalize_activations": "none" if folded is not None else cfg.normalization,
        "reshape_activations": "hook_z" if (cfg.site or "").endswith("hook_z") else "none",
    }
    if isinstance(sae.activation, TopK):
        config |= {"k": sae.activation.k, "rescale_acts_by_decoder_norm": False}
    elif cfg.k is not None:
        metadata["training_architecture_details"] = {"k": cfg.k}
    config["metadata"] = {key: value for key, value in metadata.items() if value is not None}
    config[PROVENANCE_KEY] = {"version": __version__, **provenance, **_ours(sae, folded)}
    return config


def _ours(sae: SAE, folded: Affinity | None) -> dict[str, Any]:
    """What of the checkpoint itself only our key can say."""
    found: dict[str, Any] = {}
    reads = {"difference": sae.cfg.difference, "models": list(sae.cfg.models)}
    if any(reads.values()):
        found[READS] = {key: value for key, value in reads.items() if value}
    if folded is not None:
        found[FOLDED_KEY] = {key: numbers(value) for key, value in vars(folded).items()}
    return found


def _inference_architecture(sae: SAE) -> str:
    if isinstance(sae.activation, TopK):
        return "topk"
    return "jumprelu" if isinstance(sae.activation, JumpReLU) else "standard"


__all__ = ["CONFIG_FILE", "WEIGHT_FILE", "check", "content"]
