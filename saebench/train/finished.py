"""The SAE that a trainer has made so far, in units of activations and ready to use or save."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saebench.activations import Activation, JumpReLU, TopK
from saebench.sae import SAE, Crosscoder, SAEConfig
from saebench.sae.normalization import Affine
from saebench.train.inputs import Inputs
from saebench.train.recipe import DIFFERENCES, Recipe
from saebench.train.start import Weights, summed_norms


@torch.no_grad()
def finished(recipe: Recipe, weights: Weights, inputs: Inputs, threshold: float) -> SAE:
    """An SAE or a crosscoder with matrices rounded as they are saved.

    One scale ``s`` is folded in: ``(s x − b_dec) W_enc + b_enc`` is ``s`` times ``(x − b_dec / s) W_enc +
    b_enc / s``, so the same latents are the largest, and codes, threshold and reconstruction all shrink
    by ``s``. The biases and the threshold are divided by ``s``, the matrices stay as they are, and
    decoder rows keep norm one. An :class:`Affine` is left as it is and so are codes and threshold.
    """
    dtype = getattr(torch, recipe.dtype)
    scale = inputs.scale
    W_dec = weights.W_dec.detach().to(dtype).float().clone()
    b_dec = (weights.b_dec / scale).detach()
    activation: Activation = TopK(recipe.k)
    if recipe.architecture == "batchtopk":
        thresholds = torch.full_like(weights.b_enc, threshold / scale)
        if recipe.is_crosscoder:
            thresholds = _weighed(threshold, W_dec, weights.n_sources)
        activation = JumpReLU(thresholds)
    kind = Crosscoder if recipe.is_crosscoder else SAE
    affine = inputs.affine
    return kind(
        _config(recipe, inputs.d_in, len(W_dec), "none" if affine is None else affine.name),
        activation.to(W_dec.device),
        W_enc=weights.W_enc.detach().T.to(dtype).float().contiguous(),
        W_dec=W_dec,
        b_dec=b_dec,
        b_enc=(weights.b_enc / scale).detach(),
        b_in=b_dec,
        normalization=None if affine is None else _copied(affine),
    )


def _weighed(threshold: float, W_dec: Tensor, n_sources: int) -> Tensor:
    """Thresholds ``[d_sae]`` of the codes themselves: ``f_j · Σ_m ‖d_j^m‖ > θ`` is ``f_j > θ / Σ_m ‖d_j^m‖``.

    A latent without a decoder never passes.
    """
    norms = summed_norms(W_dec, n_sources)
    return torch.where(norms > 0, threshold / norms, torch.inf)


def _copied(affine: Affine) -> Affine:
    return Affine(affine.scale.clone(), affine.shift.clone())


def _config(recipe: Recipe, d_in: int, d_sae: int, normalization: str) -> SAEConfig:
    """What it is. Where there are several ``models``, ``model`` is the first of them."""
    n_sources = len(recipe.sources)
    names = tuple((recipe.model, *recipe.others)[number] for number in recipe.models_read)
    known: dict[str, Any] = {"site": recipe.site or None}
    if recipe.reads == "layers":
        known = {"sites": recipe.sites}
    return SAEConfig(
        architecture=recipe.architecture,
        d_in=d_in,
        d_sae=d_sae,
        d_out=d_in,
        k=recipe.k,
        n_sources=n_sources,
        n_targets=n_sources,
        model=names[0] or None,
        models=names if len(names) > 1 and all(names) else (),
        difference=DIFFERENCES.get(recipe.reads),
        dtype=recipe.dtype,
        normalization=normalization,
        format="saebench",
        **known,
    )
