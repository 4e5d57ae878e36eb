"""From what a pass found to records: what was measured, on what, and how it came to be read so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from saebench.environment import environment
from saebench.measure.run import Target
from saebench.metrics.definitions import definition
from saebench.model_choice import with_twins
from saebench.models import LanguageModel
from saebench.passes import Calibration, Subject
from saebench.record import Measurement, Record
from saebench.sae import Fact, SAEConfig


def make_record(
    key: str,
    target: Target,
    subject: Subject,
    measurements: dict[str, Measurement],
    *,
    seconds: float,
    calibration: Calibration,
    **parts: Any,
) -> Record:
    """The record of one checkpoint: ``parts`` are the fields of :class:`Record` not named here."""
    checkpoint = target.checkpoint
    cfg = with_estimates(
        checkpoint.sae.cfg, calibration.estimated.get(target.name, {}), calibration
    )
    cfg = with_twins(with_centring(cfg, subject), parts["model"])
    measured_with = [parts["model"], *parts["model"].get("others", ())]
    named = replace(cfg, models=cfg.models or tuple(str(item["id"]) for item in measured_with))
    plain = asdict(cfg)
    facts, provenance, notes = (plain.pop(name) for name in ("facts", "provenance", "notes"))
    return Record(
        key=key,
        checkpoint={
            "name": target.name,
            "reference": str(checkpoint.reference),
            "commit": checkpoint.commit,
            "files": dict(checkpoint.digests),
            "format": cfg.format,
            "evidence": list(checkpoint.claim.evidence),
            "given": dict(checkpoint.given),
            "cfg": plain,
            "reads": named.describe(named.reads),
            "writes": named.describe(named.writes),
            "centred": any(reading.centred for reading in subject.reads),
            "facts": facts,
            "notes": list(notes),
            "provenance": dict(provenance),
        },
        measurements=measurements,
        definitions={metric: definition(metric).to_json() for metric in measurements},
        environment=environment(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        **parts,
    )


def with_estimates(
    cfg: SAEConfig, estimated: Mapping[str, Any], calibration: Calibration
) -> SAEConfig:
    """The configuration with what was estimated on data because the files lack it."""
    if not estimated:
        return cfg
    source = (
        f"estimated on {calibration.n_tokens:,} tokens of the first "
        f"{calibration.n_sequences} sequences, since the files have none"
    )
    facts = {name: Fact(value, source, "assumed") for name, value in estimated.items()}
    notes = (*cfg.notes, f"{' and '.join(estimated)} {source}")
    return replace(cfg, facts={**cfg.facts, **facts}, notes=notes)


def with_centring(cfg: SAEConfig, subject: Subject) -> SAEConfig:
    """The configuration with what became of the centring that it asks for."""
    if not cfg.centred:
        return cfg
    note = "the mean over dimensions was taken out of each token, as TransformerLens does"
    if not any(reading.centred for reading in (*subject.reads, *subject.writes)):
        note = "nothing was centred: this model's norms, or this hook point, do not allow for it"
    return replace(cfg, notes=(*cfg.notes, note))


def identity(models: Sequence[LanguageModel]) -> dict[str, Any]:
    """The first model, with what the others are where there are several."""
    first = models[0].identity()
    return {**first, "others": [m.identity() for m in models[1:]]} if len(models) > 1 else first
