"""What latents are set against: random directions of equal norm, and other latents of the same class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from saebench.causal.correlations import Bools, Floats
from saebench.causal.table import Ints


def random_units(n: int, width: int, seed: int) -> Floats:
    """``[n, width]``: directions drawn uniformly from the unit sphere."""
    drawn = np.random.default_rng([seed, 0]).standard_normal((n, width))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def partners(
    latents: Ints, classes: Sequence[str], candidates: Mapping[str, Ints], seed: int
) -> tuple[Ints, Bools]:
    """Another latent of the same class for each: ``(partner[n], found[n])``.

    ``candidates`` are by class the latents that may serve. Drawn independently and uniformly among those
    that are not the latent itself; where there is none the partner is the latent itself and not found.
    """
    generator = np.random.default_rng([seed, 1])
    partner, found = latents.copy(), np.zeros(len(latents), dtype=bool)
    names = np.asarray(classes)
    for name in sorted(set(classes)):
        mine = np.flatnonzero(names == name)
        pool = np.unique(candidates.get(name, np.zeros(0, dtype=np.int64)))
        place = np.searchsorted(pool, latents[mine])
        inside = (
            (place < len(pool)) & (pool[np.minimum(place, len(pool) - 1)] == latents[mine])
            if len(pool)
            else np.zeros(len(mine), dtype=bool)
        )
        others = len(pool) - inside
        drawn = np.floor(generator.random(len(mine)) * others).astype(np.int64)
        drawn = drawn + (inside & (drawn >= place))  # steps over the latent itself
        chosen = others > 0
        partner[mine[chosen]] = pool[drawn[chosen]]
        found[mine[chosen]] = True
    return partner, found
