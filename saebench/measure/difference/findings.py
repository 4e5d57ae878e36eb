"""What is found on one checkpoint: subsets, baselines, detectors of fire tokens, and sums for comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from saebench.measure.difference import baselines
from saebench.measure.difference.places import Place, condition_name
from saebench.measure.run import Run
from saebench.metrics.catalogue import DIFFERENCE
from saebench.metrics.catalogue.difference import SUBSETS
from saebench.metrics.difference.arms import Arm, Figure, unmeasured
from saebench.metrics.difference.detectors import (
    JUDGING,
    SCORES,
    Firings,
    columns,
    judged,
    prompt_maxima,
)
from saebench.metrics.difference.detectors import scores as scores_of
from saebench.metrics.difference.subsets import ALL, FIRE, Subset
from saebench.passes import Subject
from saebench.record import Measurement
from saebench.sae import Dictionary
from saebench.stats import Interval, rule_of_three

DIGITS = 10  # of the sums kept for comparisons
Figures = Mapping[str, Mapping[str, Figure]]


@dataclass(frozen=True)
class Findings:
    """Measurements by metric id, and tables as plain JSON values."""

    measurements: dict[str, Measurement]
    details: dict[str, Any]


def nothing(reason: str) -> Findings:
    """Every metric without a value, for one reason."""
    found = [unmeasured(item.id, reason) for item in DIFFERENCE]
    return Findings({item.metric: item for item in found}, {"reason": reason})


def findings(run: Run, where: Place, subject: Subject, shared: dict[Any, Any]) -> Findings:
    """Everything about one checkpoint; ``shared`` keeps baselines that others at the place have too."""
    sae, asked = subject.sae, run.config.difference
    firings = Firings(sae.cfg.d_sae, where.labels.prompts, where.device)
    arm = encoded(where, sae, firings)
    figures = where.figures(arm)
    l0 = figures[ALL]["l0"].value
    sizes = {one.name: _sizes(where, one) for one in where.everything}
    found = _on_subsets(figures, sizes)
    dead = _dead(firings, where)
    found += [dead]
    beside, measured = _baselines(run, where, sae.cfg.d_sae, l0, sizes[ALL], shared)
    latents, scored = _latents(where, sae, firings, asked.n_latents)
    found += [*measured, *scored]
    details = {
        "table": [_row(where, one, figures[one.name], sizes[one.name]) for one in where.subsets],
        "conditions": [
            _row(where, one, figures[key], sizes[key])
            for one in where.conditions
            for key in [condition_name(one.name)]
        ],
        "dead": {"n": dead.detail["dead"], "of": sae.cfg.d_sae},
        "baselines": beside,
        "latents": latents,
        "sums": _sums(where, arm),
    }
    return Findings({item.metric: item for item in found}, details)


def encoded(where: Place, sae: Dictionary, firings: Firings) -> Arm:
    """The errors and L0 of every token, with what fires counted on the way."""
    errors, l0 = [], []
    for first, delta in where.chunks():
        codes, sse = baselines.reconstructed(sae, delta)
        firings.update(first, codes)
        errors.append(sse)
        l0.append(codes.counts().cpu().numpy())
    return Arm(np.concatenate(errors), np.concatenate(l0).astype(np.float64))


def _sizes(where: Place, one: Subset) -> tuple[int, int]:
    """Tokens, and the sequences that they are in."""
    return one.n_tokens, len(np.unique(where.rows.sequences[one.keep]))


def _on_subsets(figures: Figures, sizes: Mapping[str, tuple[int, int]]) -> list[Measurement]:
    found = [
        figures[ALL]["fve"].measured("diff_fve", *sizes[ALL]),
        figures[ALL]["l0"].measured("diff_l0", *sizes[ALL]),
    ]
    for name in SUBSETS:
        own = figures[name]
        found += [
            own["fve"].measured(f"diff_fve_{name}", *sizes[name]),
            own["fve_global"].measured(f"diff_fve_{name}_global", *sizes[name]),
            own["tss_share"].measured(f"diff_tss_share_{name}", *sizes[name]),
        ]
    return found


def _row(
    where: Place, one: Subset, found: Mapping[str, Figure], sizes: tuple[int, int]
) -> dict[str, Any]:
    """A line of the table of subsets, or of that of conditions."""
    n_tokens, n_sequences = sizes
    norm = float(where.norms[one.keep].mean()) if n_tokens else None
    row = {"name": one.name, "n_tokens": n_tokens, "n_sequences": n_sequences, "mean_norm": norm}
    row |= {name: figure.to_json() for name, figure in found.items()}
    return {**row, "reason": one.reason} if not n_tokens else row


def _dead(firings: Firings, where: Place) -> Measurement:
    n = where.rows.n
    dead = int((firings.fired == 0).sum())
    detail = {"dead": dead, "n_latents": firings.d_sae, "density_upper_bound": rule_of_three(n)}
    figure = Figure(dead / firings.d_sae, Interval(None, None))
    n_sequences = len(np.unique(where.rows.sequences))
    return figure.measured("diff_dead_fraction", n, n_sequences, **detail)


def _baselines(
    run: Run,
    where: Place,
    d_sae: int,
    l0: float | None,
    sizes: tuple[int, int],
    shared: dict[Any, Any],
) -> tuple[dict[str, Any], list[Measurement]]:
    """Mean, PCA, base SAE and random directions: as tables, and as measurements."""
    if "mean" not in shared:
        shared["mean"] = _by_subset(where, where.figures(where.constant()))
        shared["mean"][ALL] = {"value": 0.0}  # by definition, whatever is drawn
    table: dict[str, Any] = {"mean": shared["mean"]}
    k = max(1, min(round(l0), where.d)) if l0 is not None else None
    why = "L0 was not measured"
    found = []
    if k is not None:
        arm = shared[k] if k in shared else shared.setdefault(k, where.pca(k))
        why = f"{where.d:,} dimensions are too many for a covariance"
    if k is None or arm is None:
        found.append(unmeasured("diff_fve_pca", why))
    else:
        figures = where.figures(arm)
        table["pca"] = {"k": k, **_by_subset(where, figures)}
        found.append(figures[ALL]["fve"].measured("diff_fve_pca", *sizes, components=k))
    base, measured = _base(run, where, sizes, shared)
    table |= {"base_sae": base} if base else {}
    found.append(measured)
    if k is None:
        return table, [*found, unmeasured("diff_fve_random", why)]
    if (d_sae, k) not in shared:
        shared[d_sae, k] = baselines.random_decoder(where, d_sae, k)
    figure, sample = shared[d_sae, k]
    table["random"] = {"k": k, ALL: figure.to_json(), "sample": sample}
    n = (sample.get("n_tokens", 0), sample.get("n_sequences", 0))
    return table, [*found, figure.measured("diff_fve_random", *n, k=k, d_sae=d_sae)]


def _base(
    run: Run, where: Place, sizes: tuple[int, int], shared: dict[Any, Any]
) -> tuple[dict[str, Any], Measurement]:
    """The difference that the base model's SAE makes of both models' activations."""
    checkpoint = baselines.at(run, where)
    if checkpoint is None:
        why = baselines.missing(run, where)
        return {}, unmeasured("diff_fve_base_sae", f"no SAE of the base model: {why}")
    if "base" not in shared:
        shared["base"] = baselines.base_difference(run, where, checkpoint)
    arm, notes = shared["base"]
    figures = where.figures(arm)
    named = {"sae": str(checkpoint.reference), "notes": notes, "l0": figures[ALL]["l0"].value}
    measured = figures[ALL]["fve"].measured("diff_fve_base_sae", *sizes, **named)
    return {**named, **_by_subset(where, figures)}, measured


def _by_subset(where: Place, figures: Figures) -> dict[str, Any]:
    return {one.name: figures[one.name]["fve"].to_json() for one in where.subsets}


def _latents(
    where: Place, sae: Dictionary, firings: Firings, n_latents: int
) -> tuple[dict[str, Any], list[Measurement]]:
    """The latents most specific to fire tokens, and how good the best one is on the other half."""
    names = {f"diff_{name}": name for name in SCORES} | {"diff_prompt_auroc": "prompt_auroc"}
    prompts = where.labels.prompts
    why = where.labels.problem if prompts is None else prompts.problem()
    best = firings.best(max(n_latents, 1)) if prompts is not None and not why else np.zeros(0, int)
    if not why and not best.size:
        why = "no latent fires on a fire token of the half where latents are chosen"
    if why or prompts is None:
        return {"reason": why}, [unmeasured(name, why) for name in names]
    codes = _codes_of(where, sae, best)
    _, first = np.unique(where.rows.sequences, return_index=True)
    ids = where.group_ids[first]
    found = judged(codes[:, 0], prompts, ids, where.unit)
    inside = prompts.half == JUDGING
    keep = inside[prompts.of_token]
    sizes = int(keep.sum()), int(inside.sum())
    measured = [
        found[short].measured(name, *sizes, latent=int(best[0])) for name, short in names.items()
    ]
    chosen = firings.scores(0)
    tokens, on_prompts = firings.tokens[JUDGING], firings.on_prompts[JUDGING]
    rows = []
    for place, latent in enumerate(best.tolist()):
        own = judged(codes[:, place], prompts, ids)
        rows.append(
            {
                "latent": latent,
                "choosing": {name: float(chosen[name][latent]) for name in SCORES},
                "judging": {name: one.value for name, one in own.items()},
                "prompts": _prompt_scores(codes[:, place], prompts, inside),
                "tokens_by_condition": dict(
                    zip(prompts.conditions, tokens[:, :, latent].sum(1).tolist(), strict=True)
                ),
                "prompts_by_condition": dict(
                    zip(prompts.conditions, on_prompts[:, latent].tolist(), strict=True)
                ),
            }
        )
    of = np.bincount(prompts.condition[inside], minlength=len(prompts.conditions))
    of_tokens = np.bincount(
        prompts.condition[prompts.of_token[keep]], minlength=len(prompts.conditions)
    )
    details = {
        "best": {short: one.to_json() for short, one in found.items()},
        "rows": rows,
        "n_prompts": {"choosing": int((~inside).sum()), "judging": int(inside.sum())},
        "n_documents": _documents(where.labels.documents, inside),
        "prompts_of_condition": dict(zip(prompts.conditions, of.tolist(), strict=True)),
        "tokens_of_condition": dict(zip(prompts.conditions, of_tokens.tolist(), strict=True)),
    }
    return details, measured


def _documents(documents: np.ndarray | None, inside: np.ndarray) -> dict[str, int]:
    """How many documents each half has; empty where prompts name none."""
    if documents is None:
        return {}
    halves = {"choosing": documents[~inside], "judging": documents[inside]}
    return {name: len(np.unique(half)) for name, half in halves.items()}


def _prompt_scores(codes: np.ndarray, prompts: Any, inside: np.ndarray) -> dict[str, float]:
    """Precision, recall and F1 of "fires somewhere" for prompts with a fire token, on the judging half."""
    fires = prompt_maxima(codes, prompts) > 0
    fires, positive = fires[inside], prompts.positive[inside]
    counts = ((fires & positive).sum(), (fires & ~positive).sum(), (~fires & positive).sum())
    return {name: float(value) for name, value in scores_of(*counts).items()}


def _codes_of(where: Place, sae: Dictionary, latents: np.ndarray) -> np.ndarray:
    """The codes of a few latents on every token, ``[n, latents]``."""
    wanted = torch.from_numpy(latents).to(where.device)
    parts = [columns(sae.codes(delta), wanted).float().cpu() for _, delta in where.chunks()]
    return torch.cat(parts).numpy()


def _sums(where: Place, arm: Arm) -> dict[str, Any]:
    """Tokens, variance about the mean of all tokens and squared error of each group of sequences."""
    found: dict[str, Any] = {"groups": where.groups.ids.tolist()}
    for one in where.subsets:
        if one.name in (ALL, FIRE):
            every = np.ones(one.keep.shape[0])
            found[one.name] = {
                "n": where.groups.add(every, one.keep).astype(int).tolist(),
                "tss": _rounded(where.total_by_group[one.name]),
                "sse": _rounded(where.groups.add(arm.sse, one.keep)),
            }
    return found


def _rounded(values: Sequence[float] | np.ndarray) -> list[float]:
    return [float(f"{float(value):.{DIGITS}g}") for value in values]
