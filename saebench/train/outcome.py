"""What came of a training run: whether its SAE is usable, and may take the place of an earlier one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saebench.errors import ConfigError
from saebench.train.recipe import Recipe


def fault(row: Mapping[str, Any]) -> str | None:
    """Why the SAE of a row of history is not usable, or None.

    A held-out FVE below 0 is worse than answering the mean every time; without active latents
    there is nothing to look at.
    """
    if any(isinstance(value, float) and not math.isfinite(value) for value in row.values()):
        return "figures that are not finite"
    fve = row.get("fve")
    if fve is not None and fve < 0:
        return "worse than the mean"
    return "no latent is active" if row.get("l0") == 0 else None


def may_save(recipe: Recipe, row: Mapping[str, Any]) -> bool:
    """Whether to save an SAE whose last row of history this is.

    One that is not usable never replaces an earlier checkpoint, and figures that are not finite have
    no place in JSON.
    """
    broken = fault(row)
    if broken is None:
        return True
    finite = broken != "figures that are not finite"
    folder = Path(recipe.out)
    return finite and not (folder.is_dir() and any(folder.iterdir()))


def check_saved(refused: Sequence[tuple[Recipe, Mapping[str, Any], float]], n_saved: int) -> None:
    """Raise :class:`ConfigError` about SAEs that were not saved: recipe, last row and peak rate."""
    if not refused:
        return
    found = "; ".join(
        f"held-out FVE {_figure(row.get('fve'))}, L0 {_figure(row.get('l0'))} for {recipe.out} "
        f"({fault(row)}) at a peak lr of {lr:g}"
        for recipe, row, lr in refused
    )
    kept = "What was there before is unchanged"
    others = f", and {n_saved} other SAEs of the run are saved" if n_saved else ""
    raise ConfigError(
        "a usable SAE to save",
        found,
        f"{kept}{others}. Lower lr, or save in a new folder to look at what went wrong.",
    )


def _figure(value: float | None) -> str:
    return "not evaluable" if value is None else f"{value:.4g}"
