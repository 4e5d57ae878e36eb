"""What simpler reconstructions reach on the same tokens: base SAEs and random directions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
from saebench.sites import Kind, Site, parse_site

RANDOM_TOKENS = 4096  # the sample of the random decoder, in whole sequences
SHOWN = 3  # checkpoints named in an error
CALIBRATION_TOKENS = 4096  # for a base SAE whose files lack a threshold or a scale


# names that are of one activation in some models or all: before a model is there they count as one
ALIKE: Mapping[Kind, Kind] = {
    "mlp_normalized": "mlp_in",
    "attn_module_out": "attn_out",
    "mlp_module_out": "mlp_out",
}


def base_saes(run: Run) -> list[Checkpoint]:
    """The base model's SAEs, opened once.

    Raises :class:`ConfigError` for what is no SAE of one site, and for one that fits no difference SAE of
    the run, where it has any.
    """
    if "difference base saes" not in run.kept:
        found = [open_checkpoint(ref) for ref in run.config.difference.base_saes]
        for checkpoint in found:
            _check(checkpoint)
            _check_fit(run, checkpoint)
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


def _check_fit(run: Run, checkpoint: Checkpoint) -> None:
    """Refuse a base SAE that would be measured with no checkpoint, before any model is there."""
    configs = {target.name: target.checkpoint.sae.cfg for target in run.targets}
    configs = {name: cfg for name, cfg in configs.items() if cfg.difference is not None}
    cfg, n_layers = checkpoint.sae.cfg, run.located[0].n_layers
    assert cfg.site is not None  # checked before
    site = _activation(cfg.site, n_layers)
    there = {
        name: one
        for name, one in configs.items()
        if one.site is not None and _activation(one.site, n_layers) == site
    }
    if not configs or any(one.d_in == cfg.d_in for one in there.values()):
        return
    found = (
        f"it reads {cfg.site}, and {_some([f'{name} {one.site}' for name, one in configs.items()])}"
    )
    if there:
        widths = _some([f"{name} {one.d_in:,}" for name, one in there.items()])
        found = f"it has d_in {cfg.d_in:,} at {cfg.site}, and {widths}"
    raise ConfigError(
        f"an SAE of the base model at {checkpoint.reference} that reads what a difference SAE does",
        found,
        "Correct base_saes of [difference]: same model, same site, or leave it out.",
    )


def _activation(site: str, n_layers: int) -> Site:
    """What a site of the first model is, as far as that is known without the model."""
    found = parse_site(site, n_layers=n_layers)
    return Site(found.layer, ALIKE.get(found.kind, found.kind)).canonical


def _some(names: Collection[str]) -> str:
    """The first few of many."""
    first = ", ".join(sorted(names)[:SHOWN])
    return f"{first} and {len(names) - SHOWN:,} more" if len(names) > SHOWN else first


def at(run: Run, where: Place) -> Checkpoint | None:
    """The base SAE at the site of a place, the first of several; None where there is none."""
    here = _here(run, where)
    return next((one for one in here if one.sae.cfg.d_in == where.d), None)


def missing(run: Run, where: Place) -> str:
    """Why there is no base SAE for a place."""
    if not base_saes(run):
        return "base_saes names none"
    widths = {one.sae.cfg.d_in for one in _here(run, where)}
    if widths:
        named = " and ".join(f"{width:,}" for width in sorted(widths))
        return f"of base_saes, what reads this site has d_in {named}, the difference {where.d:,}"
    return "none of base_saes reads this site"


def _here(run: Run, where: Place) -> list[Checkpoint]:
    """The base SAEs at the site of a place, of any width."""
    sites = [(one, one.sae.cfg.site) for one in base_saes(run)]
    return [one for one, site in sites if site and run.models[0].site(site) == where.reading.site]


def base_difference(run: Run, where: Place, checkpoint: Checkpoint) -> tuple[Arm, list[str]]:
    """``dec(f(x)) − dec(f(x₀))`` as a reconstruction of δ, of either sign, and notes on how.

    Its L0 counts the latents that are active on either side.
    """
    sae = checkpoint.sae
    kept: dict[str, list[str]] = run.kept.setdefault("difference base notes", {})
    notes = kept.setdefault(str(checkpoint.reference), [])  # said whenever it is used again
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
