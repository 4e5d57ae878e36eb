"""A dictionary whose active latents get something added before they are decoded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from saebench.activations import Activation
from saebench.codes import SparseCodes
from saebench.sae.config import SAEConfig
from saebench.sae.model import SAE


class LatentBiasSAE(SAE):
    """``x̂_t = n⁻¹(Σ_{i: f_i > 0} (f_i + c_it) W_dec_it + b_dec_t)``: a bias per active latent and target.

    Codes are those before the bias, so that they mean the same for every target. The other parts
    are as in :class:`SAE`; ``latent_bias`` is ``c[d_sae, n_targets]``, in units of the codes. Source:
    the post-encoder bias of EleutherAI's clt-training.
    """

    latent_bias: Tensor

    def __init__(
        self, cfg: SAEConfig, activation: Activation, *, latent_bias: Tensor, **parts: Any
    ) -> None:
        super().__init__(cfg, activation, **parts)
        self.register_buffer("latent_bias", latent_bias)

    def decode(self, f: Tensor, x: Tensor | None = None) -> Tensor:
        """Reconstruction of codes ``f[..., d_sae]``, as :meth:`SAE.decode`."""
        active = (f > 0).reshape(-1, self.cfg.d_sae).to(self.dtype)
        blocks = self.W_dec.reshape(self.cfg.d_sae, self.cfg.n_targets, -1)
        added = [
            (active * self.latent_bias[:, t]) @ blocks[:, t] for t in range(self.cfg.n_targets)
        ]
        total = self._unflatten(self._in_units(torch.cat(added, -1)), tuple(f.shape[:-1]))
        return super().decode(f, x) + total

    def decode_codes(self, codes: SparseCodes, x: Tensor | None = None) -> Tensor:
        """Reconstruction ``x̂[n, width_out]`` of sparse codes, as :meth:`SAE.decode_codes`."""
        count = self.cfg.n_targets
        rows = self.W_dec.reshape(self.cfg.d_sae * count, -1)  # row i · n_targets + t: no copy
        places, positive = codes.indices.long(), (codes.values > 0).to(self.dtype)
        added = [
            F.embedding_bag(
                places * count + t,
                rows,
                codes.offsets.long(),
                mode="sum",
                per_sample_weights=positive * self.latent_bias[places, t],
                include_last_offset=True,
            )
            for t in range(count)
        ]
        return super().decode_codes(codes, x) + self._in_units(torch.cat(added, -1))

    def _in_units(self, added: Tensor) -> Tensor:
        """What is added, ``[n, width_out]``, in the units of activations (no offset belongs to it)."""
        return self.normalization.directions(added) if self.cfg.undo_normalization else added
