"""The ablations of one checkpoint: its latents, the arms, the shifts, and what a record says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saebench.causal import Arm, ContextIndex, Probes, shifts
from saebench.causal.equivalence import LATENT, MISMATCHED, RANDOM, Equivalence
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
class Chosen:
    """The latents to ablate, one row each, with their directions by model and those of their partners.

    ``of_partner`` is empty with one model; ``selection`` says how many of which class were taken.
    """

    latents: Latents
    selection: list[dict[str, Any]]
    directions: dict[int, Tensor]
    of_partner: dict[int, Tensor]

    @classmethod
    def of(cls, one: Ablated, n_sequences: np.ndarray, asked: CausalProtocol) -> Chosen:
        """The latents of a checkpoint, by their classes and in how many sequences each of them fired."""
        norms = one.sae.decoder_norms().double().cpu().numpy()
        pair = len(one.models) == 2
        if pair:
            names, main, order = classify(norms, n_sequences > 0), SHARED, TABLE_ORDER
        else:
            names, main, order = np.where(n_sequences > 0, ALL, DEAD), ALL, (ALL,)
        selection = select(names, n_sequences, asked, main, order)
        who = selection.latents
        directions = one.directions(torch.from_numpy(who))
        partner = np.full(len(who), -1, dtype=np.int64)
        of_partner: dict[int, Tensor] = {}
        if pair:
            whole = (norms > 0).all(1)
            pools = {name: np.flatnonzero((names == name) & whole) for name in order}
            others, found = partners(who, names[who].tolist(), pools, asked.seed)
            partner = np.where(found, others, -1)
            of_partner = one.directions(torch.from_numpy(others))
        latents = Latents(
            who,
            names[who],
            np.stack([rows.double().norm(dim=-1).cpu().numpy() for rows in directions.values()], 1),
            cosines(directions).cpu().numpy() if pair else np.full(len(who), np.nan),
            partner,
            n_sequences[who],
        )
        return cls(latents, list(selection.classes), directions, of_partner)

    def arms(self, probes: Probes, seed: int) -> list[Arm]:
        """The latent itself, a random direction of equal norm and, in pairs, another latent at that norm."""
        rows = np.searchsorted(self.latents.latent, probes.latent)
        first = next(iter(self.directions.values()))
        units = torch.from_numpy(random_units(len(first), first.shape[1], seed)).to(first)
        norms = {m: own.norm(dim=-1, keepdim=True) for m, own in self.directions.items()}
        vectors = {LATENT: self.directions, RANDOM: {m: norms[m] * units for m in norms}}
        if self.of_partner:
            vectors[MISMATCHED] = {m: norms[m] * _units(self.of_partner[m]) for m in norms}
        at = (self.latents.partner >= 0)[rows]
        # the same arms in every model, so that identical models round alike
        return [
            Arm(name, by_model, rows, probes.code, at if name == MISMATCHED else None)
            for name, by_model in vectors.items()
        ]


def _units(rows: Tensor) -> Tensor:
    """Rows at norm 1; those of 0 stay."""
    norms = rows.norm(dim=-1, keepdim=True)
    return rows / norms.masked_fill(norms == 0, 1)


def measured(run: Run, one: Ablated, index: ContextIndex) -> Found:
    """Everything of one checkpoint, from an index of where its latents fire."""
    asked = run.config.causal
    chosen = Chosen.of(one, index.counts[0], asked)
    latents = chosen.latents
    probes = index.probes(latents.latent)
    batches = run.stream.batches(run.config.batch_size)
    arms = chosen.arms(probes, asked.seed)
    done = shifts(run.models, batches, one.sites, probes, arms, encode=one.encode)
    table = Table.of(latents.latent, probes, done)
    said = {
        "mode": "pair" if chosen.of_partner else "single",
        "site": [str(site) for site in one.sites.values()],
        "models": [run.located[model].id for model in one.models],
        "selection": chosen.selection,
        "n_probes": len(probes),
        "n_sequences": len(np.unique(probes.sequence)),
        "continued": {str(model): how for model, how in done.how.items()},
    }
    if chosen.of_partner:
        return _pair(table, latents, asked, said)
    return _single(table, latents, one.models[0], asked, said)


def _pair(
    table: Table,
    latents: Latents,
    asked: CausalProtocol,
    said: dict[str, Any],
) -> Found:
    equivalence = Equivalence.of(
        table,
        latents.norms,
        min_probes=asked.min_probes,
        n_resamples=asked.n_resamples,
        seed=asked.seed,
        partners=latents.partner >= 0,
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
