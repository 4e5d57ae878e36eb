"""Latent scaling: how much of a latent's chat direction each model holds when the latent fires.

For a target ``Y[n, d]`` the scaling of latent ``j`` is the least-squares solution

    β_j = argmin_β Σ_i ‖Y_i − β f_ij d_j‖² = d_j · (Σ_i f_ij Y_i) / (‖d_j‖² Σ_i f_ij²)

with ``d_j`` the decoder row of the *chat* model for targets of both models, in activation units. Targets
are the activation, the same without the decoder's bias, the reconstruction ``x̂``, and the *error* as it is
without latent ``j``: ``x − x̂ + f_j d_j^m``. Source: Minder et al. 2025 (arXiv 2504.02922).

Per latent only ``Σ f²``, the firings and ``Σ f (Y · d_j)`` of the activation and of ``x − x̂`` of each model
are kept, in a few blocks of sequences; the other targets follow from those. Sums run over active entries:
nothing is ``[n, d_sae]``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from saebench.metrics.crosscoder.geometry import CHAT, Geometry
from saebench.metrics.crosscoder.scaling_sums import ScalingSums

Floats = npt.NDArray[np.float64]

TARGETS = ("activation", "activation_no_bias", "reconstruction", "error")


@dataclass(frozen=True)
class Scalings:
    """``β`` by target, ``[2, d_sae]`` (base, chat), not a number where undefined.

    ``random`` is the ``β`` of the error along a random direction as long as the latent's chat direction.
    ``why`` says of each latent why it has none, or is empty: :data:`REASONS`.
    """

    beta: dict[str, Floats]
    random: Floats
    why: npt.NDArray[np.str_]

    def ratio(self, target: str) -> Floats:
        """``ν = β(base) / β(chat)`` of a target, ``[d_sae]``; not a number where undefined."""
        return over(*self.beta[target])


REASONS = {
    "never_fired": "it never fired",
    "few_firings": "it fired on too few tokens",
    "no_chat_direction": "it has no direction in the chat model",
}


def scalings(sums: ScalingSums, geometry: Geometry, min_firings: int) -> Scalings:
    """Solve for ``β`` of every target; latents that fired on fewer than ``min_firings`` tokens have none."""
    f2, f1 = sums.squares.sum(0).cpu().numpy(), sums.sums.cpu().numpy()
    firings = sums.firings.cpu().numpy()
    dot, random_dot = sums.dot.sum(2).cpu().numpy(), sums.random_dot.cpu().numpy()
    why = np.select(
        [f2 == 0, firings < min_firings, geometry.norms[:, CHAT] == 0], list(REASONS), ""
    )
    chat_square = geometry.norms[:, CHAT] ** 2
    numerators = {
        "activation": dot[:, 0],
        "activation_no_bias": dot[:, 0] - f1 * geometry.bias,
        "reconstruction": dot[:, 0] - dot[:, 1],
        "error": dot[:, 1] + f2 * geometry.along,
    }
    beta = {name: solve(numerators[name], f2, chat_square, why == "") for name in TARGETS}
    # along r ‖d‖ with a unit r both the numerator and ‖d‖² are ‖d‖ times those along r
    random = random_dot + f2 * geometry.random_along
    return Scalings(beta, solve(random, f2, geometry.norms[:, CHAT], why == ""), why)


def without_each_block(
    sums: ScalingSums, geometry: Geometry, latents: npt.NDArray[np.int64]
) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """``ν^ε`` and ``ν^r`` of ``latents[n]`` had one block of sequences not been read, ``[present, n]`` each.

    The third is where both scalings are above 0 in the chat model. Blocks are those of
    :func:`present_blocks`.
    """
    present, at = torch.from_numpy(present_blocks(sums)), torch.from_numpy(latents)
    squares = sums.squares.cpu()[present][:, at].numpy()
    dot = sums.dot.cpu()[..., at][:, :, present].numpy()
    # a product, not a difference: a latent that fires in no other block sums to exactly 0
    rest = 1 - np.eye(len(present))
    activation, missed = (rest @ dot[:, place] for place in (0, 1))
    error = missed + (rest @ squares) * geometry.along[:, None, latents]
    written = activation - missed
    return over(*error), over(*written), (error[CHAT] > 0) & (written[CHAT] > 0)


def present_blocks(sums: ScalingSums) -> npt.NDArray[np.int64]:
    """The blocks of sequences in which any latent fired, ascending."""
    return np.flatnonzero(sums.squares.sum(1).cpu().numpy() > 0)


def over(base: Floats, chat: Floats) -> Floats:
    """``base / chat``, not a number where ``chat`` is 0 or not a number itself."""
    known = np.isfinite(chat) & (chat != 0)
    return np.divide(base, chat, out=np.full(base.shape, np.nan), where=known)


def solve(dot: Floats, squares: Floats, direction: Floats, known: npt.NDArray[np.bool_]) -> Floats:
    """``β = Σ f (Y · d) / (‖d‖² Σ f²)``: ``dot[..., n]`` over ``squares[n]`` and ``direction[n]`` (``‖d‖²``).

    Not a number where not ``known[n]``. Source: the normal equation of the least-squares problem.
    """
    out = np.full(dot.shape, np.nan)
    divisor = np.broadcast_to(squares * direction, dot.shape)
    return np.divide(dot, divisor, out=out, where=np.broadcast_to(known, dot.shape) & (divisor > 0))
