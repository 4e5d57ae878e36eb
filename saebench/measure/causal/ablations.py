"""The ablations of one checkpoint: its latents, the arms, the shifts, and what a record says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saebench.causal import Arm, ContextIndex, Probes, Shifts, shifts
from saebench.causal.equivalence import CHAT, LATENT, MISMATCHED, RANDOM, Equivalence
from saebench.causal.measurements import of_pair, of_single
from saebench.causal.nulls import partners, random_units
from saebench.causal.results import Latents, PairResult, summaries
from saebench.causal.single import SingleResult
from saebench.causal.table import Table
from saebench.measure.causal.selection import ALL, DEAD, SHARED, select
from saebench.measure.causal.subjects import Ablated, cosines
from saebench.measure.run import Run
from saebench.metrics.crosscoder.taxonomy import CLASSES, classify
from saebench.protocols import CausalProtocol
from saebench.record import Measurement

TABLE_ORDER = tuple(name for name in CLASSES if name != DEAD)


@dataclass(frozen=True)
class Found:
    """Measurements by metric, and the tables as plain JSON values."""

    measurements: dict[str, Measurement]
    details: dict[str, Any]


@dataclass(frozen=True)
class Ablation:
    """What is ablated where: the probes, the latents' directions by model, and their partners."""

    probes: Probes
    rows: np.ndarray  # of each probe: the place of its latent among those tested
    directions: dict[int, Tensor]
    latents: Latents

    def arms(self, of_partner: dict[int, Tensor], seed: int) -> list[Arm]:
        """The latent itself, a random direction of equal norm and, in pairs, another latent in one model."""
        codes, n = self.probes.code, len(self.latents.latent)
        first = next(iter(self.directions.values()))
        units = torch.from_numpy(random_units(n, first.shape[1], seed)).to(first)
        random = {m: rows.norm(dim=-1, keepdim=True) * units for m, rows in self.directions.items()}
        arms = [
            Arm(LATENT, self.directions, self.rows, codes),
            Arm(RANDOM, random, self.rows, codes),
        ]
        if CHAT in of_partner:
            norms = self.directions[CHAT].norm(dim=-1, keepdim=True)
            theirs = of_partner[CHAT]
            theirs = theirs / theirs.norm(dim=-1, keepdim=True).clamp(
                min=torch.finfo(theirs.dtype).tiny
            )
            at = (self.latents.partner >= 0)[self.rows]
            arms.append(Arm(MISMATCHED, {CHAT: norms * theirs}, self.rows, codes, at))
        return arms


def measured(run: Run, one: Ablated, index: ContextIndex) -> Found:
    """Everything of one checkpoint."""
    asked = run.config.causal
    norms = one.sae.decoder_norms().double().cpu().numpy()
    n_sequences, _ = index.counts
    pair = len(one.models) == 2
    if pair:
        names, main, order = classify(norms, n_sequences > 0), SHARED, TABLE_ORDER
    else:
        names = np.where(n_sequences > 0, ALL, DEAD)
        main, order = ALL, (ALL,)
    selection = select(names, n_sequences, asked, main, order)
    chosen = selection.latents
    directions = one.directions(torch.from_numpy(chosen))
    own = np.stack([rows.double().norm(dim=-1).cpu().numpy() for rows in directions.values()], 1)
    partner, found = np.full(len(chosen), -1), np.zeros(len(chosen), dtype=bool)
    of_partner: dict[int, Tensor] = {}
    if pair:
        pools = {
            name: np.flatnonzero((names == name) & (norms[:, CHAT] > 0)).astype(np.int64)
            for name in TABLE_ORDER
        }
        others, found = partners(chosen, [str(n) for n in names[chosen]], pools, asked.seed)
        partner = np.where(found, others, -1)
        of_partner = one.directions(torch.from_numpy(others))
    latents = Latents(
        chosen,
        names[chosen],
        own,
        cosines(directions).cpu().numpy() if pair else np.full(len(chosen), np.nan),
        partner,
        n_sequences[chosen],
    )
    probes = index.probes(chosen)
    ablation = Ablation(probes, np.searchsorted(chosen, probes.latent), directions, latents)
    done = _shifts(run, one, ablation, of_partner)
    table = Table.of(chosen, probes, done)
    said = {
        "mode": "pair" if pair else "single",
        "site": [str(site) for site in one.sites.values()],
        "models": [_name(run, model) for model in one.models],
        "selection": list(selection.classes),
        "n_probes": len(probes),
        "n_sequences": len(np.unique(probes.sequence)),
        "continued": {str(model): how for model, how in done.how.items()},
    }
    if pair:
        return _pair(table, latents, found, asked, said)
    return _single(table, latents, one.models[0], asked, said)


def _shifts(run: Run, one: Ablated, ablation: Ablation, of_partner: dict[int, Tensor]) -> Shifts:
    """The shifts of every arm; without a probe nothing is read."""
    arms = ablation.arms(of_partner, run.config.causal.seed)
    batches = run.stream.batches(run.config.batch_size)
    return shifts(run.models, batches, one.sites, ablation.probes, arms)


def _pair(
    table: Table,
    latents: Latents,
    has_partner: np.ndarray,
    asked: CausalProtocol,
    said: dict[str, Any],
) -> Found:
    equivalence = Equivalence.of(
        table,
        latents.norms,
        min_probes=asked.min_probes,
        n_resamples=asked.n_resamples,
        seed=asked.seed,
        partners=has_partner,
    )
    result = PairResult(
        latents,
        equivalence,
        asked.min_probes,
        asked.gap_cosine,
        asked.gap_equivalence,
        asked.n_resamples,
        asked.seed,
    )
    values = of_pair(result, n_tokens=said["n_probes"], n_sequences=said["n_sequences"])
    details = {
        **said,
        "classes": {
            name: {"statistics": summaries(found), "undefined": result.undefined(name)}
            for name, found in result.classes.items()
        },
        "gaps": result.gaps(),
        "latents": result.columns,
    }
    return Found(values, details)


def _single(
    table: Table, latents: Latents, model: int, asked: CausalProtocol, said: dict[str, Any]
) -> Found:
    result = SingleResult(latents, table, model, asked.min_probes, asked.n_resamples, asked.seed)
    values = of_single(result, n_tokens=said["n_probes"], n_sequences=said["n_sequences"])
    statistics = {ALL: {"statistics": summaries(result.summary), "undefined": {}}}
    return Found(values, {**said, "classes": statistics, "latents": result.columns})


def _name(run: Run, model: int) -> str:
    return run.located[model].id
