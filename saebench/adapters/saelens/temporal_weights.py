"""The tensors of a temporal SAE in their roles, as SAELens and the authors' own files name them."""

from __future__ import annotations

from dataclasses import dataclass

from saebench.activations import Activation, ReLU, TopK
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.fields import Fields
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.sae import Fact
from saebench.sae.temporal import LatentAttention

ATTENTION = "attn_layers."
DIFF_TYPES = ("relu", "topk")


@dataclass(frozen=True)
class TemporalSettings:
    """What a config says about a temporal SAE; each fact is named as SAELens names the key."""

    n_heads: Fact
    n_attn_layers: Fact
    bottleneck_factor: Fact
    tied_weights: Fact
    sae_diff_type: Fact
    k: Fact | None

    @property
    def facts(self) -> dict[str, Fact | None]:
        """The facts by name."""
        return dict(vars(self))

    @property
    def activation(self) -> Activation:
        """What selects latents: the ``k`` largest where there is a ``k``."""
        return ReLU() if self.k is None else TopK(self.k.value)


def read_settings(fields: Fields, choices: Choices, prefix: str = "") -> TemporalSettings:
    """The settings under ``prefix`` of a config, with the defaults of SAELens.

    Raises :class:`CheckpointError` for values that make no sense.
    """

    def size(key: str, default: int) -> Fact:
        found = fields.optional_size(prefix + key)
        source = f"not in {fields.file}: {key} defaults to {default}"
        return found if found is not None else Fact(default, source, "assumed")

    kind = fields.one_of(DIFF_TYPES, f"{prefix}sae_diff_type")
    kind = kind or Fact("topk", f"not in {fields.file}: sae_diff_type defaults to topk", "assumed")
    k = None
    if kind.value == "topk":
        k = choices.size("k") or fields.optional_size(f"{prefix}kval_topk")
    return TemporalSettings(
        n_heads=size("n_heads", 8),
        n_attn_layers=size("n_attn_layers", 1),
        bottleneck_factor=size("bottleneck_factor", 64),
        tied_weights=fields.flag(f"{prefix}tied_weights", default=True),
        sae_diff_type=kind,
        k=k,
    )


def read_attention(
    tensors: Tensors, settings: TemporalSettings, d_sae: int
) -> list[LatentAttention]:
    """The attention layers.

    Raises :class:`CheckpointError` where widths do not divide, k is more than there are latents, or
    tensors are missing or left over.
    """
    if settings.k is not None and settings.k.value > d_sae:
        raise CheckpointError(
            f"{settings.k.source} of at most d_sae = {d_sae}",
            str(settings.k.value),
            "Correct the config.",
        )
    heads, factor = settings.n_heads.value, settings.bottleneck_factor.value
    if d_sae % (heads * factor):
        raise CheckpointError(
            f"d_sae divisible by n_heads x bottleneck_factor = {heads} x {factor} "
            f"({settings.n_heads.source}, {settings.bottleneck_factor.source})",
            f"d_sae = {d_sae}",
            "Fetch the config that belongs to these weights.",
        )
    n_layers = settings.n_attn_layers.value
    if f"{ATTENTION}{n_layers}.k_ctx.weight" in tensors:
        raise CheckpointError(
            f"{n_layers} attention layers ({settings.n_attn_layers.source})",
            f"{tensors.file} has a tensor '{ATTENTION}{n_layers}.k_ctx.weight'",
            "Fetch the config that belongs to these weights.",
        )
    return [_layer(tensors, i, heads, d_sae, d_sae // factor) for i in range(n_layers)]


def _layer(tensors: Tensors, i: int, n_heads: int, d_sae: int, d_attn: int) -> LatentAttention:
    def linear(name: str, d_out: int) -> tuple:
        key = f"{ATTENTION}{i}.{name}"
        weight = tensors.take(f"{key}.weight", d_out=d_out, d_sae=d_sae)
        return weight, tensors.take(f"{key}.bias", d_out=d_out)

    widths = {"q_target": d_attn, "k_ctx": d_attn, "v_ctx": d_sae, "c_proj": d_sae}
    return LatentAttention([linear(*item) for item in widths.items()], n_heads)
