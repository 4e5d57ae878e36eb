"""Held-out figures: one fixed set of activations for every measurement of a run."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from saebench.sae import SAE
from saebench.train.columns import Columns

ROWS = 4096  # rows in float64 at a time


class HeldOut:
    """Rows ``[n, W]`` that are never trained on, kept on the device of the SAEs.

    One SAE reads ``columns`` of them (all by default), ``n_sources`` activations side by side.
    """

    def __init__(self, rows: Tensor, columns: Columns | None = None, n_sources: int = 1) -> None:
        self.rows = rows
        self.n_sources = n_sources
        self._columns = columns or Columns.whole(rows.shape[1])
        sums = torch.stack([x.double().sum(0) for x in self._parts()])
        mean = sums.sum(0) / max(len(rows), 1)
        self._totals = [0.0] * n_sources
        for x in self._parts():
            self._add(self._totals, x.double() - mean)

    @torch.no_grad()
    def measure(self, sae: SAE) -> dict[str, float | None]:
        """``fve`` = 1 − Σ‖x − x̂‖² / Σ‖x − x̄‖² over all tokens (float64), and the mean ``l0``.

        In units of the activations. ``fve_0``, ``fve_1`` … are those of each of several sources, of
        which ``fve`` is the mean weighed by their variances. None where the activations do not vary.
        """
        errors, active = [0.0] * self.n_sources, 0.0
        for x in self._parts():
            codes, reconstruction = sae.reconstruct(x)
            self._add(errors, x.double() - reconstruction.double())
            active += float(codes.counts().sum())
        found = {"fve": _explained(sum(errors), sum(self._totals))}
        if self.n_sources > 1:
            pairs = zip(errors, self._totals, strict=True)
            found |= {f"fve_{m}": _explained(*pair) for m, pair in enumerate(pairs)}
        return {**found, "l0": active / max(len(self.rows), 1)}

    def _parts(self) -> Iterator[Tensor]:
        return (self._columns.of(rows) for rows in self.rows.split(ROWS))

    def _add(self, totals: list[float], x: Tensor) -> None:
        """Add to the total of each source the squares of its part of ``x[n, M · d]``."""
        for source, part in enumerate(x.chunk(self.n_sources, 1)):
            totals[source] += float(part.square().sum())


def _explained(error: float, total: float) -> float | None:
    return 1 - error / total if total else None
