"""From the statistics of ablated latents to measurements: every causal metric, or why it has no value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saebench.causal.equivalence import FEW
from saebench.causal.results import SHARED, PairResult
from saebench.causal.single import SingleResult
from saebench.causal.summary import Estimate
from saebench.metrics.catalogue.causal import CAUSAL
from saebench.metrics.definitions import definition
from saebench.record import Measurement

ONE_MODEL = "the checkpoint reads one model: there is no other whose shifts could be compared"
NO_LATENT = "no {name} latent has a correlation"
NO_NULL = "no latent has a correlation under this null"
# metrics that are the median of a column over the shared latents
_OF_SHARED = {
    "equivalence": "pearson",
    "spearman": "spearman",
    "log": "log",
    "partial": "partial_log",
    "reverse": "reverse_pearson",
    "logit_cosine": "logit_cosine",
    "random": "random_pearson",
    "mismatched": "mismatched_pearson",
    "partial_random": "random_partial_log",
    "partial_mismatched": "mismatched_partial_log",
    "over_random": "pearson_over_random",
    "over_mismatched": "pearson_over_mismatched",
    "partial_over_random": "partial_log_over_random",
    "partial_over_mismatched": "partial_log_over_mismatched",
    "effect": "effect_base",
    "effect_chat": "effect_chat",
    "effect_over_random": "above_random_effect",
    "effect_ratio": "effect_ratio",
}
_OTHERS = ("base_only", "chat_only", "other")


def of_pair(found: PairResult, *, n_tokens: int, n_sequences: int) -> dict[str, Measurement]:
    """Every metric of a checkpoint whose latents were ablated in two models.

    ``n_tokens`` probes came from ``n_sequences`` sequences.
    """
    shared = found.classes.get(SHARED, {})
    size = (n_tokens, n_sequences)
    no_shared = _why_none(found)
    none = "pearson" not in shared or shared["pearson"].value is None
    values = {
        name: _measurement(name, shared.get(column), no_shared if none else NO_NULL, size)
        for name, column in _OF_SHARED.items()
    }
    for name in _OTHERS:
        estimate = found.classes.get(name, {}).get("pearson")
        reason = NO_LATENT.format(name=name.replace("_", "-"))
        values[f"equivalence_{name}"] = _measurement(f"equivalence_{name}", estimate, reason, size)
    gaps = {"gap_share": found.gap_share, "gap_share_point": found.gap_share_point}
    for name, estimate in gaps.items():
        values[name] = _measurement(name, estimate, no_shared, size)
    values["cosine_correlation"] = _measurement(
        "cosine_correlation",
        found.cosine_correlation,
        "fewer than three latents, or all of one cosine",
        size,
    )
    return _checked({**values, **_counts(found, size)})


def of_single(found: SingleResult, *, n_tokens: int, n_sequences: int) -> dict[str, Measurement]:
    """Every metric of a checkpoint of one model; what takes two has no value."""
    size = (n_tokens, n_sequences)
    few = f"no latent has {found.min_probes} probes"
    known = {
        "effect": "effect",
        "effect_ratio": "effect_ratio",
        "effect_over_random": "above_random_effect",
    }
    names = [item.id.removeprefix("causal_") for item in CAUSAL]
    return _checked(
        {
            name: _measurement(name, found.summary[known[name]], few, size)
            if name in known
            else _measurement(name, None, ONE_MODEL, size)
            for name in names
        }
    )


def _counts(found: PairResult, size: tuple[int, int]) -> dict[str, Measurement]:
    """How many shared latents have a correlation, and how many cannot have one."""
    reasons = found.undefined(SHARED)
    mine = int((found.latents.names == SHARED).sum())
    flat = sum(n for reason, n in reasons.items() if reason != FEW.format(n=found.min_probes))
    few = sum(reasons.values()) - flat
    n = mine - flat - few
    detail = {"n_latents": mine, "n_few_probes": few, "reasons": reasons}
    tested = Estimate(float(n), mine)
    undefined = Estimate(flat / (mine - few) if mine > few else None, mine - few)
    return {
        "tested": _measurement("tested", tested, "", size, detail),
        "undefined": _measurement("undefined", undefined, _why_none(found), size, detail),
    }


def _why_none(found: PairResult) -> str:
    """Why no shared latent has a correlation: the reason of most of them."""
    reasons = found.undefined(SHARED)
    if reasons:
        reason, n = next(iter(reasons.items()))
        return f"no shared latent has a correlation; of {n}: {reason}"
    return f"no shared latent fired in {found.min_probes} sequences of these"


def _measurement(
    name: str,
    found: Estimate | None,
    reason: str,
    size: tuple[int, int],
    detail: Mapping[str, Any] | None = None,
) -> Measurement:
    """One metric; ``reason`` is why it has no value, if it has none."""
    item = definition(f"causal_{name}")
    if found is None or found.value is None:
        return Measurement(item.metric, None, reason=reason, detail=dict(detail or {}))
    has_interval = item.interval != "none"
    return Measurement(
        item.metric,
        found.value,
        found.bounds.low,
        found.bounds.high,
        *size,
        found.bounds.how,
        f"no interval: {found.bounds.reason}" if has_interval and found.bounds.reason else None,
        detail={"n_latents": found.n, **(detail or {})},
    )


def _checked(values: Mapping[str, Measurement]) -> dict[str, Measurement]:
    made = {item.metric: item for item in values.values()}
    assert set(made) == {item.metric for item in CAUSAL}
    return made
