"""Which model a latent of a crosscoder belongs to, by the norms of its two decoder directions.

With ``a = ‖d^base‖`` and ``b = ‖d^chat‖`` of a latent, three statistics are in use:

    relative_norm   b / (a + b)                      Lindsey et al. 2024; shared from .3 to .7 (ckkissane)
    delta_norm      ½ (1 + (b − a) / max(a, b))      Minder et al. 2025 (arXiv 2504.02922)
    dec_norm_diff   ½ (1 + (a − b) / max(a, b))      1 − delta_norm, as the diffing toolkit stores it

Norms are in units of activations: what a checkpoint divides each model's activations by changes all three.
A latent that never fired is dead, whatever its norms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from saebench.errors import ConfigError

Floats = npt.NDArray[np.float64]
Names = npt.NDArray[np.str_]
CutOffs = Literal["delta_norm", "dec_norm_diff", "relative_norm"]

SHARED, BASE_ONLY, CHAT_ONLY, OTHER, DEAD = "shared", "base_only", "chat_only", "other", "dead"
CLASSES = (SHARED, BASE_ONLY, CHAT_ONLY, OTHER, DEAD)
# A statistic this close to a cut-off is on it: norms of float32 rows are known to about this much.
ROUNDING = 1e-6

RULES: dict[str, str] = {
    "delta_norm": "Δ_norm ≤ 0.1 base only, ≥ 0.9 chat only, 0.4 to 0.6 shared, bounds included",
    "dec_norm_diff": "dec_norm_diff < 0.1 chat only, > 0.9 base only, |x − 0.5| < 0.1 shared",
    "relative_norm": "relative norm 0.3 to 0.7 shared, bounds included; no other class is defined",
}


def relative_norm(norms: Tensor | Floats) -> Floats:
    """``b / (a + b)`` of ``norms[d_sae, 2]`` (base, chat), ``[d_sae]``; not a number where both are 0."""
    a, b = _two(norms)
    return _over(b, a + b)


def delta_norm(norms: Tensor | Floats) -> Floats:
    """``½ (1 + (b − a) / max(a, b))`` of ``norms[d_sae, 2]``: 1 for chat only, 0 for base only.

    Not a number where both norms are 0. Source: Minder et al. 2025 (arXiv 2504.02922).
    """
    a, b = _two(norms)
    return 0.5 * (1 + _over(b - a, np.maximum(a, b)))


def dec_norm_diff(norms: Tensor | Floats) -> Floats:
    """``½ (1 + (a − b) / max(a, b))`` of ``norms[d_sae, 2]``: 0 for chat only, 1 for base only."""
    a, b = _two(norms)
    return 0.5 * (1 + _over(a - b, np.maximum(a, b)))


def classify(
    norms: Tensor | Floats, fired: Tensor | npt.NDArray[np.bool_], cut_offs: CutOffs = "delta_norm"
) -> Names:
    """The class of each latent by ``norms[d_sae, 2]`` (base, chat) and whether it ``fired[d_sae]``.

    One of ``shared``, ``base_only``, ``chat_only``, ``other`` and ``dead``. ``cut_offs`` names one of
    :data:`RULES`. Raises :class:`ConfigError` for another name or other shapes.
    """
    names = _by_norm(norms, cut_offs)
    alive = _plain(fired).astype(bool)
    if alive.shape != names.shape:
        raise ConfigError(
            f"one flag for each of {names.shape[0]:,} latents",
            f"flags of shape {list(alive.shape)}",
            "Say of each latent whether it fired.",
        )
    return np.where(alive, names, DEAD)


def counts(names: Names) -> dict[str, int]:
    """How many latents each class has, all five named; they add up to ``d_sae``."""
    return {name: int((names == name).sum()) for name in CLASSES}


def _by_norm(norms: Tensor | Floats, cut_offs: str) -> Names:
    """The classes as if every latent had fired; ``other`` where both norms are 0."""
    rules: dict[str, Callable[[], tuple[Any, Any, Any]]] = {
        "delta_norm": lambda: _inclusive(delta_norm(norms)),
        "dec_norm_diff": lambda: _exclusive(dec_norm_diff(norms)),
        "relative_norm": lambda: _band(relative_norm(norms)),
    }
    if cut_offs not in rules:
        raise ConfigError(
            f"cut-offs by one of {', '.join(rules)}", repr(cut_offs), "Name one of them."
        )
    shared, base_only, chat_only = rules[cut_offs]()
    return np.select([shared, base_only, chat_only], [SHARED, BASE_ONLY, CHAT_ONLY], OTHER)


def _inclusive(x: Floats) -> tuple[Any, Any, Any]:
    shared = (x >= 0.4 - ROUNDING) & (x <= 0.6 + ROUNDING)
    return shared, x <= 0.1 + ROUNDING, x >= 0.9 - ROUNDING


def _exclusive(x: Floats) -> tuple[Any, Any, Any]:
    return np.abs(x - 0.5) < 0.1 - ROUNDING, x > 0.9 + ROUNDING, x < 0.1 - ROUNDING


def _band(x: Floats) -> tuple[Any, Any, Any]:
    nobody = np.zeros(x.shape, dtype=bool)
    return (x >= 0.3 - ROUNDING) & (x <= 0.7 + ROUNDING), nobody, nobody


def _two(norms: Tensor | Floats) -> tuple[Floats, Floats]:
    found = _plain(norms).astype(np.float64)
    if found.ndim != 2 or found.shape[1] != 2:
        raise ConfigError(
            "decoder norms [d_sae, 2], of the base and of the chat model",
            f"shape {list(found.shape)}",
            "Classes are defined for crosscoders over two models.",
        )
    return found[:, 0], found[:, 1]


def _plain(values: Any) -> npt.NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _over(numerator: Floats, denominator: Floats) -> Floats:
    """``numerator / denominator``, not a number where the denominator is 0."""
    out = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator > 0)
