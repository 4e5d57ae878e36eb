"""Directions to steer along: a latent's, the decoded difference of mean codes, that of mean activations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse, special
from torch import Tensor

from saebench.concepts import Separation
from saebench.errors import DataError
from saebench.sae import SAE
from saebench.steering.interventions import decoded


def mean_difference(x: np.ndarray, positive: np.ndarray) -> Tensor:
    """Mean of ``x[n, width]`` over the texts where ``positive[n]`` (bool) less that over the others.

    Raises :class:`DataError` where all texts are of one class.
    """
    _check_classes(positive)
    x = np.asarray(x, dtype=np.float64)
    return torch.from_numpy(x[positive].mean(0) - x[~positive].mean(0))


def code_difference(codes: sparse.csr_array, positive: np.ndarray) -> np.ndarray:
    """Mean codes ``[d_sae]`` (float64) of the positive texts less those of the others.

    Raises :class:`DataError` where all texts are of one class.
    """
    _check_classes(positive)
    rows = sparse.csr_array(codes).astype(np.float64)
    return np.asarray(rows[positive].mean(axis=0) - rows[~positive].mean(axis=0)).ravel()


def best_latent(separation: Separation, min_firings: int) -> int:
    """The latent with the Cohen's d furthest from 0 among those that fire on ``min_firings`` texts.

    Raises :class:`DataError` where there is none.
    """
    found = separation.best(min_firings)
    if found is None:
        raise DataError(
            "a latent that tells the classes apart",
            f"none fires on {min_firings} training texts",
            "Give more texts, or lower min_firings in [concepts].",
        )
    return found


def decoded_difference(sae: SAE, codes: sparse.csr_array, positive: np.ndarray) -> Tensor:
    """The decoder's image ``[width]`` of :func:`code_difference`: ``decode(mean₁) − decode(mean₀)``."""
    difference = code_difference(codes, positive)
    latents = np.flatnonzero(difference)
    return decoded(sae, torch.from_numpy(latents), torch.from_numpy(difference[latents]))


@dataclass(frozen=True)
class Cosine:
    """The cosine of two vectors of ``width`` values, and the two-sided p of one as large by chance.

    A random direction has a cosine of mean 0 and standard deviation ``1/√width`` with any fixed one, and
    ``(1 + cosine)/2`` is distributed as Beta((width − 1)/2, (width − 1)/2). ``value`` is None where a
    vector has no length.
    """

    value: float | None
    width: int

    @classmethod
    def of(cls, a: Tensor, b: Tensor) -> Cosine:
        """The cosine of ``a[width]`` and ``b[width]``, in float64."""
        a, b = a.double().cpu(), b.double().cpu()
        norms = float(a.norm() * b.norm())
        found = float(a @ b) / norms if norms > 0 and math.isfinite(norms) else None
        return cls(None if found is None else min(max(found, -1.0), 1.0), a.shape[0])

    @property
    def sd(self) -> float:
        """The standard deviation among random directions."""
        return self.width**-0.5

    @property
    def p(self) -> float | None:
        """How often a random direction has a cosine at least as far from 0."""
        if self.value is None:
            return None
        if self.width == 1:
            return 1.0
        shape = (self.width - 1) / 2
        return float(2 * special.betainc(shape, shape, (1 - abs(self.value)) / 2))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"value": self.value, "width": self.width, "sd_random": self.sd, "p": self.p}


def random_directions(width: int, count: int, seed: int) -> Tensor:
    """``[count, width]`` float32: directions drawn uniformly from the unit sphere."""
    drawn = np.random.default_rng([seed, 0]).standard_normal((count, width))
    return torch.from_numpy(drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).float()


def random_latents(
    codes: sparse.csr_array, count: int, seed: int, *, without: int | None = None
) -> list[int]:
    """At most ``count`` latents that are not zero on some text, drawn without repetition, in order.

    ``codes[n, d_sae]`` are of the texts; the latent ``without`` is left out.
    """
    alive = np.unique(sparse.csr_array(codes).nonzero()[1])
    alive = alive[alive != (-1 if without is None else without)]
    drawn = np.random.default_rng([seed, 1]).choice(alive, min(count, len(alive)), replace=False)
    return sorted(int(latent) for latent in drawn)


def _check_classes(positive: np.ndarray) -> None:
    n, n1 = len(positive), int(np.sum(positive))
    if not 0 < n1 < n:
        raise DataError(
            "texts of two classes",
            f"{n1} of {n} texts are of the positive class",
            "Give texts of both classes, or name another column as label.",
        )
