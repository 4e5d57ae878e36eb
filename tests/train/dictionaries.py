"""Random SAEs and crosscoders as training gives them, of every kind that a layout may be asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from saebench.activations import JumpReLU
from saebench.sae import SAE, Crosscoder, SAEConfig
from saebench.sae.normalization import Affine, Normalization

D, F, K = 12, 40, 5
SITE = "blocks.1.hook_resid_post"
MODELS = ("org/base", "org/tuned", "org/other")
MEANS = (3.0, -2.0, 0.5)  # of the activations of each source
SPREADS = (2.0, 0.7, 5.0)


def activations(n_sources: int = 1, *, n: int = 200, seed: int = 0, size: float = 1.0) -> Tensor:
    """Flat activations ``x[n, M · D]``: sources and dimensions of their own means and spreads."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.rand(n_sources, D, generator=torch.Generator().manual_seed(7)) + 0.3
    noise = torch.randn(n, n_sources, D, generator=generator) * spread
    scaled = noise * torch.tensor(SPREADS[:n_sources])[:, None]
    shifted = scaled + torch.tensor(MEANS[:n_sources])[:, None]
    return size * shifted.reshape(n, n_sources * D)


def normalization_of(kind: str, x: Tensor, n_sources: int, target: float) -> Normalization:
    """The normalisation that training would fit to ``x[n, M · D]``."""
    sources = x.reshape(len(x), n_sources, D)
    mean, std = sources.mean(0), sources.std(0, correction=0)
    if kind == "none":
        return Normalization()
    if kind == "scale":
        factor = D**0.5 / sources.norm(dim=-1).mean(0)
        return Affine(factor.repeat_interleave(D))
    if kind == "centre":
        factor = target / std.square().sum(-1).sqrt()
        return Affine(factor.repeat_interleave(D), mean.reshape(-1))
    return Affine((target / D**0.5 / std).reshape(-1), mean.reshape(-1))


def dictionary(
    n_sources: int = 1,
    normalization: str = "scale",
    *,
    sites: bool = False,
    difference: str | None = None,
    dtype: str = "float32",
    subtracts: bool = True,
    seed: int = 0,
    size: float = 1.0,
    target: float = 10.0,
) -> SAE:
    """One with BatchTopK's thresholds, about a quarter of its latents active on :func:`activations`."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    width, stored = n_sources * D, getattr(torch, dtype)
    x = activations(n_sources, n=500, seed=1, size=size)
    norm = normalization_of(normalization, x, n_sources, target)
    W_enc = (random(width, F) * width**-0.5).to(stored).float()
    lengths = torch.rand(F, n_sources, 1, generator=generator) + 0.2
    rows = random(F, n_sources, D) * lengths if n_sources > 1 else random(F, 1, D)
    if n_sources == 1:
        rows = rows / rows.norm(dim=-1, keepdim=True)
    W_dec = rows.reshape(F, width).to(stored).float()
    b_enc, b_dec = random(F) * 0.3, random(width) * 0.3
    h = norm(x)
    pre = (h - b_dec if subtracts else h) @ W_enc + b_enc
    norms = W_dec.reshape(F, n_sources, D).norm(dim=-1).sum(-1)
    ranked = norms if n_sources > 1 else torch.ones(F)
    theta = (pre * ranked).flatten().quantile(0.75).clamp_min(0.01)
    source = {"sites": tuple(f"blocks.{i}.hook_resid_post" for i in range(n_sources))}
    source = source if sites else {"site": SITE}
    models = MODELS[: 2 if difference else n_sources]
    cfg = SAEConfig(
        architecture="batchtopk",
        d_in=D,
        d_sae=F,
        d_out=D,
        k=K,
        n_sources=n_sources,
        n_targets=n_sources,
        model=MODELS[0],
        models=models if difference or (n_sources > 1 and not sites) else (),
        difference=difference,
        dtype=dtype,
        normalization=norm.name,
        format="saebench",
        **source,
    )
    kind = Crosscoder if n_sources > 1 else SAE
    return kind(
        cfg,
        JumpReLU(theta / ranked),
        W_enc=W_enc,
        W_dec=W_dec,
        b_enc=b_enc,
        b_dec=b_dec,
        b_in=b_dec if subtracts else None,
        normalization=norm,
    ).eval()
