"""Which latents are ablated: all of the main class that fired often enough, or a random sample; controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saebench.protocols import CausalProtocol

DEAD, ALL, SHARED = "dead", "all", "shared"
Names = npt.NDArray[np.str_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Selection:
    """``latents[L]``, in ascending order, and for each class how many of how many were taken."""

    latents: Ints
    classes: tuple[dict[str, Any], ...]


def select(
    names: Names, n_sequences: Ints, asked: CausalProtocol, main: str, order: Sequence[str]
) -> Selection:
    """The latents to ablate, by class ``names[d_sae]`` and in how many sequences each fired.

    A latent needs ``min_probes`` sequences. Of the class ``main`` at most ``max_latents`` are taken, of every
    other class in ``order`` at most ``n_controls``, each drawn at random without repetition where there are
    more. The draw of a class depends on the seed and on the latents of that class alone.
    """
    chosen, said = [], []
    for place, name in enumerate(order):
        mine = names == name
        enough = np.flatnonzero(mine & (n_sequences >= asked.min_probes))
        most = asked.max_latents if name == main else asked.n_controls
        taken = enough
        if len(enough) > most:
            generator = np.random.default_rng([asked.seed, 3, place])
            taken = generator.choice(enough, most, replace=False)
        chosen.append(taken)
        said.append(
            {
                "class": name,
                "n": int(mine.sum()),
                "n_enough": len(enough),
                "n_tested": len(taken),
            }
        )
    said.append({"class": DEAD, "n": int((names == DEAD).sum()), "n_enough": 0, "n_tested": 0})
    found = np.sort(np.concatenate([*chosen, np.zeros(0, dtype=np.int64)]).astype(np.int64))
    return Selection(found, tuple(said))
