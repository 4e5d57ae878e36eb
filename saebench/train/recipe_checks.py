"""What a recipe cannot be: values of a wrong type or range, and values that do not go together.

A recipe comes as :obj:`Any`: its class calls these checks, and naming it here would close a circle.
"""

from __future__ import annotations

import types
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from saebench.errors import ConfigError
from saebench.precision import parse_precision
from saebench.train.overlap import overlaps

_RANGES: dict[str, tuple[float, float]] = {
    "heldout_tokens": (1, 2**31),
    "context_size": (2, 2**31),
    "expansion": (1e-3, 2**20),
    "d_sae": (1, 2**31 - 1),
    "k": (1, 2**31 - 1),
    "read_model": (0, 2**31),
    "target_rms": (1e-6, 1e6),
    "k_start": (1, 2**31 - 1),
    "k_anneal": (0, 1),
    "tokens": (1, 2**62),
    "batch_size": (1, 2**31),
    "lr": (1e-12, 1e3),
    "warmup": (0, 2**62),
    "decay": (0, 1),
    "grad_clip": (0, float("inf")),
    "aux_k": (0, 2**31),
    "aux_coefficient": (0, float("inf")),
    "dead_window": (1, 2**62),
    "threshold_decay": (0, 1 - 1e-9),
    "buffer_size": (2, 2**40),
    "model_batch_size": (1, 2**31),
    "log_every": (1, 2**62),
}


def check_values(recipe: Any) -> None:
    """Raise :class:`ConfigError` where a value is of another type than its field, or out of range."""
    hints = get_type_hints(type(recipe))
    for item in fields(recipe):
        value = getattr(recipe, item.name)
        _check_type(item.name, value, hints[item.name])
        if item.name in _RANGES and value is not None:
            low, high = _RANGES[item.name]
            if not low <= value <= high:
                raise ConfigError(
                    f"{item.name} between {low} and {high} in the recipe",
                    f"{value}",
                    f"Set {item.name} to a value in this range.",
                )


def check_together(recipe: Any) -> None:
    """Raise :class:`ConfigError` on values that do not go together."""
    parse_precision(recipe.model_precision)
    _check_sizes(recipe)
    _check_models(recipe)
    _check_crosscoder(recipe)
    _check_layout(recipe)
    if recipe.data and recipe.held_out and overlaps(recipe.data, recipe.held_out):
        raise ConfigError(
            "held_out text that is not trained on",
            f"held_out = {recipe.held_out!r} is or shares text with data = {recipe.data!r}",
            "Name other text, or leave held_out out: the first sequences of data are then kept.",
        )


def _check_sizes(recipe: Any) -> None:
    if (recipe.expansion is None) == (recipe.d_sae is None):
        raise ConfigError(
            "the number of latents in the recipe: either expansion or d_sae",
            "neither" if recipe.d_sae is None else "both",
            "Set one of the two, for example expansion = 8.",
        )
    if recipe.tokens < recipe.batch_size:
        raise ConfigError(
            "tokens for one batch at least in the recipe",
            f"tokens = {recipe.tokens}, batch_size = {recipe.batch_size}",
            "Raise tokens, or lower batch_size.",
        )
    if recipe.warmup < 1 and recipe.warmup + recipe.decay > 1 + 1e-9:  # 1e-9: rounding of the sum
        raise ConfigError(
            "warmup + decay of at most 1 (all steps) in the recipe",
            f"warmup = {recipe.warmup}, decay = {recipe.decay}",
            "Lower one of the two.",
        )
    if (recipe.k_start is None) != (recipe.k_anneal == 0):
        raise ConfigError(
            "k_start and k_anneal together in the recipe",
            f"k_start = {recipe.k_start}, k_anneal = {recipe.k_anneal}",
            "Set both, for example k_start = 1000 and k_anneal = 0.2, or neither.",
        )
    if recipe.k_start is not None and recipe.k_start < recipe.k:
        raise ConfigError(
            f"k_start of at least k = {recipe.k} in the recipe",
            f"k_start = {recipe.k_start}",
            "k falls while it is annealed: raise k_start, or lower k.",
        )
    if recipe.target_rms is not None and recipe.normalization == "scale":
        raise ConfigError(
            "target_rms in the recipe",
            'normalization = "scale", which makes the mean norm √d',
            'Leave target_rms out, or set normalization = "standardize" or "centre".',
        )


def _check_models(recipe: Any) -> None:
    """The models a recipe reads have to be named; each revision belongs to one."""
    if recipe.reads in ("difference_ftb", "difference_bft", "models") and not recipe.others:
        raise ConfigError(
            f'the models for reads = "{recipe.reads}" in the recipe',
            f"model = {recipe.model!r} alone",
            'Name the fine-tuned model: others = ["..."].',
        )
    if recipe.other_revisions and len(recipe.other_revisions) != len(recipe.others):
        raise ConfigError(
            f"one of other_revisions for each of the {len(recipe.others)} others in the recipe",
            f"{list(recipe.other_revisions)}",
            'Give "" for the default branch.',
        )
    if recipe.read_model and recipe.reads not in ("activation", "layers"):
        raise ConfigError(
            f'read_model = {recipe.read_model} with reads = "{recipe.reads}" in the recipe',
            "that reads several models",
            'Leave read_model out, or set reads = "activation".',
        )
    if recipe.read_model > len(recipe.others):
        raise ConfigError(
            f"read_model = {recipe.read_model} in the recipe",
            f"models 0 to {len(recipe.others)}: model and {len(recipe.others)} others",
            "Lower read_model, or name the model in others.",
        )


def _check_crosscoder(recipe: Any) -> None:
    """``sites`` belong to a crosscoder over layers, of which BatchTopK is what is trained."""
    if recipe.reads == "layers":
        if len(recipe.sites) < 2 or len(set(recipe.sites)) < len(recipe.sites):
            raise ConfigError(
                'two or more different sites for reads = "layers" in the recipe',
                f"sites = {list(recipe.sites)}",
                'Set sites = ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"].',
            )
        if recipe.site:
            raise ConfigError(
                'sites alone for reads = "layers" in the recipe',
                f"site = {recipe.site!r} as well",
                'Leave site out; in an [[sae]] table, site = "" does that.',
            )
    elif recipe.sites:
        raise ConfigError(
            f'site for reads = "{recipe.reads}" in the recipe',
            f"sites = {list(recipe.sites)}",
            'Name one site, or set reads = "layers"; in an [[sae]] table, sites = [] leaves them out.',
        )
    if recipe.is_crosscoder and recipe.architecture != "batchtopk":
        raise ConfigError(
            f'architecture = "batchtopk" for reads = "{recipe.reads}" in the recipe',
            f'architecture = "{recipe.architecture}"',
            "Crosscoders are trained with BatchTopK: set it.",
        )


def _check_layout(recipe: Any) -> None:
    """Each layout holds only what its community's loader knows."""
    if recipe.layout == "dictionary_learning" and recipe.architecture != "batchtopk":
        raise ConfigError(
            'architecture = "batchtopk" for layout = "dictionary_learning" in the recipe',
            f'architecture = "{recipe.architecture}"',
            'Set it, or leave layout at "saebench".',
        )
    if recipe.layout == "open_interp" and (recipe.reads, len(recipe.others)) != ("models", 1):
        raise ConfigError(
            'a crosscoder of two models for layout = "open_interp" in the recipe',
            f'reads = "{recipe.reads}" with {1 + len(recipe.others)} models',
            'Set reads = "models" and one of others, or leave layout at "saebench".',
        )
    scaled_alike = {
        "open_interp": ("scale",),
        "dictionary_learning": ("scale", "centre") if recipe.is_crosscoder else (),
    }.get(recipe.layout, ())
    if scaled_alike and recipe.normalization not in scaled_alike:
        raise ConfigError(
            f'normalization = "{" or ".join(scaled_alike)}" for a crosscoder with '
            f'layout = "{recipe.layout}" in the recipe',
            f'normalization = "{recipe.normalization}", for which the layout has no place',
            'Set it, or leave layout at "saebench".',
        )


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Raise :class:`ConfigError` where a value is of another type than its field."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for option in options:
        if get_origin(option) is Literal and value in get_args(option):
            return
        if option is type(None) and value is None:
            return
        strings = isinstance(value, tuple) and all(type(item) is str for item in value)
        if option == tuple[str, ...] and strings:
            return
        if option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return
        if option in (int, str, bool) and type(value) is option:
            return
    wanted = " or ".join(
        " or ".join(map(repr, get_args(option)))
        if get_origin(option) is Literal
        else ("a list of strings" if get_origin(option) is tuple else option.__name__)
        for option in options
        if option is not type(None)
    )
    raise ConfigError(f"{name} = {wanted} in the recipe", f"{value!r}", "Correct the value.")
