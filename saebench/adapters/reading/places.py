"""Where activations come from, as the user says it: for every format, over what its files say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from saebench.adapters.reading.choices import Choices
from saebench.errors import CheckpointError
from saebench.sae import Fact, SAEConfig

# What notes of the adapters say is missing, by the fact that settles it.
OPEN = {
    "site": "which hook point it was trained on",
    "sites": "which hook point it was trained on",
    "site_out": "which hook point it writes",
    "sites_out": "which hook point it writes",
}
DIRECTIONS = {"difference_ftb": "1-0", "difference_bft": "0-1"}


def with_places(cfg: SAEConfig, choices: Choices, site: str | None = None) -> SAEConfig:
    """The configuration with the hook points, models and direction that the user names.

    Settings are ``site``, ``site_out``, ``sites``, ``sites_out`` (of one model, separated by commas),
    ``model``, ``models`` (in the order of the sources) and ``direction`` (``difference_ftb``: the
    second model minus the first), ``centred`` (whether the activations came from a model that
    TransformerLens had centred). Raises :class:`CheckpointError` when their number is not that of
    the sources.
    """
    cfg = _counted(cfg)
    facts: dict[str, Fact] = {}
    for name in ("site", "site_out", "model"):
        if fact := choices.text(name):
            facts[name] = fact
    if site is not None:
        facts["site"] = Fact(site, f"--site {site}", "user")
    for name in ("sites", "sites_out", "models"):
        if fact := choices.names(name):
            facts[name] = fact
    direction = choices.text("direction", tuple(DIRECTIONS))
    if direction is not None:
        facts["difference"] = Fact(DIRECTIONS[direction.value], direction.source, "user")
    if fact := choices.flag("centred"):
        facts["centred"] = fact
    _check(cfg, facts)
    settled = [text for name, text in OPEN.items() if name in facts]
    notes = tuple(note for note in cfg.notes if not any(text in note for text in settled))
    for name, fact in facts.items():
        before: Any = getattr(cfg, name)
        if before and name != "centred" and before != fact.value:
            where = f" ({cfg.facts[name].source})" if name in cfg.facts else ""
            what = "hook point" if name == "site" else name
            notes = (*notes, f"the {what} given, {fact.value}, overrules {before}{where}")
    if not facts:
        return cfg
    values: dict[str, Any] = {name: fact.value for name, fact in facts.items()}
    said = replace(cfg, **values, facts={**cfg.facts, **facts}, notes=notes)
    _check_models(said, facts.get("models"))
    return said


def _counted(cfg: SAEConfig) -> SAEConfig:
    """The configuration with the number of activations among its facts, where no list tells it."""
    if cfg.n_sources == 1 or cfg.sites or cfg.models or "n_sources" in cfg.facts:
        return cfg
    count = Fact(cfg.n_sources, "the shape of the encoder")
    return replace(cfg, facts={**cfg.facts, "n_sources": count})


def _check(cfg: SAEConfig, facts: dict[str, Fact]) -> None:
    expected = {"sites": cfg.n_sources, "sites_out": cfg.n_targets}
    for name, count in expected.items():
        if name in facts and len(facts[name].value) != count:
            raise CheckpointError(
                f"{count} hook points separated by commas for {facts[name].source}",
                str(len(facts[name].value)),
                "Name one for each activation, in the order of the checkpoint.",
            )
    for name, many in (("site", "sites"), ("site_out", "sites_out")):
        if name in facts and (many in facts or getattr(cfg, many)):
            raise CheckpointError(
                f"{facts[name].source} ({facts[name].value!r:.80})",
                f"it has {expected[many]} hook points there, not one",
                f"Name all of them: --set {many}=NAME,NAME,….",
            )
    if "difference" in facts and cfg.n_sources != 1:
        raise CheckpointError(
            f"{facts['difference'].source} of a checkpoint that reads one activation",
            f"it reads {cfg.n_sources} side by side",
            "A difference is one activation: leave the setting out.",
        )


def _check_models(cfg: SAEConfig, models: Fact | None) -> None:
    if models is not None and len(models.value) != cfg.n_models:
        raise CheckpointError(
            f"{cfg.n_models} language model{'s' * (cfg.n_models != 1)} for {models.source}",
            str(len(models.value)),
            "Name one for each model that the checkpoint reads, in that order; where it reads the "
            "difference of two, say so with --set direction=difference_ftb.",
        )
