"""What simpler reconstructions reach on the same tokens: base SAEs and random directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from saebench.errors import ConfigError
from saebench.evals.reconstruction import RANDOM_MAX_WEIGHTS
from saebench.loading import Checkpoint, open_checkpoint
from saebench.measure.difference.places import Place
from saebench.measure.run import Run, contract, place, sae_dtype_used
from saebench.metrics.difference.arms import Arm, Figure
from saebench.metrics.difference.floors import random_directions, random_errors
from saebench.metrics.difference.sums import Groups, weights_of
from saebench.metrics.sums import wide
from saebench.sae import Dictionary

RANDOM_TOKENS = 4096  # the sample of the random decoder, in whole sequences
CALIBRATION_TOKENS = 4096  # for a base SAE whose files lack a threshold or a scale


def base_saes(run: Run) -> list[Checkpoint]:
    """The base model's SAEs, opened once; raises :class:`ConfigError` for what is no SAE of one site."""
    if "difference base saes" not in run.kept:
        found = [open_checkpoint(ref) for ref in run.config.difference.base_saes]
        for checkpoint in found:
            _check(checkpoint)
        run.kept["difference base saes"] = found
    known: list[Checkpoint] = run.kept["difference base saes"]
    return known


def identity(run: Run) -> list[dict[str, Any]]:
    """What tells one set of base SAEs from another."""
    return [contract(checkpoint) for checkpoint in base_saes(run)]


def _check(checkpoint: Checkpoint) -> None:
    cfg = checkpoint.sae.cfg
    found = ""
    if cfg.difference is not None:
        found = "it reads the difference of two models"
    elif cfg.n_sources > 1 or cfg.is_transcoder or checkpoint.sae.needs_sequences:
        found = "it reads several activations, or writes others than it reads"
    elif cfg.site is None:
        found = "its files do not say which activation it was trained on"
    if found:
        raise ConfigError(
            f"an SAE of the base model at {checkpoint.reference}",
            found,
            "Name SAEs of one activation of the first model under base_saes of [difference].",
        )


def at(run: Run, where: Place) -> Checkpoint | None:
    """The base SAE at the site of a place, the first of several; None where there is none."""
    for checkpoint in base_saes(run):
        cfg = checkpoint.sae.cfg
        assert cfg.site is not None  # checked when it was opened
        if cfg.d_in == where.d and run.models[0].site(cfg.site) == where.reading.site:
            return checkpoint
    return None


def base_difference(run: Run, where: Place, checkpoint: Checkpoint) -> tuple[Arm, list[str]]:
    """``dec(f(x)) − dec(f(x₀))`` as a reconstruction of δ, of either sign, and notes on how.

    Its L0 counts the latents that are active on either side.
    """
    sae, notes = checkpoint.sae, []
    place(sae, where.device, sae_dtype_used(run.config))
    base = 1 if where.reading.minus == 0 else 0  # which of the two parts is the base model's
    if sae.pending:
        _, x = next(where.rows.chunks(where.device, CALIBRATION_TOKENS))
        names = sae.calibrate(where.parts(x)[base])
        notes.append(
            f"{' and '.join(names)} estimated on the base model's first {x.shape[0]:,} tokens"
        )
    sse, l0 = [], []
    for _, x in where.rows.chunks(where.device):
        (codes, given), (others, taken) = (sae.reconstruct(part) for part in where.parts(x))
        found = given - taken
        if where.reading.centred:
            found = found - found.mean(1, keepdim=True)
        sse.append((wide(where.delta(x)) - wide(found)).square().sum(1).cpu().numpy())
        both = [c.rows() * c.d_sae + c.indices.long() for c in (codes, others)]
        rows = torch.div(torch.unique(torch.cat(both)), sae.cfg.d_sae, rounding_mode="floor")
        l0.append(torch.bincount(rows, minlength=x.shape[0]).cpu().numpy())
    return Arm(np.concatenate(sse), np.concatenate(l0).astype(np.float64)), notes


def random_decoder(where: Place, d_sae: int, k: int) -> tuple[Figure, dict[str, Any]]:
    """FVE of ``k`` random directions a token with the best coefficients, on a sample of sequences."""
    if where.covariance is None or d_sae * where.d > RANDOM_MAX_WEIGHTS:
        why = f"random directions of {d_sae:,} × {where.d:,} are not made"
        return Figure.of(np.array([np.nan]), why), {}
    keep = _sample(where.rows.sequences, where.draws)
    spread = where.covariance.diagonal().sqrt()
    directions = random_directions(d_sae, where.d, where.draws, where.device)
    sse, total = [], []
    for first, every_y in where.centred():
        y = every_y[torch.from_numpy(keep[first : first + every_y.shape[0]]).to(every_y.device)]
        sse.append(random_errors(y, spread.to(y.device), directions, k).cpu().numpy())
        total.append(y.square().sum(1).cpu().numpy())
    groups = Groups.of(where.group_ids[keep], where.unit)
    every = np.ones(int(keep.sum()), dtype=bool)
    weights = weights_of(groups, where.n_resamples, where.seed)
    rows = np.concatenate([np.ones((1, groups.n)), weights])
    left, there = (rows @ groups.add(np.concatenate(part), every) for part in (sse, total))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = Figure.of(np.where(there > 0, 1 - left / there, np.nan), unit=where.unit)
    n_sequences = len(np.unique(where.rows.sequences[keep]))
    return found, {"n_tokens": int(keep.sum()), "n_sequences": n_sequences}


def _sample(sequences: np.ndarray, seed: int) -> np.ndarray:
    """``bool[n]``: random whole sequences of at most 4,096 tokens together, one at least."""
    ids, sizes = np.unique(sequences, return_counts=True)
    order = np.random.default_rng(seed).permutation(ids.size)
    fit = np.cumsum(sizes[order]) <= RANDOM_TOKENS
    fit[:1] = True
    return np.isin(sequences, ids[order[fit]])


def reconstructed(sae: Dictionary, delta: torch.Tensor) -> tuple[Any, np.ndarray]:
    """Codes of ``δ[n, d]`` and the squared error of each token, float64 ``[n]``."""
    codes, x_hat = sae.reconstruct(delta)
    return codes, (wide(delta) - wide(x_hat)).square().sum(1).cpu().numpy()
