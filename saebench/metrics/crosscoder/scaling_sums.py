"""Sums that latent scaling needs of each batch: one dot product per active entry, model and target."""

from __future__ import annotations

import torch
from torch import Tensor

from saebench.codes import SparseCodes
from saebench.metrics.crosscoder.geometry import LatentDirections
from saebench.metrics.sums import check_alike, group_of, wide

N_BLOCKS = 16  # of sequences: what medians over latents are resampled by
NAMES = ("firings", "sums", "squares", "dot", "random_dot")


class ScalingSums:
    """Sums per latent of one crosscoder, float64, of batches in any order.

    In blocks of sequences (``sequence_id % 16``): ``squares[B, d_sae]`` is ``Σ f²``, ``dot[m, t, B, d_sae]``
    is ``Σ f (Y · d_j)`` of model ``m`` for the activation (``t = 0``) and for ``x − x̂`` (``t = 1``), along
    the latent's own chat direction. Of all sequences: ``firings[d_sae]``, ``sums[d_sae]`` (``Σ f``), and
    ``random_dot[m, d_sae]``, that of ``x − x̂`` along a random unit direction.
    """

    def __init__(
        self,
        directions: LatentDirections,
        device: torch.device | str = "cpu",
        blocks: int = N_BLOCKS,
    ) -> None:
        self.directions = directions
        self.d_sae, self.n_blocks = directions.sae.cfg.d_sae, blocks
        wanted = torch.device(device)
        at = torch.device("cpu") if wanted.type == "mps" else wanted  # float64

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, self.d_sae, dtype=torch.float64, device=at)

        self.firings, self.sums, self.squares = zeros().long(), zeros(), zeros(blocks)
        self.dot, self.random_dot = zeros(2, 2, blocks), zeros(2)

    @torch.inference_mode()
    def update(self, codes: SparseCodes, x: Tensor, x_hat: Tensor, sequence_ids: Tensor) -> None:
        """Take in tokens ``[n]``: codes, ``x`` and ``x_hat[n, 2 d]``, base and chat side by side."""
        at, rows, latents = self.sums.device, codes.rows(), codes.indices.long()
        values, own = wide(codes.values).to(at), latents.to(at)
        self.firings.index_add_(0, own, torch.ones_like(own))
        self.sums.index_add_(0, own, values)
        blocks = group_of(sequence_ids, self.n_blocks)[rows].to(at)
        places = blocks * self.d_sae + own
        self.squares.view(-1).index_add_(0, places, values.square())
        activation = x.float()
        error = activation - x_hat.float()
        for target, y in enumerate((activation, error)):
            for model, part in enumerate(y.unflatten(1, (2, -1)).unbind(1)):
                dots = wide(self.directions.along_chat(part, codes, rows)).to(at)
                self.dot[model, target].view(-1).index_add_(0, places, values * dots)
        random = self.directions.random.to(error.device)
        projected = error.unflatten(1, (2, -1)) @ random.T  # [n, 2, number of directions]
        for model in range(2):
            dots = wide(projected[:, model][rows, latents % random.shape[0]]).to(at)
            self.random_dot[model].index_add_(0, own, values * dots)

    @torch.inference_mode()
    def merge(self, other: ScalingSums) -> None:
        """Add another shard's sums; raises :class:`ConfigError` where d_sae differs."""
        check_alike("d_sae", self.d_sae, other.d_sae)
        for name in NAMES:
            getattr(self, name).add_(getattr(other, name).to(self.sums.device))
