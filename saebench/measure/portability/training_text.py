"""Portability on the text of the training, of a checkpoint with more latents than training samples.

What it gives back there it knows by heart, under the variant nearly as under the reference: neither its
errors nor a verdict on them have a value in the record.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from saebench.data import TokenStream
from saebench.measure.training_samples import without_memory
from saebench.metrics.definitions import definition
from saebench.metrics.portability.results import PREFIX, Found
from saebench.record import Measurement
from saebench.sae import SAEConfig

OF_NATIVE = frozenset(PREFIX + name for name in ("fve_native", "transfer_gap"))
VERDICTS = tuple(definition(PREFIX + name).metric for name in ("portable", "equivalent"))
REFERENCE = definition(PREFIX + "fve_reference").metric
OF_CHECKPOINT = frozenset(
    PREFIX + name
    for name in (
        *("portable", "equivalent"),
        *("fve_reference", "fve_variant", "fve_shift", "fve_drop"),
        *("transfer_gap", "error_over_drift"),
        *("ce_recovered", "ce_recovered_reference", "kl_spliced", "kl_spliced_reference"),
    )
)
HELD_OUT = {PREFIX + "fve_reference": "fve"}  # which held-out figure stands beside a metric


def without_training_text(
    found: Found, cfg: SAEConfig, native: SAEConfig | None, stream: TokenStream
) -> Found:
    """What was found of a case, without what training samples would praise; then ``failed`` says why.

    ``native`` is the checkpoint trained on the variant, whose own training decides about its FVE.
    """
    kept = found.measurements
    if native is not None:
        held_out = {PREFIX + "fve_native": "fve"}
        kept = without_memory(kept, native, stream, names=OF_NATIVE, held_out=held_out)
    whole = without_memory(kept, cfg, stream, names=OF_CHECKPOINT, held_out=HELD_OUT)
    if all(whole[key] is item or whole[key] == item for key, item in kept.items()):
        return Found(whole, found.details)
    reason = _reason(whole)
    whole |= {key: _verdict(whole[key], kept[key], reason) for key in VERDICTS if key in whole}
    details: dict[str, Any] = {**found.details, "failed": reason}
    details.pop("equivalence_intervals", None)
    return Found(whole, details)


def _reason(measured: dict[str, Measurement]) -> str:
    """The reason of the FVE under the reference, or of the first that lost its value."""
    withdrawn = [one for one in measured.values() if "on_training_samples" in one.detail]
    first = measured.get(REFERENCE)
    chosen = first if first in withdrawn and first is not None else withdrawn[0]
    return str(chosen.reason)


def _verdict(item: Measurement, before: Measurement, reason: str) -> Measurement:
    """A verdict without its words, which tables read from the detail; they stay under the memory."""
    memory = item.detail.get("on_training_samples")
    if memory is None:  # there was none
        return item
    return replace(item, reason=reason, detail={"on_training_samples": {**memory, **before.detail}})
