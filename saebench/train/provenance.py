"""Where a trained SAE comes from, as plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from saebench.environment import environment
from saebench.train.recipe import Recipe
from saebench.train.step import Trainer


def provenance_of(
    recipe: Recipe,
    trainer: Trainer,
    history: tuple[Mapping[str, Any], ...],
    *,
    models: Sequence[Mapping[str, Any]],
    data: Mapping[str, Any],
    heldout: Mapping[str, Any],
    tokens_per_second: float,
) -> dict[str, Any]:
    """Everything needed to believe a trained SAE, and to make it again.

    ``models`` (all of the run, in order), ``data`` and ``heldout`` describe what was read; the last row of
    ``history`` gives the final figures. The ``threshold`` is that of codes, for a crosscoder of codes
    times the norms of their latents. ``training_samples`` counts different activations, however
    often each was trained on, and ``tokens`` all of them.
    """
    last = history[-1] if history else {}
    return {
        "recipe": recipe.to_json(),
        "seeds": {"weights": recipe.seed, "shuffle": recipe.shuffle_seed},
        "tokens": trainer.tokens,
        "training_samples": min(trainer.tokens, data.get("samples", trainer.tokens)),
        "steps": trainer.steps,
        "sources": [source._asdict() for source in recipe.sources],
        "input_scale": trainer.scale if trainer.inputs.affine is None else None,
        "normalization": trainer.inputs.describe(),
        "k_schedule": {
            "start": trainer.annealing.start,
            "end": trainer.annealing.k,
            "steps": round(recipe.k_anneal * recipe.steps),
        },
        "threshold": trainer.threshold / trainer.scale
        if recipe.architecture == "batchtopk"
        else None,
        "final": {
            **{key: last.get(key) for key in ("fve", "l0", "loss", "dead_share")},
            **{key: value for key, value in last.items() if key.startswith("fve_")},
        },
        "dead_window": recipe.dead_window,
        "model": _models(recipe, models),
        "data": dict(data),
        "heldout": dict(heldout),
        "tokens_per_second": round(tokens_per_second, 1),
        "environment": environment(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _models(recipe: Recipe, models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The models that the recipe reads, as records have them: the first, and ``others`` if there are any."""
    first, *others = (dict(models[number]) for number in recipe.models_read)
    return {**first, "others": others} if others else first
