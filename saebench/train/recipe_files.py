"""Recipe files: one recipe, or one for each ``[[sae]]`` table that trains from the same stream."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from saebench.config.tables import nearest, read_toml
from saebench.errors import ConfigError
from saebench.train.recipe import Recipe

VARIANTS = "sae"  # the table of a recipe file that changes keys for one SAE of several

# What the SAEs of one run have in common: the model runs once for all of them.
SHARED = (
    "model",
    "revision",
    "others",
    "other_revisions",
    "model_precision",
    "device",
    "data",
    "held_out",
    "heldout_tokens",
    "context_size",
    "mask",
    "prepend_bos",
    "tokens",
    "batch_size",
    "model_batch_size",
    "buffer_size",
    "shuffle_seed",
    "log_every",
)


def load_recipe(path: str | Path) -> Recipe:
    """The one recipe in a TOML file; raises :class:`ConfigError` on unknown keys or several SAEs."""
    recipes = load_recipes(path)
    if len(recipes) > 1:
        raise ConfigError(
            f"one SAE in {path}",
            f"{len(recipes)} [[{VARIANTS}]] tables",
            "Use load_recipes and train_many.",
        )
    return recipes[0]


def load_recipes(path: str | Path, *, needs_out: bool = False) -> tuple[Recipe, ...]:
    """The recipes in a TOML file: one, or one per ``[[sae]]`` table; raises :class:`ConfigError`."""
    path = Path(path)
    data = read_toml(path)
    variants = data.pop(VARIANTS, [{}])
    if not isinstance(variants, list) or not variants:
        raise ConfigError(
            f"[[{VARIANTS}]] tables in {path}",
            f"{variants!r}",
            "Write each SAE as its own [[sae]] table.",
        )
    _check_keys(data, path)
    for variant in variants:
        _check_keys(variant, path)
    recipes = tuple(Recipe(**{**data, **variant}) for variant in variants)
    for recipe in recipes:
        place = "sites" if recipe.reads == "layers" else "site"
        for name in ("model", "data", place, *(["out"] if needs_out else [])):
            if not getattr(recipe, name):
                raise ConfigError(
                    f"the recipe {path}", f"{name!r} is missing", f'Add {name} = "...".'
                )
    check_shared(recipes)
    return recipes


def check_shared(recipes: tuple[Recipe, ...]) -> None:
    """Raise :class:`ConfigError` unless the recipes can train from one stream into different folders."""
    for recipe in recipes[1:]:
        for name in SHARED:
            if getattr(recipe, name) != getattr(recipes[0], name):
                raise ConfigError(
                    f"the same {name} for all SAEs that train from one stream",
                    f"{getattr(recipes[0], name)!r} and {getattr(recipe, name)!r}",
                    "Train SAEs that differ in this in runs of their own.",
                )
    _check_all_read(recipes)
    _check_folders([recipe.out for recipe in recipes if recipe.out])


def _check_folders(folders: Sequence[str]) -> None:
    """Raise :class:`ConfigError` where a checkpoint would take the place of another, or lie inside it."""
    real = [Path(os.path.realpath(folder)) for folder in folders]
    for number, one in enumerate(real):
        for earlier, other in enumerate(real[:number]):
            if one == other or one in other.parents or other in one.parents:
                how = "are the same" if one == other else "lie one in the other"
                raise ConfigError(
                    "a folder of its own for every SAE",
                    f"{folders[earlier]!r} and {folders[number]!r} {how}",
                    "Set out for each SAE.",
                )


def _check_all_read(recipes: tuple[Recipe, ...]) -> None:
    """Raise :class:`ConfigError` for a model that would run for nothing."""
    sources = [source for recipe in recipes for source in recipe.sources]
    read = {source.model for source in sources} | {source.minus for source in sources}
    for number, name in enumerate(recipes[0].others, start=1):
        if number not in read:
            raise ConfigError(
                f"an SAE that reads model {number}, {name!r}",
                "none does",
                'Set reads (for example reads = "models"), or leave the model out of others.',
            )


def _check_keys(table: Mapping[str, Any], path: Path) -> None:
    known = [item.name for item in fields(Recipe)]
    for key in table:
        if key not in known:
            raise ConfigError(f"the recipe {path}", f"unknown key {key!r}", nearest(key, known))
