"""Which checkpoints have latents to ablate, where, and along which directions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saebench.errors import CheckpointError
from saebench.passes import Subject
from saebench.sae import SAE, Dictionary
from saebench.sae.headwise import HeadwiseCrosscoder
from saebench.sae.latent_bias import LatentBiasSAE
from saebench.sites import Site

NEXT = "Ablate latents of an SAE, of a difference SAE, or of a crosscoder over two models."


@dataclass(frozen=True)
class Ablated:
    """A checkpoint whose latents can be ablated: the site of each model, in order of the targets.

    ``sites`` are by number of the model; one of them, or two (base and chat).
    """

    sae: SAE
    sites: dict[int, Site]

    @classmethod
    def of(cls, subject: Subject) -> Ablated:
        """The checkpoint of a subject; raises :class:`CheckpointError` where ablation is not defined for it.

        A latent of a difference SAE is ablated in the model that the other is subtracted from.
        """
        sae = _linear(subject.sae)
        if subject.reads != subject.writes:
            raise _unfit("it reads one activation and writes another")
        sites = {reading.model: reading.site for reading in subject.reads}
        if len(subject.reads) > 2:
            raise _unfit(f"it reads {len(subject.reads)} activations")
        if len(sites) != len(subject.reads):
            raise _unfit(
                "it reads several activations of one model, which one ablation cannot split"
            )
        return cls(sae, sites)

    @property
    def models(self) -> list[int]:
        """The models ablated, in order of the targets."""
        return list(self.sites)

    def directions(self, latents: Tensor) -> dict[int, Tensor]:
        """``[n, d]`` for each model: what a code of 1 adds to the reconstruction, activation units."""
        sae = self.sae
        rows = sae.W_dec[latents.to(sae.device)]
        if sae.latent_scale is not None:
            scale = sae.latent_scale[latents.to(sae.device)]
            rows = rows / scale.masked_fill(scale == 0, 1)[:, None]
        if sae.cfg.undo_normalization:
            rows = sae.normalization.directions(rows)
        parts = rows.float().split(sae.cfg.d_out, -1)
        return dict(zip(self.models, parts, strict=True))


def _linear(sae: Dictionary) -> SAE:
    """The checkpoint, if a code adds a fixed direction whatever the token and the other codes."""
    gated = isinstance(sae, HeadwiseCrosscoder)
    if not isinstance(sae, SAE) or isinstance(sae, LatentBiasSAE) or gated or sae.needs_sequences:
        raise _unfit(f"a {type(sae).__name__}, whose reconstruction is not linear in its codes")
    if sae.normalization.needs_input and sae.cfg.undo_normalization:
        raise _unfit(
            f"{sae.cfg.normalization} inputs: what a code adds differs from token to token"
        )
    return sae


def _unfit(found: str) -> CheckpointError:
    return CheckpointError("latents that can be ablated one at a time", found, NEXT)


def cosines(directions: dict[int, Tensor]) -> Tensor:
    """Cosine of the rows of two models, ``[n]`` float64; NaN where one of them is 0."""
    a, b = (rows.double() for rows in directions.values())
    norms = a.norm(dim=-1) * b.norm(dim=-1)
    found = (a * b).sum(-1) / norms
    return torch.where(norms > 0, found.clamp(-1, 1), torch.nan)
