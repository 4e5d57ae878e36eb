"""Which checkpoints have latents to ablate, where, and along which directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saebench.causal import Encode
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

    ``sites`` are by number of the model; one of them, or two (base and chat). ``reads_whole`` says whether
    it reads activations from which nothing was taken: no other model's, and not their mean.
    """

    sae: SAE
    sites: dict[int, Site]
    reads_whole: bool

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
        return cls(sae, sites, all(reading.is_whole for reading in subject.reads))

    @property
    def models(self) -> list[int]:
        """The models ablated, in order of the targets."""
        return list(self.sites)

    @property
    def encode(self) -> Encode | None:
        """Codes again from activations of the models ablated; None where those are not all it takes.

        They are not for differences and centred activations, nor while something has to be estimated.
        """
        return self._codes if self.reads_whole and not self.sae.pending else None

    def _codes(self, activations: Mapping[int, Tensor], latents: np.ndarray) -> Tensor:
        """The code of latent ``latents[n]`` at each token of ``activations[model][n, d]``, ``[n]``."""
        sides = [activations[model].to(self.sae.device).float() for model in self.models]
        codes = self.sae.codes(torch.cat(sides, -1))
        rows = codes.rows()
        wanted = torch.from_numpy(latents).to(codes.indices.device)
        mine = codes.indices == wanted[rows]
        found = codes.values.new_zeros(codes.n_tokens)
        found[rows[mine]] = codes.values[mine]
        return found

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
