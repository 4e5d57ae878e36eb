"""Made-up shifts of latents with known causes, and the tables that tests correlate."""

from __future__ import annotations

import numpy as np

from saebench.causal.probes import Probes, Shifts
from saebench.causal.table import Table


def probes_of(n_probes: list[int], seed: int = 0) -> Probes:
    """Probes of latents 0, 1 … with log-normal codes, one per sequence."""
    generator = np.random.default_rng(seed)
    latent = np.repeat(np.arange(len(n_probes)), n_probes)
    sequence = np.concatenate([generator.permutation(500)[:n] for n in n_probes])
    return Probes.of(
        latent,
        sequence,
        generator.integers(1, 9, len(latent)),
        generator.lognormal(0, 0.7, len(latent)),
    )


def independent(probes: Probes, seed: int = 0) -> Shifts:
    """Shifts ``f² · q`` with context factors ``q`` that no two arms or models share."""
    generator = np.random.default_rng(seed)

    def drawn() -> np.ndarray:
        return probes.code**2 * generator.lognormal(-3, 1, len(probes))

    def shifts() -> dict[str, dict[int, np.ndarray]]:
        return {
            "latent": {0: drawn(), 1: drawn()},
            "random": {0: drawn(), 1: drawn()},
            "mismatched": {0: drawn(), 1: drawn()},
        }

    cosine = generator.uniform(-1, 1, len(probes))
    return Shifts(shifts(), shifts(), {"latent": cosine, "random": cosine / 2, "mismatched": None})


def with_arm(shifts: Shifts, arm: str, model: int, values: np.ndarray) -> Shifts:
    """The same with other forward shifts of one arm in one model."""
    kl = {name: dict(models) for name, models in shifts.kl.items()}
    kl[arm][model] = values
    return Shifts(kl, shifts.kl_reverse, shifts.logit_cosine)


def table_of(probes: Probes, shifts: Shifts, n: int) -> Table:
    return Table.of(np.arange(n), probes, shifts)
