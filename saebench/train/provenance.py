"""Where a trained SAE comes from, as plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping
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
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    heldout: Mapping[str, Any],
    tokens_per_second: float,
) -> dict[str, Any]:
    """Everything needed to believe a trained SAE, and to make it again.

    ``model``, ``data`` and ``heldout`` describe the base model and what was read; the last row of
    ``history`` gives the final figures. ``training_samples`` counts different activations, however
    often each was trained on, and ``tokens`` all of them.
    """
    last = history[-1] if history else {}
    return {
        "recipe": recipe.to_json(),
        "seeds": {"weights": recipe.seed, "shuffle": recipe.shuffle_seed},
        "tokens": trainer.tokens,
        "training_samples": min(trainer.tokens, data.get("samples", trainer.tokens)),
        "steps": trainer.steps,
        "input_scale": trainer.scale,
        "threshold": trainer.threshold / trainer.scale
        if recipe.architecture == "batchtopk"
        else None,
        "final": {key: last.get(key) for key in ("fve", "l0", "loss", "dead_share")},
        "dead_window": recipe.dead_window,
        "model": dict(model),
        "data": dict(data),
        "heldout": dict(heldout),
        "tokens_per_second": round(tokens_per_second, 1),
        "environment": environment(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
