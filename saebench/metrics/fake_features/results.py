"""From firings on random and on real text to measurements: how many latents are fake, and which kind.

``fake_token`` and ``fake_sequence`` are the two definitions in use. ``fake_specific`` and ``fake_dense``
split the first: a latent above the limit on random text is *specific* to it, or *dense* when it is above
the limit on real text as well, which makes it fake by construction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saebench.metrics.estimates import ONE_GROUP, estimate
from saebench.metrics.fake_features.counting import FiringSums, UnitCounts
from saebench.metrics.fake_features.intervals import (
    NONE_NEAR,
    Counts,
    Outcome,
    binomial_sd,
    cluster_noise,
    count_interval,
    judge,
)
from saebench.protocols import FakeProtocol
from saebench.record import Measurement
from saebench.stats import N_RESAMPLES, Interval, wilson

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
N_TOP = 20

ALL_DEAD = "no latent fired on real or on random text"
NONE_ALIVE = "no latent fired on the real text"
WILSON = (
    "treats latents as independent, which they are not; for comparison with the literature only"
)


@dataclass(frozen=True)
class Real:
    """What real text says of each latent.

    ``own`` are firings on the run's own text, which say who is alive; ``sums`` those on the control, the
    same text in sequences as long as the random ones; ``tokens`` counts there by the rule of ``fake_token``.
    """

    own: FiringSums
    sums: FiringSums
    tokens: Counts

    @classmethod
    def of(cls, sums: FiringSums, own: FiringSums | None = None) -> Real:
        """From the firings on the control, which include the protocol ``token``; it is ``own`` if None."""
        return cls(own or sums, sums, sums.counts["token"].of_groups())

    @property
    def alive(self) -> Tensor:
        """``[d_sae]`` bool: who fired at all on the run's own text."""
        return self.own.fired.cpu() > 0


def measure(
    names: Mapping[str, str],
    counts: UnitCounts,
    random: FiringSums,
    real: Real,
    *,
    requested: int | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> dict[str, Measurement]:
    """The metrics in ``names``, by metric id: ``fake``, ``alive``, ``specific`` or ``dense`` to an id.

    ``counts`` are those of one protocol on one random text; ``requested`` the units that were asked for,
    where that is more than were counted.
    """
    units, alive = counts.of_groups(), real.alive
    split = real.tokens if {"specific", "dense"} & set(names) else None
    judged = judge(units, alive, split, n_resamples=n_resamples, seed=seed)
    dead = not bool(alive.any() or random.fired.any())
    n_alive = int(alive.sum())
    shared = _about(counts.protocol, units, judged.here, n_alive, requested)
    found = []
    for kind, name in names.items():
        of = n_alive if kind == "alive" else counts.d_sae
        numbers = [int(getattr(outcome, kind)) for outcome in judged.points]
        resamples = judged.resamples
        drawn = None if resamples is None else [getattr(outcome, kind) for outcome in resamples]
        bounds = count_interval(numbers, drawn, of) if of else None
        number = numbers[0]
        detail = {"count": number, "of": of, "wilson": _wilson(number, of), **shared}
        if drawn is not None and of:
            detail["resample_mean"] = float(drawn[0].double().mean()) / of
        found.append(
            estimate(
                name,
                number / of if of and not dead else None,
                bounds,
                n_tokens=random.n_tokens,
                n_sequences=random.n_sequences,
                reason=ALL_DEAD if dead else NONE_ALIVE,
                detail=detail,
            )
        )
    return {item.metric: item for item in found}


def _about(
    protocol: FakeProtocol, units: Counts, points: Outcome, n_alive: int, requested: int | None
) -> dict[str, Any]:
    """What stands beside every number of one protocol on one text."""
    fake, fake_alive = int(points.fake), int(points.alive)
    m = units.counts.shape[1]
    share = protocol.share
    found = {
        "n_latents": m,
        "n_alive": n_alive,
        "fake": fake,
        "fake_over_latents": fake / m,
        "fake_and_alive": fake_alive,
        "fake_over_alive": fake_alive / n_alive if n_alive else None,
        "fake_never_on_real": fake - fake_alive,
        "unit": protocol.unit,
        "n_units": units.n,
        "limit": share,
        **_noise(protocol, units),
    }
    if requested is not None:
        over = int((units.total.double() / requested > share).sum())
        found |= {"n_requested": requested, "fake_by_share_of_requested": over}
    return found


def _noise(protocol: FakeProtocol, units: Counts) -> dict[str, Any]:
    """The noise of a share at the limit, and how many latents it may move to the other side.

    Sequences are independent, tokens of one sequence are not: those have the noise of whole sequences.
    """
    if protocol.unit == "sequence":
        sd = binomial_sd(protocol.share, units.n)
        found: dict[str, Any] = {"binomial_noise": sd}
    else:
        sd, n_near = cluster_noise(units)
        found = {"threshold_noise": sd, "threshold_noise_latents": n_near}
        if sd is None:
            found["threshold_noise_reason"] = NONE_NEAR if not n_near else ONE_GROUP
    near = None if sd is None else (units.shares - protocol.share).abs() <= 2 * sd
    return found | {"within_two_noise": None if near is None else int(near.sum())}


def _wilson(number: int, of: int) -> dict[str, Any]:
    bounds: Interval = wilson(number, of)
    return {"low": bounds.low, "high": bounds.high, "how": bounds.how, "note": WILSON}


def table_rows(text: str, sums: FiringSums, real: Real) -> list[dict[str, Any]]:
    """One row for each protocol on one text: mean share, and how many latents exceed."""
    rows, n_alive = [], int(real.alive.sum())
    for name, counts in sums.counts.items():
        units = counts.of_groups()
        fake_alive = int((units.exceeds & real.alive).sum())
        rows.append(
            {
                "text": text,
                "protocol": name,
                "unit": counts.protocol.unit,
                "n_units": units.n,
                "n_tokens": sums.n_tokens,
                "n_sequences": sums.n_sequences,
                "mean_share": float(units.shares.mean()) if units.n else None,
                "fake": int(units.exceeds.sum()),
                "fake_over_latents": int(units.exceeds.sum()) / counts.d_sae,
                "fake_over_alive": fake_alive / n_alive if n_alive else None,
            }
        )
    return rows


def rate_ratios(random: FiringSums, real: Real) -> dict[str, Any]:
    """How many times as often latents fire on random as on real text, as quantiles over the alive.

    A latent *fires* here when its code is not zero. Those that never fire on real text have no ratio;
    they are counted apart, and so are those that are alive but do not fire on the control.
    """
    fired, usual, alive = random.fired.cpu(), real.sums.fired.cpu(), real.alive
    rates = fired.double() / max(random.n_tokens, 1)
    usually = usual.double() / max(real.sums.n_tokens, 1)
    both = alive & (usual > 0)
    ratios = (rates[both] / usually[both]).numpy()
    known = np.quantile(ratios, QUANTILES).tolist() if len(ratios) else [None] * len(QUANTILES)
    return {
        "what": "tokens with a code that is not zero: share of random over share of real tokens",
        "n_alive": int(alive.sum()),
        "n_ratios": len(ratios),
        "quantiles": {str(q): value for q, value in zip(QUANTILES, known, strict=True)},
        "only_random": {"n": int(((fired > 0) & ~alive).sum()), "ratio": None},
        "alive_but_not_on_control": int((alive & (usual == 0)).sum()),
        "on_neither": int(((fired == 0) & ~alive).sum()),
    }


def top_latents(random: UnitCounts, real: Real, n: int = N_TOP) -> list[dict[str, Any]]:
    """The latents with the largest share of random tokens, each with its share of real tokens."""
    shares, usual = random.of_groups().shares, real.tokens.shares
    order = torch.argsort(shares, descending=True, stable=True)[:n].tolist()
    return [
        {
            "latent": latent,
            "random_share": float(shares[latent]),
            "real_share": float(usual[latent]),
            "fired_on_real": bool(real.alive[latent]),
        }
        for latent in order
        if shares[latent] > 0
    ]


def without_threshold(
    thresholds: Tensor, random: FiringSums, protocol: FakeProtocol
) -> dict[str, Any]:
    """The latents whose relative threshold is not defined, and how many of them fire a lot all the same."""
    unknown = ~torch.isfinite(thresholds)
    often = random.fired.cpu().double() > protocol.share * random.n_tokens
    return {
        "rule": "a latent that never fires on the real text has no threshold and is not counted as fake",
        "n": int(unknown.sum()),
        "fire_on_more_tokens_than_share": int((unknown & often).sum()),
    }
