"""Correlations of many short rows at once: ordinary, of ranks, and with covariates taken out.

Rows are padded: ``x[L, P]`` holds one latent's probes a row, and ``there[L, P]`` (bool) says which places
hold one. A correlation that is not defined is not a number, never 0. Equal rows correlate exactly 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

CONSTANT = 1e-12  # relative: a spread below it is rounding, not variation
EXPLAINED = 1e-9  # relative: what is left of a row that its covariates determine
COLLINEAR = 1e-7  # relative: what is left of a covariate that the ones before it determine


def pearson(a: Floats, b: Floats, there: Bools) -> Floats:
    """Pearson's r of each row, ``[L]``; not a number where one side does not vary, or below two places.

    With z the rows centred and scaled to norm 1, ``r = 1 − ½‖z_a − z_b‖²``, or ``½‖z_a + z_b‖² − 1`` where
    that is negative: exactly 1 for equal rows, and accurate near both ends.
    """
    za, zb = standardised(a, there), standardised(b, there)
    near = 1 - 0.5 * ((za - zb) ** 2).sum(-1)
    far = 0.5 * ((za + zb) ** 2).sum(-1) - 1
    return np.where((za * zb).sum(-1) < 0, far, near)


def spearman(a: Floats, b: Floats, there: Bools) -> Floats:
    """Spearman's ρ of each row, ``[L]``: Pearson's r of the ranks, ties sharing theirs."""
    return pearson(ranks(a, there), ranks(b, there), there)


def partial(a: Floats, b: Floats, covariates: Sequence[Floats], there: Bools) -> Floats:
    """Pearson's r of what is left of ``a`` and ``b`` after regression on the covariates and a constant.

    ``[L]``; not a number where nothing is left, or with fewer than three places more than covariates.
    """
    basis = orthonormal(covariates, there)
    left_a, left_b = (residuals(side, basis, there) for side in (a, b))
    found = pearson(left_a, left_b, there)
    return np.where(there.sum(-1) >= len(covariates) + 3, found, np.nan)


def partial_spearman(a: Floats, b: Floats, covariate: Floats, there: Bools) -> Floats:
    """:func:`partial` of the ranks of all three, ``[L]``."""
    return partial(ranks(a, there), ranks(b, there), [ranks(covariate, there)], there)


def ranks(x: Floats, there: Bools) -> Floats:
    """Ranks from 1 within each row, ties sharing their mean; 0 where nothing is there."""
    found = rankdata(np.where(there, x, np.inf), axis=-1)
    return np.where(there, found, 0.0)


def varies(x: Floats, there: Bools) -> Bools:
    """Whether the values of each row differ by more than rounding, ``[L]``."""
    low = np.where(there, x, np.inf).min(-1, initial=np.inf)
    high = np.where(there, x, -np.inf).max(-1, initial=-np.inf)
    largest = np.where(there, np.abs(x), 0.0).max(-1, initial=0.0)
    with np.errstate(invalid="ignore"):
        return (high - low > CONSTANT * largest) & (there.sum(-1) >= 2)


def standardised(x: Floats, there: Bools) -> Floats:
    """Rows less their mean, at norm 1, 0 where nothing is there; not a number where they do not vary."""
    moved = centred(x, there)
    norm = np.sqrt((moved**2).sum(-1, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = moved / norm
    return np.where(varies(x, there)[..., None] & (norm > 0), found, np.nan)


def centred(x: Floats, there: Bools) -> Floats:
    """Rows less their mean, 0 where nothing is there, in units of their largest absolute value."""
    x = np.where(there, x, 0.0)
    largest = np.abs(x).max(-1, keepdims=True, initial=0.0)
    scaled = x / np.where(largest > 0, largest, 1.0)
    mean = scaled.sum(-1, keepdims=True) / np.maximum(there.sum(-1, keepdims=True), 1)
    return np.where(there, scaled - mean, 0.0)


def orthonormal(covariates: Sequence[Floats], there: Bools) -> list[Floats]:
    """The covariates centred and made orthonormal row by row; 0 where one adds nothing."""
    basis: list[Floats] = []
    for covariate in covariates:
        row = np.nan_to_num(standardised(covariate, there))
        left = _without(row, basis)
        norm = np.sqrt((left**2).sum(-1, keepdims=True))
        basis.append(np.where(norm > COLLINEAR, left / np.where(norm > 0, norm, 1.0), 0.0))
    return basis


def residuals(x: Floats, basis: Sequence[Floats], there: Bools) -> Floats:
    """What is left of centred rows after projection on an orthonormal basis; 0 where that is nothing."""
    whole = centred(x, there)
    left = _without(whole, basis)
    kept = np.sqrt((left**2).sum(-1)) > EXPLAINED * np.sqrt((whole**2).sum(-1))
    return np.where(kept[..., None], left, 0.0)


def _without(x: Floats, basis: Sequence[Floats]) -> Floats:
    """Rows less their part along the basis; twice, since the first leaves rounding behind."""
    for _ in range(2):
        for axis in basis:
            x = x - (x * axis).sum(-1, keepdims=True) * axis
    return x
