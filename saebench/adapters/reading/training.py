"""What the user says about how a checkpoint was trained, for every format."""

from __future__ import annotations

from dataclasses import replace

from saebench.adapters.reading.choices import Choices
from saebench.sae import Fact, SAEConfig

SAMPLES, TEXT = "training_samples", "training_text"


def with_training(cfg: SAEConfig, choices: Choices) -> SAEConfig:
    """The configuration with what the user says about training among its facts.

    Settings are ``training_samples``, how many different activations it was trained on, and
    ``training_text``, whether the text of the run is what it was trained on. Raises
    :class:`CheckpointError` for values that are no such number or flag.
    """
    said: dict[str, Fact | None] = {SAMPLES: choices.size(SAMPLES), TEXT: choices.flag(TEXT)}
    facts = {name: fact for name, fact in said.items() if fact is not None}
    return replace(cfg, facts={**cfg.facts, **facts}) if facts else cfg
