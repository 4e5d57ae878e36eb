"""Does ablating a latent shift two models alike? Correlations of shifts over the probes of each latent.

A shift is the KL divergence between the next-token distributions without and with the ablation. It is
never negative and has a heavy tail, so that one probe may set Pearson's r: ranks and logs stand beside it.
And both models' shifts grow with the latent's code, whatever else they share: the same correlations are
taken with the code held fixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from saebench.causal.correlations import (
    Bools,
    Floats,
    partial,
    partial_spearman,
    pearson,
    spearman,
    varies,
)
from saebench.causal.probe_bootstrap import partial_bounds, pearson_bounds, spearman_bounds
from saebench.causal.table import Ints, Table, means

LATENT, RANDOM, MISMATCHED = "latent", "random", "mismatched"
BASE, CHAT = 0, 1
SIDES = ("base", "chat")
# Statistics of one pair of shifts; those named partial hold the code fixed.
STATISTICS = (
    "pearson",
    "spearman",
    "log",
    "partial_pearson",
    "partial_spearman",
    "partial_log",
)
NULLS = (RANDOM, MISMATCHED)
ROW_ZERO = "{side} decoder row is 0: no shift"
FLAT = "the {side} shift does not vary over the probes"
FEW = "fewer than {n} probes"
NO_VALUE = "a shift is not a number"


@dataclass(frozen=True)
class Correlated:
    """Correlations ``[L]`` of two models' shifts, by the names of :data:`STATISTICS`; NaN where undefined.

    ``n_log[L]`` counts the probes in the logs: those whose shift is above 0 in both models.
    """

    values: Mapping[str, Floats]
    n_log: Ints

    @classmethod
    def of(cls, a: Floats, b: Floats, code: Floats, there: Bools, min_probes: int) -> Correlated:
        """Of shifts ``a[L, P]`` and ``b[L, P]`` at codes ``code[L, P]``; below ``min_probes`` undefined.

        A divergence of 0 has no logarithm: such probes are left out of the logs, and out of these alone.
        """
        log = logs(a, b, there)
        log_a, log_b, log_code = (_log(side, log) for side in (a, b, np.abs(code)))
        enough, enough_logs = there.sum(-1) >= min_probes, log.sum(-1) >= min_probes
        values = {
            "pearson": np.where(enough, pearson(a, b, there), np.nan),
            "spearman": np.where(enough, spearman(a, b, there), np.nan),
            "log": np.where(enough_logs, pearson(log_a, log_b, log), np.nan),
            "partial_pearson": np.where(enough, partial(a, b, [code, code**2], there), np.nan),
            "partial_spearman": np.where(enough, partial_spearman(a, b, code, there), np.nan),
            "partial_log": np.where(enough_logs, partial(log_a, log_b, [log_code], log), np.nan),
        }
        return cls(values, log.sum(-1).astype(np.int64))


@dataclass(frozen=True)
class Equivalence:
    """What two models do when a latent is ablated in both; every array is ``[L]``, NaN where undefined.

    ``forward`` is of KL(clean‖ablated), ``reverse`` of KL(ablated‖clean), ``nulls`` by arm. ``bounds`` are
    95 % intervals by statistic, bootstrap over probes. ``effect`` is the mean KL(clean‖ablated) by arm and
    model. ``reasons`` say why there is no Pearson's r, "" where there is one.
    """

    latent: Ints
    n_probes: Ints
    forward: Correlated
    reverse: Correlated
    nulls: Mapping[str, Correlated]
    bounds: Mapping[str, tuple[Floats, Floats]]
    effect: Mapping[str, Mapping[int, Floats]]
    logit_cosine: Mapping[str, Floats]
    reasons: tuple[str, ...] = field(default=())

    @classmethod
    def of(
        cls,
        table: Table,
        norms: Floats,
        *,
        min_probes: int,
        n_resamples: int,
        seed: int,
        partners: Bools | None = None,
    ) -> Equivalence:
        """Of a table with the arms :data:`LATENT`, and :data:`NULLS` where they were run.

        ``norms[L, 2]`` are those of the decoder rows of the table's latents; ``partners[L]`` is false where
        there was no other latent to mismatch.
        """
        there, kl = table.there, table.kl[LATENT]
        a, b = kl[BASE], kl[CHAT]
        forward = Correlated.of(a, b, table.code, there, min_probes)
        reversed_ = table.kl_reverse[LATENT]
        options = {"n_resamples": n_resamples, "seed": seed}
        enough = there.sum(-1) >= min_probes
        log = logs(a, b, there)
        log_a, log_b, log_code = (_log(side, log) for side in (a, b, np.abs(table.code)))
        found = {
            "pearson": pearson_bounds(a, b, there & enough[:, None], **options),
            "spearman": spearman_bounds(a, b, there & enough[:, None], **options),
            "partial_log": partial_bounds(log_a, log_b, log_code, log & enough[:, None], **options),
        }
        bounds = {name: _where_defined(pair, forward.values[name]) for name, pair in found.items()}
        return cls(
            table.latent,
            table.n_probes,
            forward,
            Correlated.of(reversed_[BASE], reversed_[CHAT], table.code, there, min_probes),
            _nulls(table, min_probes, partners),
            bounds,
            {
                arm: {
                    model: means(shift, there & enough[:, None]) for model, shift in models.items()
                }
                for arm, models in table.kl.items()
            },
            {
                # where a model's logits do not change at all there is no cosine
                arm: means(values, there & np.isfinite(values) & enough[:, None])
                for arm, values in table.logit_cosine.items()
            },
            _reasons(table, norms, min_probes),
        )


def logs(a: Floats, b: Floats, there: Bools) -> Bools:
    """The probes that have a logarithm: a shift above 0 in both models."""
    with np.errstate(invalid="ignore"):
        return there & (a > 0) & (b > 0)


def _log(x: Floats, keep: Bools) -> Floats:
    """Natural logs of what is kept, 0 elsewhere."""
    return np.log(np.where(keep & (x > 0), x, 1.0))


def _nulls(table: Table, min_probes: int, partners: Bools | None) -> dict[str, Correlated]:
    """The correlations of each null on the same probes.

    A random direction takes the latent's place in both models. Under a mismatch one model loses the latent
    and the other one another latent; a statistic is the mean of both ways round.
    """
    found = {}
    own, there = table.kl[LATENT], table.there

    def correlated(a: Floats, b: Floats, where: Bools) -> Correlated:
        return Correlated.of(a, b, table.code, where, min_probes)

    if RANDOM in table.kl:
        random = table.kl[RANDOM]
        found[RANDOM] = correlated(random[BASE], random[CHAT], there)
    if MISMATCHED in table.kl:
        other = table.kl[MISMATCHED]
        where = there if partners is None else there & partners[:, None]
        one = correlated(own[BASE], other[CHAT], where)
        two = correlated(other[BASE], own[CHAT], where)
        found[MISMATCHED] = Correlated(
            {name: (one.values[name] + two.values[name]) / 2 for name in STATISTICS},
            np.minimum(one.n_log, two.n_log),
        )
    return found


def _where_defined(pair: tuple[Floats, Floats], value: Floats) -> tuple[Floats, Floats]:
    low, high = (np.where(np.isfinite(value), edge, np.nan) for edge in pair)
    return low, high


def _reasons(table: Table, norms: Floats, min_probes: int) -> tuple[str, ...]:
    """Why each latent has no correlation, the first that holds; "" where it has one."""
    found = np.full(len(table.latent), "", dtype=object)
    kl = table.kl[LATENT]
    for model in (CHAT, BASE):
        found[~varies(kl[model], table.there)] = FLAT.format(side=SIDES[model])
    finite = np.isfinite(kl[BASE]) & np.isfinite(kl[CHAT])
    found[(table.there & ~finite).any(-1)] = NO_VALUE
    for model in (CHAT, BASE):
        found[norms[:, model] == 0] = ROW_ZERO.format(side=SIDES[model])
    found[table.n_probes < min_probes] = FEW.format(n=min_probes)
    return tuple(str(reason) for reason in found)
