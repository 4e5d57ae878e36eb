"""Shifts of all probes as rows of latents, padded to the same number of probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saebench.causal.correlations import Bools, Floats
from saebench.causal.probes import Probes, Shifts

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """What was measured, a row per latent: ``[L, P]`` arrays, their probes first, NaN after them.

    ``latent[L]`` are numbers of latents in ascending order; ``there[L, P]`` says which places hold a probe,
    ``code`` the latent's code. ``kl`` and ``kl_reverse`` are by arm and model, ``logit_cosine`` by arm,
    nats as :class:`saebench.causal.Shifts` has them. Probes are in the order of their sequences.
    """

    latent: Ints
    there: Bools
    code: Floats
    kl: Mapping[str, Mapping[int, Floats]]
    kl_reverse: Mapping[str, Mapping[int, Floats]]
    logit_cosine: Mapping[str, Floats]

    @classmethod
    def of(cls, latents: npt.ArrayLike, probes: Probes, shifts: Shifts) -> Table:
        """Rows for these latents, those without a probe included; the order of the probes has no effect."""
        wanted = np.unique(np.asarray(latents, dtype=np.int64))
        mine = np.flatnonzero(np.isin(probes.latent, wanted))
        order = np.lexsort((probes.position[mine], probes.sequence[mine], probes.latent[mine]))
        mine = mine[order]
        row = np.searchsorted(wanted, probes.latent[mine])
        n_probes = np.bincount(row, minlength=len(wanted))
        starts = np.concatenate([[0], np.cumsum(n_probes)[:-1]]).astype(np.int64)
        place = np.arange(len(mine)) - starts[row]
        shape = (len(wanted), max(1, int(n_probes.max(initial=0))))

        def rows(values: np.ndarray) -> Floats:
            found = np.full(shape, np.nan)
            found[row, place] = np.asarray(values, dtype=np.float64)[mine]
            return found

        def by_arm(given: Mapping[str, Mapping[int, np.ndarray]]) -> dict[str, dict[int, Floats]]:
            return {
                arm: {model: rows(values) for model, values in models.items()}
                for arm, models in given.items()
            }

        cosines = {arm: rows(v) for arm, v in shifts.logit_cosine.items() if v is not None}
        return cls(
            wanted,
            np.arange(shape[1]) < n_probes[:, None],
            rows(probes.code),
            by_arm(shifts.kl),
            by_arm(shifts.kl_reverse),
            cosines,
        )

    @property
    def n_probes(self) -> Ints:
        """How many probes each latent has, ``[L]``."""
        return self.there.sum(-1).astype(np.int64)


def means(x: Floats, there: Bools) -> Floats:
    """The mean of each row over its probes, ``[L]``; not a number without any, or where one is missing."""
    n = there.sum(-1)
    total = np.where(there, x, 0.0).sum(-1)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)
