"""Which language models a run needs: those configured, or those that its checkpoints name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from saebench.config import Config, ModelSpec
from saebench.errors import ConfigError, ModelError
from saebench.models import Located, locate
from saebench.models.names import hub_id
from saebench.sae import SAEConfig

DIGITS = 12  # of a digest: enough to tell two models apart


def model_specs(config: Config, checkpoints: Mapping[str, SAEConfig]) -> tuple[ModelSpec, ...]:
    """The models in the order in which sources count them.

    Raises :class:`ConfigError` where there is none, fewer than a checkpoint reads, or more than any.
    """
    given = (config.model, *config.others) if config.model is not None else _stated(checkpoints)
    for name, cfg in checkpoints.items():
        if cfg.n_models > len(given):
            stated = f" ({', '.join(cfg.models)})" if cfg.models else ""
            raise ConfigError(
                f"the {cfg.n_models} language models that {name} reads{stated}",
                f"only {_given(given)}",
                'Give --model once for each, in this order, or model = ["…", "…"].',
            )
    _check_all_read(given, checkpoints)
    return given


def _check_all_read(given: Sequence[ModelSpec], checkpoints: Mapping[str, SAEConfig]) -> None:
    """Raise :class:`ConfigError` for models that no checkpoint reads, which a card would still name."""
    most = max((cfg.n_models for cfg in checkpoints.values()), default=len(given))
    if len(given) <= most:
        return
    noun = "language model" if most == 1 else "language models"
    who = "these checkpoints read" if len(checkpoints) != 1 else f"{next(iter(checkpoints))} reads"
    at_most = "at most " if len({cfg.n_models for cfg in checkpoints.values()}) > 1 else ""
    one = any(cfg.n_sources == 1 and cfg.difference is None for cfg in checkpoints.values())
    difference = "; for a difference SAE add --set direction=difference_ftb" if one else ""
    raise ConfigError(
        f"{who} {at_most}{most} {noun}",
        _given(given),
        f"Give --model {'once' if most == 1 else f'{most} times'}{difference}.",
    )


def _given(models: Sequence[ModelSpec]) -> str:
    """How many models there are, and which."""
    was = "was" if len(models) == 1 else "were"
    return f"{len(models)} {was} given ({', '.join(spec.ref for spec in models)})"


def _stated(checkpoints: Mapping[str, SAEConfig]) -> tuple[ModelSpec, ...]:
    """The models that all checkpoints say they were trained on."""
    stated = sorted(
        {cfg.models or (cfg.model,) for cfg in checkpoints.values() if cfg.models or cfg.model}
    )
    if len(stated) != 1:
        named = "; ".join(", ".join(map(str, names)) for names in stated)
        raise ConfigError(
            "the language model to measure with",
            f"none is configured, and the checkpoints name {named or 'none'}",
            "Give --model, --saebench-model or model = in saebench.toml.",
        )
    return tuple(ModelSpec(str(name)) for name in stated[0])


def locate_model(spec: ModelSpec, *, from_checkpoints: bool) -> Located:
    """Find the model; when only the checkpoints name it, the way out is to name another one."""
    try:
        return locate(hub_id(spec.ref), revision=spec.revision)
    except ModelError as error:
        if not from_checkpoints:
            raise
        raise ConfigError(
            f"the language model {spec.ref!r} that the checkpoints say they were trained on",
            error.found,
            "Name it as it is found here: --model, --saebench-model or model = in saebench.toml.",
        ) from error


def check_differences(located: Sequence[Located], checkpoints: Mapping[str, SAEConfig]) -> None:
    """Check that no checkpoint reads the difference of a model and itself, which is zero everywhere.

    Raises :class:`ConfigError`.
    """
    for name, cfg in checkpoints.items():
        for source in cfg.reads:
            if source.minus is None:
                continue
            one, other = (located[i] for i in sorted((source.model, source.minus)))
            if one.digest == other.digest:
                raise ConfigError(
                    f"two models, the difference of which {name} reads",
                    f"{one.id} and {other.id} have the same config and weights "
                    f"(digest {one.digest[:DIGITS]})",
                    "Give the base model and the fine-tuned one, in this order.",
                )


def with_twins(cfg: SAEConfig, model: Mapping[str, Any]) -> SAEConfig:
    """The configuration with a note where models read side by side are one and the same.

    ``model`` is that part of a record: the first model, and ``others``.
    """
    models = [model, *model.get("others", ())]
    by_digest: dict[str, list[int]] = {}
    for number in sorted({source.model for source in cfg.reads}):
        by_digest.setdefault(models[number]["digest"], []).append(number)
    notes = [
        f"models {' and '.join(map(str, numbers))} have the same config and weights "
        f"(digest {digest[:DIGITS]}): what is read of them is the same"
        for digest, numbers in by_digest.items()
        if len(numbers) > 1
    ]
    return replace(cfg, notes=(*cfg.notes, *notes)) if notes else cfg
