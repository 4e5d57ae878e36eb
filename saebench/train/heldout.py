"""Held-out figures: one fixed set of activations for every measurement of a run."""

from __future__ import annotations

import torch
from torch import Tensor

from saebench.sae import SAE

ROWS = 4096  # rows in float64 at a time


class HeldOut:
    """Activations ``x[n, d_in]`` that are never trained on, kept on the device of the SAEs."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        mean = torch.stack([rows.double().sum(0) for rows in x.split(ROWS)]).sum(0) / max(len(x), 1)
        self._total = sum(float((rows.double() - mean).square().sum()) for rows in x.split(ROWS))

    @torch.no_grad()
    def measure(self, sae: SAE) -> dict[str, float | None]:
        """``fve`` = 1 − Σ‖x − x̂‖² / Σ‖x − x̄‖² over all tokens (float64), and the mean ``l0``.

        ``fve`` is None where the activations do not vary.
        """
        error = active = 0.0
        for rows in self.x.split(ROWS):
            codes, reconstruction = sae.reconstruct(rows)
            error += float((rows.double() - reconstruction.double()).square().sum())
            active += float(codes.counts().sum())
        fve = 1 - error / self._total if self._total else None
        return {"fve": fve, "l0": active / max(len(self.x), 1)}
