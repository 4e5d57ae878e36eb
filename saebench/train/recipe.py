"""Recipes: every choice that makes a training run what it is, as a TOML file.

    model = "fixtures/model"
    data = "corpus.jsonl"
    site = "blocks.2.hook_resid_post"
    expansion = 8

    [[sae]]                    # several SAEs may train from one stream: each table changes some keys
    k = 16
    out = "checkpoints/k16"

    [[sae]]
    k = 32
    out = "checkpoints/k32"

Paths are relative to the folder the command is run in.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from saebench.config.tables import nearest, read_toml
from saebench.errors import ConfigError
from saebench.precision import parse_precision
from saebench.train.overlap import overlaps

Architecture = Literal["topk", "batchtopk"]
VARIANTS = "sae"  # the table of a recipe file that changes keys for one SAE of several

# What the SAEs of one run have in common: the model runs once for all of them.
SHARED = (
    "model",
    "revision",
    "model_precision",
    "device",
    "data",
    "held_out",
    "heldout_tokens",
    "site",
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


@dataclass(frozen=True)
class Recipe:
    """One SAE and how to train it; raises :class:`ConfigError` on values that cannot work."""

    model: str = ""
    """The language model: a local folder or a hub id."""

    data: str = ""
    """The training text: a data spec such as ``corpus.jsonl#text`` or ``hf:org/name#train``."""

    site: str = ""
    """The hook point whose activations are reconstructed, as ``blocks.2.hook_resid_post``."""

    revision: str | None = None
    """The model's revision on the hub; its default branch without one."""

    model_precision: str = "float32"
    """The precision regime the language model runs in, such as ``bfloat16`` or ``nf4+double``."""

    device: str | None = None
    """Where everything runs (``cpu``, ``cuda``); the model's own choice without one."""

    held_out: str = ""
    """The text for held-out figures; without one, the first sequences of ``data``, which are then
    not trained on. It must be other text than ``data``."""

    heldout_tokens: int = 16_384
    """Held-out tokens behind every logged FVE and L0: one fixed set, kept in memory."""

    context_size: int = 128
    """Tokens per sequence, BOS included."""

    mask: Literal["special", "bos", "none"] = "special"
    """Which positions are left out: special tokens, BOS only, or none."""

    prepend_bos: bool = True
    """Whether every sequence starts with BOS, where the tokenizer has one."""

    architecture: Architecture = "topk"
    """``topk`` keeps k latents on every token; ``batchtopk`` keeps k times the batch size in a batch,
    and after training the latents above a threshold estimated meanwhile."""

    expansion: float | None = None
    """Latents per dimension of the site; this or ``d_sae`` must be given."""

    d_sae: int | None = None
    """The number of latents; this or ``expansion`` must be given."""

    k: int = 32
    """Active latents per token (for ``batchtopk`` on average)."""

    tokens: int = 1_000_000
    """Activations to train on, one batch at least. Where the data hold fewer it is read again from
    the start."""

    batch_size: int = 2048
    """Activations per optimiser step."""

    lr: float | None = None
    """Peak learning rate of Adam; 1e-3 / sqrt(d_sae / 16384) without one: the scaling with width of
    Gao et al. 2024, at five times their rate because a first run is short."""

    warmup: float = 0.05
    """Linear warm-up: a share of all steps if below 1, else a number of steps."""

    decay: float = 0.2
    """The share of all steps, at the end, over which the learning rate falls linearly towards zero.
    With a warm-up that is a share too, at most 1 in all."""

    grad_clip: float = 1.0
    """The largest norm of the gradient of all parameters together; 0 does not clip."""

    aux_k: int | None = None
    """Dead latents per token that reconstruct the residual; d_in / 2 without one, 0 for no auxiliary loss."""

    aux_coefficient: float = 1 / 32
    """The weight of the auxiliary loss."""

    dead_window: int = 1_000_000
    """A latent is dead when it has not fired on this many training tokens in a row."""

    b_dec_init: Literal["geometric_median", "mean"] = "geometric_median"
    """Where the decoder bias starts, computed on the first activations."""

    threshold_decay: float = 0.95
    """Decay per step of the moving average behind the inference threshold of ``batchtopk``."""

    buffer_size: int = 65_536
    """Activations held for shuffling; half of them are replaced at a time."""

    model_batch_size: int = 32
    """Sequences per forward pass of the language model."""

    seed: int = 0
    """Seed of the SAE's initial weights."""

    shuffle_seed: int = 0
    """Seed of the order of the activations, which all SAEs of one run share."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision the matrices are saved in; training is in float32, and so are the saved vectors."""

    log_every: int = 100
    """Steps between held-out measurements."""

    out: str = ""
    """The folder to save the checkpoint in; nothing is saved without one."""

    overwrite: bool = False
    """Whether an existing checkpoint in ``out`` may be replaced."""

    def __post_init__(self) -> None:
        """Check types and ranges of all fields."""
        hints = get_type_hints(type(self))
        for item in fields(self):
            value = getattr(self, item.name)
            _check_type(item.name, value, hints[item.name])
            if item.name in _RANGES and value is not None:
                low, high = _RANGES[item.name]
                if not low <= value <= high:
                    raise ConfigError(
                        f"{item.name} between {low} and {high} in the recipe",
                        f"{value}",
                        f"Set {item.name} to a value in this range.",
                    )
        if (self.expansion is None) == (self.d_sae is None):
            raise ConfigError(
                "the number of latents in the recipe: either expansion or d_sae",
                "neither" if self.d_sae is None else "both",
                "Set one of the two, for example expansion = 8.",
            )
        self._check_together()

    def _check_together(self) -> None:
        """Raise :class:`ConfigError` on values that do not go together."""
        parse_precision(self.model_precision)
        if self.tokens < self.batch_size:
            raise ConfigError(
                "tokens for one batch at least in the recipe",
                f"tokens = {self.tokens}, batch_size = {self.batch_size}",
                "Raise tokens, or lower batch_size.",
            )
        if self.warmup < 1 and self.warmup + self.decay > 1 + 1e-9:  # 1e-9: rounding of the sum
            raise ConfigError(
                "warmup + decay of at most 1 (all steps) in the recipe",
                f"warmup = {self.warmup}, decay = {self.decay}",
                "Lower one of the two.",
            )
        if self.data and self.held_out and overlaps(self.data, self.held_out):
            raise ConfigError(
                "held_out text that is not trained on",
                f"held_out = {self.held_out!r} is or shares text with data = {self.data!r}",
                "Name other text, or leave held_out out: the first sequences of data are then kept.",
            )

    def width(self, d_in: int) -> int:
        """The number of latents at a site of width ``d_in``; raises :class:`ConfigError` when k is more."""
        d_sae = self.d_sae if self.d_sae is not None else round((self.expansion or 0) * d_in)
        if self.k > d_sae:
            raise ConfigError(
                f"k = {self.k} active latents", f"d_sae = {d_sae}", "Lower k, or widen the SAE."
            )
        return d_sae

    def peak_lr(self, d_sae: int) -> float:
        """The peak learning rate."""
        return 1e-3 / (d_sae / 2**14) ** 0.5 if self.lr is None else self.lr

    def aux_latents(self, d_in: int) -> int:
        """How many dead latents per token the auxiliary loss uses."""
        return d_in // 2 if self.aux_k is None else self.aux_k

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return -(-self.tokens // self.batch_size)

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)


_RANGES: dict[str, tuple[float, float]] = {
    "heldout_tokens": (1, 2**31),
    "context_size": (2, 2**31),
    "expansion": (1e-3, 2**20),
    "d_sae": (1, 2**31 - 1),
    "k": (1, 2**31 - 1),
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
        for name in ("model", "data", "site", *(["out"] if needs_out else [])):
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
    folders = [recipe.out for recipe in recipes if recipe.out]
    if len(set(folders)) < len(folders):
        raise ConfigError(
            "a folder of its own for every SAE",
            f"the same one twice in {folders}",
            "Set out for each SAE.",
        )


def _check_keys(table: Mapping[str, Any], path: Path) -> None:
    known = [item.name for item in fields(Recipe)]
    for key in table:
        if key not in known:
            raise ConfigError(f"the recipe {path}", f"unknown key {key!r}", nearest(key, known))


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Raise :class:`ConfigError` where a value is of another type than its field."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for option in options:
        if get_origin(option) is Literal and value in get_args(option):
            return
        if option is type(None) and value is None:
            return
        if option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return
        if option in (int, str, bool) and type(value) is option:
            return
    wanted = " or ".join(
        " or ".join(map(repr, get_args(option)))
        if get_origin(option) is Literal
        else option.__name__
        for option in options
        if option is not type(None)
    )
    raise ConfigError(f"{name} = {wanted} in the recipe", f"{value!r}", "Correct the value.")
