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

What differs between models is trained on with more of them, one pass over each for all SAEs:

    model = "google/gemma-2-2b"                  # model 0
    others = ["google/gemma-2-2b-it"]            # model 1
    site = "blocks.13.hook_resid_post"
    architecture = "batchtopk"

    [[sae]]
    reads = "difference_ftb"                     # model 1 minus model 0

    [[sae]]
    reads = "models"                             # a crosscoder over both
    k_start = 1000
    k_anneal = 0.2

Paths are relative to the folder the command is run in.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from saebench.errors import ConfigError
from saebench.sae import Source
from saebench.sae.config import Difference
from saebench.train.recipe_checks import check_together, check_values

Architecture = Literal["topk", "batchtopk"]
Reads = Literal["activation", "difference_ftb", "difference_bft", "models", "layers"]
Kind = Literal["scale", "centre", "standardize"]
Layout = Literal["saebench", "dictionary_learning", "open_interp"]

DIFFERENCES: dict[str, Difference] = {"difference_ftb": "1-0", "difference_bft": "0-1"}
CROSSCODERS = ("models", "layers")


@dataclass(frozen=True)
class Recipe:
    """One SAE or crosscoder and how to train it; raises :class:`ConfigError` on values that cannot work."""

    model: str = ""
    """The language model: a local folder or a hub id."""

    data: str = ""
    """The training text: a data spec such as ``corpus.jsonl#text`` or ``hf:org/name#train``."""

    site: str = ""
    """The hook point whose activations are reconstructed, as ``blocks.2.hook_resid_post``. It, ``reads``
    and ``normalization`` may differ between the SAEs of one run."""

    others: tuple[str, ...] = ()
    """Models beside ``model``, which read the same tokens: ``model`` is model 0 (the base), these are
    models 1, 2 … (the fine-tuned one first)."""

    other_revisions: tuple[str, ...] = ()
    """The revisions of ``others``, one each; ``""`` is the default branch."""

    reads: Reads = "activation"
    """What is reconstructed: ``activation``, at ``site`` of one model; ``difference_ftb``, model 1 minus
    model 0 at ``site``, or ``difference_bft``, model 0 minus model 1; and by a crosscoder, ``models``,
    ``site`` of every model side by side, or ``layers``, all ``sites`` of one model side by side."""

    read_model: int = 0
    """Which model is read where it is one: 0 is ``model``, 1 the first of ``others``."""

    sites: tuple[str, ...] = ()
    """The hook points of a crosscoder over ``layers``, in the place of ``site``: leave ``site`` out, or
    set ``site = ""`` in an ``[[sae]]`` table of a file that has a common ``site``."""

    normalization: Kind = "scale"
    """What is done to activations before training, to each source of a crosscoder apart: ``scale``
    multiplies by a factor that makes the mean norm √d; ``centre`` takes the mean out and multiplies by
    a factor that makes the root mean square of norms ``target_rms``; ``standardize`` also divides each
    dimension by its own standard deviation first. All is undone after decoding; the loss weighs
    dimensions as they are scaled here. ``scale`` takes no mean out: where offsets make up most of the
    norm, planted crosscoders reached a mean cosine of .93 and 75 % right classes, against .99 and 100 %
    with ``centre`` or ``standardize``."""

    target_rms: float | None = None
    """Root mean square of the norms after ``centre`` or ``standardize``; √d without one. The loss grows
    with its square and the auxiliary loss does not."""

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
    """Latents per dimension of one activation; this or ``d_sae`` must be given."""

    d_sae: int | None = None
    """The number of latents; this or ``expansion`` must be given."""

    k: int = 32
    """Active latents per token (for ``batchtopk`` on average)."""

    k_start: int | None = None
    """Active latents per token at the first step, of which there are fewer and fewer until ``k``."""

    k_anneal: float = 0.0
    """The share of all steps, from the first, over which k falls linearly from ``k_start`` to ``k``; 0 keeps
    it at ``k``."""

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
    """Dead latents per token that reconstruct the residual; half the width of one activation without
    one, 0 for no auxiliary loss."""

    aux_coefficient: float = 1 / 32
    """The weight of the auxiliary loss."""

    dead_window: int = 1_000_000
    """A latent is dead when it has not fired on this many training tokens in a row."""

    b_dec_init: Literal["geometric_median", "mean"] = "geometric_median"
    """Where the decoder bias starts, computed on the first activations."""

    threshold_decay: float = 0.95
    """Decay per step of the moving average behind the inference threshold of ``batchtopk``."""

    buffer_size: int = 65_536
    """Tokens held for shuffling, each with all activations that the SAEs of the run read; half of them
    are replaced at a time."""

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

    layout: Layout = "saebench"
    """The layout of the checkpoint: ``saebench`` (an SAE as SAELens loads it, a crosscoder in a folder
    that only saebench reads), ``dictionary_learning`` (BatchTopK SAEs and crosscoders as its forks
    load them), or ``open_interp`` (crosscoders of two models). ``saebench`` takes any ``normalization``;
    ``dictionary_learning`` any for SAEs, ``scale`` or ``centre`` for crosscoders; ``open_interp``
    ``scale`` alone."""

    overwrite: bool = False
    """Whether an existing checkpoint in ``out`` may be replaced."""

    def __post_init__(self) -> None:
        """Check types, ranges, and what does not go together."""
        for name in ("others", "other_revisions", "sites"):
            if isinstance(getattr(self, name), list):  # as TOML has it
                object.__setattr__(self, name, tuple(getattr(self, name)))
        check_values(self)
        check_together(self)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The activations it reads side by side, in order; models are counted from ``model``, 0."""
        if self.reads in DIFFERENCES:
            model, minus = map(int, DIFFERENCES[self.reads].split("-"))
            return (Source(self.site, model, minus),)
        if self.reads == "models":
            return tuple(Source(self.site, model) for model in range(1 + len(self.others)))
        sites = self.sites if self.reads == "layers" else (self.site,)
        return tuple(Source(site, self.read_model) for site in sites)

    @property
    def models_read(self) -> tuple[int, ...]:
        """The numbers of the models that its checkpoint counts from 0: one alone, or the first ones."""
        if self.reads in ("activation", "layers"):
            return (self.read_model,)
        return tuple(range(1 + max(max(s.model, s.minus or 0) for s in self.sources)))

    @property
    def is_crosscoder(self) -> bool:
        """Whether it reads several activations side by side."""
        return self.reads in CROSSCODERS

    def width(self, d_in: int) -> int:
        """The number of latents at a site of width ``d_in``; raises :class:`ConfigError` when k is more."""
        d_sae = self.d_sae if self.d_sae is not None else round((self.expansion or 0) * d_in)
        for name, k in (("k", self.k), ("k_start", self.k_start or 0)):
            if k > d_sae:
                raise ConfigError(
                    f"{name} = {k} active latents",
                    f"d_sae = {d_sae}",
                    f"Lower {name}, or widen the SAE.",
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
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }
