"""How activations are scaled for training, and how that is undone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saebench.errors import ModelError
from saebench.sae.normalization import Affine
from saebench.train.recipe import DIFFERENCES, Recipe
from saebench.train.start import input_scale

ROWS = 8192  # rows in float64 at a time
FLAT = 1e-6  # of the largest spread, or its own mean: a dimension below it varies by rounding alone


class Inputs:
    """The scaling of ``x[n, M · d]``: one factor for one source, else an :class:`Affine`.

    ``scale`` is that factor, which the finished SAE has folded into its weights; it is 1 where
    ``affine`` is there, which the finished SAE or crosscoder keeps. :meth:`fit` sets either.
    """

    def __init__(self, recipe: Recipe, d_in: int, device: torch.device) -> None:
        self.recipe = recipe
        self.d_in = d_in
        self.scale = 1.0
        self.affine: Affine | None = None
        self.n_rows = 0
        self.figures: list[dict[str, float]] = []
        if recipe.is_crosscoder or recipe.normalization != "scale":
            width = len(recipe.sources) * d_in
            self.affine = Affine(torch.ones(width), torch.zeros(width)).to(device)

    def __call__(self, x: Tensor) -> Tensor:
        """The scaled activations that training sees."""
        return x * self.scale if self.affine is None else self.affine(x)

    @torch.no_grad()
    def fit(self, sample: Tensor) -> None:
        """Take the factors from activations ``sample[n, M · d]``, those of each source from it alone.

        Raises :class:`ModelError` for a difference that is zero everywhere.
        """
        self.n_rows = len(sample)
        sources = sample.split(self.d_in, 1)
        if self.recipe.reads in DIFFERENCES and not bool(sample.any()):
            raise ModelError(
                f"two models that differ at {self.recipe.site}",
                f"a difference of exactly zero on all of the first {len(sample):,} activations",
                "Give the base model and the fine-tuned one.",
            )
        if self.recipe.normalization == "scale":
            factors = [input_scale(source) for source in sources]
            self.figures = [{"factor": factor} for factor in factors]
            if self.affine is None:
                self.scale = factors[0]
                return
            scales = [torch.full((self.d_in,), factor) for factor in factors]
            shifts = [torch.zeros(self.d_in)] * len(sources)
        else:
            fitted = [self._moments(source) for source in sources]
            shifts, scales = [mean for mean, _ in fitted], [scale for _, scale in fitted]
        self.affine = Affine(torch.cat(scales).float(), torch.cat(shifts).float()).to(sample.device)

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``[d]`` and factors ``[d]`` of one source; adds what is worth telling of them."""
        mean = sum(rows.double().sum(0) for rows in x.split(ROWS)) / len(x)
        assert isinstance(mean, Tensor)
        squares = sum((rows.double() - mean).square().sum(0) for rows in x.split(ROWS)) / len(x)
        assert isinstance(squares, Tensor)
        std = squares.sqrt()  # ddof 0
        total = squares.sum().sqrt()
        target = self.recipe.target_rms or self.d_in**0.5
        self.figures.append(
            {
                "norm_of_mean": float(mean.norm()),
                "total_std": float(total),
                "smallest_std": float(std.min()),
                "largest_std": float(std.max()),
                "target_rms": float(target),
            }
        )
        if not float(total):
            return mean, torch.ones_like(std)
        if self.recipe.normalization == "centre":
            return mean, torch.full_like(std, float(target / total))
        varies = std > FLAT * torch.maximum(std.max(), mean.abs())
        spread = torch.where(varies, std, total / self.d_in**0.5)
        return mean, target / self.d_in**0.5 / spread

    def describe(self) -> dict[str, Any]:
        """What was done to the activations and by which figures, source after source."""
        return {
            "kind": self.recipe.normalization,
            "rows": self.n_rows,
            "sources": self.figures,
        }
