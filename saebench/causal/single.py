"""Ablation in one model: how far each latent moves predictions, beside a random direction of equal norm."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from saebench.causal import summary
from saebench.causal.correlations import Bools, Floats
from saebench.causal.equivalence import FEW, LATENT, RANDOM
from saebench.causal.probe_bootstrap import mean_bounds
from saebench.causal.results import Effects, Latents, rounded
from saebench.causal.summary import Estimate
from saebench.causal.table import Table, means

ROW_ZERO = "decoder row is 0: no shift"


@dataclass(frozen=True)
class SingleResult:
    """Everything a record says of latents ablated in the one model ``model``; ``norms`` have one column.

    Latents with fewer than ``min_probes`` probes have no effect.
    """

    latents: Latents
    table: Table
    model: int
    min_probes: int
    n_resamples: int
    seed: int

    @cached_property
    def there(self) -> Bools:
        """The probes of latents that have enough."""
        return self.table.there & (self.table.n_probes >= self.min_probes)[:, None]

    @cached_property
    def effects(self) -> Effects:
        """Mean KL(clean‖ablated) per latent, and of the random direction."""
        own, random = (self.table.kl[arm][self.model] for arm in (LATENT, RANDOM))
        return Effects(means(own, self.there), means(random, self.there))

    @cached_property
    def columns(self) -> dict[str, list[Any]]:
        """A list per column, a place per latent; None where something is undefined."""
        own, random = (self.table.kl[arm][self.model] for arm in (LATENT, RANDOM))
        low, high = mean_bounds(
            own - random, self.there, n_resamples=self.n_resamples, seed=self.seed
        )
        numbers = {
            "latent": self.latents.latent,
            "norm": self.latents.norms[:, 0],
            "n_sequences": self.latents.n_sequences,
            "n_probes": self.table.n_probes,
            "effect": self.effects.own,
            "effect_reverse": means(self.table.kl_reverse[LATENT][self.model], self.there),
            "random_effect": self.effects.random,
            "effect_ratio": self.effects.ratio,
            "over_random": means(own - random, self.there),
            "over_random_low": low,
            "over_random_high": high,
        }
        plain = {name: rounded(np.asarray(values)) for name, values in numbers.items()}
        plain["class"] = [str(name) for name in self.latents.names]
        plain["reason"] = list(self.reasons)
        return plain

    @cached_property
    def reasons(self) -> tuple[str, ...]:
        """Why a latent has no effect, or one of 0; "" for the others."""
        few, zero = self.table.n_probes < self.min_probes, self.latents.norms[:, 0] == 0
        found = np.where(few, FEW.format(n=self.min_probes), np.where(zero, ROW_ZERO, ""))
        return tuple(str(reason) for reason in found)

    @cached_property
    def summary(self) -> dict[str, Estimate]:
        """Medians over all latents, and the shares above a random direction."""
        options = {"n_resamples": self.n_resamples, "seed": self.seed}
        low = np.array([np.nan if v is None else v for v in self.columns["over_random_low"]])
        return {
            "effect": summary.median(self.effects.own, **options),
            "random_effect": summary.median(_floats(self.effects.random), **options),
            "effect_ratio": summary.median(self.effects.ratio, **options),
            "above_random_effect": summary.share(self.effects.above),
            "surely_above_random_effect": summary.share(summary.above(low, 0.0)),
        }


def _floats(values: Floats | None) -> Floats:
    assert values is not None  # the arm is always run
    return values
