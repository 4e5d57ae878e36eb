"""Fewer training samples than latents: what is measured on those samples is no measure of quality.

An SAE with a latent for every sample can keep each sample as one decoder direction and give it back
whole, at any k. Errors on the text it was trained on then are those of a memory, so they have no value
in a record: the number found stays in the detail, and the reason names it beside a held-out figure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from saebench.adapters.reading.training import SAMPLES, TEXT
from saebench.data import TokenStream
from saebench.metrics.catalogue import RECONSTRUCTION
from saebench.record import Measurement
from saebench.sae import SAEConfig

OURS = "saebench"  # the key under which our trainer says how it trained
_OF_PREDICTIONS = (
    *("ce_spliced", "ce_delta", "ce_recovered", "ce_recovered_mean"),
    *("kl", "kl_reverse", "kl_recovered"),
)
# what a reconstruction learnt by heart makes look good; the norm of the input is no part of it
OF_RECONSTRUCTIONS = frozenset(
    {item.id for item in RECONSTRUCTION} - {"l2_norm_in"} | set(_OF_PREDICTIONS)
)

_PLACE = ("files", "dataset", "config", "commit", "split", "column")  # what names a text


@dataclass(frozen=True)
class Training:
    """What is known about the training of a checkpoint: ``samples`` counts different activations.

    ``here`` is whether the text of the run is that of the training; ``held_out`` are the held-out
    figures that the checkpoint states, by metric (``fve``).
    """

    samples: int
    source: str
    here: bool
    held_out: Mapping[str, float]


def training_of(cfg: SAEConfig, stream: TokenStream) -> Training | None:
    """What the files and the user say about the training; None where nobody says how much was read."""
    ours = cfg.provenance.get(OURS)
    stated = ours if isinstance(ours, Mapping) else {}
    data = stated.get("data") if isinstance(stated.get("data"), Mapping) else {}
    said, here = cfg.facts.get(SAMPLES), cfg.facts.get(TEXT)
    samples = said.value if said is not None else _stated_samples(stated, data or {})
    if samples is None:
        return None
    same = here.value if here is not None else _same_text(data or {}, stream)
    final = stated.get("final")
    fve = final.get("fve") if isinstance(final, Mapping) else None
    number = isinstance(fve, int | float) and not isinstance(fve, bool)
    source = said.source if said is not None else "its files"
    return Training(samples, source, bool(same), {"fve": float(fve)} if number else {})  # type: ignore[arg-type]


def without_memory(
    found: Mapping[str, Measurement],
    cfg: SAEConfig,
    stream: TokenStream,
    *,
    names: Collection[str] = OF_RECONSTRUCTIONS,
    held_out: Mapping[str, str] | None = None,
) -> dict[str, Measurement]:
    """Measurements, without values where they would praise a checkpoint for what it learnt by heart.

    That is where it has more latents than training samples, and the text is the one it was trained on.
    ``names`` are the metrics this is about. ``held_out`` says which held-out figure is the same quantity
    as a metric; without it that of the same name is.
    """
    training = training_of(cfg, stream)
    if training is None or not training.here or training.samples >= cfg.d_sae:
        return dict(found)
    return {
        key: _withdrawn(item, training, cfg.d_sae, (held_out or {}).get(item.name, item.name))
        if item.name in names and item.value is not None
        else item
        for key, item in found.items()
    }


def _withdrawn(item: Measurement, training: Training, d_sae: int, name: str) -> Measurement:
    """The measurement with its value in the detail, and the reason in its place, with held-out ``name``."""
    held_out = training.held_out.get(name)
    samples = f"{training.samples:,} training sample{'s' * (training.samples != 1)}"
    reason = (
        f"{samples} for {d_sae:,} latents: {item.value:.4g} on the samples it was trained on says "
        "nothing about quality"
    )
    if held_out is None:
        reason += "; measure on other text"
    else:  # first, since tables cut reasons short
        reason = f"held out {held_out:.4g}, as its files state; {reason}"
    memory: dict[str, Any] = {
        "value": item.value,
        "low": item.low,
        "high": item.high,
        "training_samples": training.samples,
        "source": training.source,
        "d_sae": d_sae,
    }
    detail = {**item.detail, "on_training_samples": memory, "held_out": held_out}
    return replace(item, value=None, low=None, high=None, interval="", reason=reason, detail=detail)


def _stated_samples(stated: Mapping[str, Any], data: Mapping[str, Any]) -> int | None:
    """The number in our files; of older ones the most that it can be."""
    samples = stated.get(SAMPLES)
    if _is_count(samples):
        return samples
    tokens, epochs = stated.get("tokens"), data.get("epochs")
    if not _is_count(tokens) or not _is_count(epochs):
        return None
    return int(tokens) if epochs == 1 else int(tokens) // (int(epochs) - 1)  # type: ignore[arg-type]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _same_text(data: Mapping[str, Any], stream: TokenStream) -> bool:
    """Whether a run reads the training text: the same tokens, or the same files cut up otherwise."""
    if data.get("text_digest") is not None and data["text_digest"] == stream.digest:
        return True
    here = stream.source
    named = data.get("files") or data.get("commit")
    return bool(named) and all(data.get(name) == here.get(name) for name in _PLACE)
