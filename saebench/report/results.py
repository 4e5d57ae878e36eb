"""What a report shows of a record: rows of value, interval, baseline, limit and verdict, in one order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saebench.gates import Status, Verdict
from saebench.record import Measurement, Record
from saebench.report.digits import count, estimate, number

# In the order of reports; what is not listed here follows, by name.
HEADLINES = (
    "fve",
    "mse",
    "cosine",
    "l2_ratio",
    "ce_recovered",
    "ce_delta",
    "kl",
    "l0",
    "freq_over_10_percent",
    "dead_fraction",
    "fake_token",
    "fake_sequence",
    "fake_configured",
    "fake_specific",
    "probe_accuracy_latents",
    "probe_accuracy_reconstruction",
    "probe_accuracy_gap",
    "shared_decoder",
    "shared_encoder",
    "matched_cosine_decoder",
    "functional_correlation",
    "port_portable",
    "port_equivalent",
    "port_fve_drop",
    "port_alive_shift",
    "port_survival",
    "port_top_k_agreement",
    "port_kl",
    "concept_d_max",
    "concept_d_max_p",
    "concept_d_held_out",
    "concept_auroc_held_out",
    "concept_top_k_overlap",
    "concept_behaviour_minus_control",
    "cv_auroc_latents",
    "cv_gap",
    "cv_p",
    "steer_spearman",
    "steer_slope",
    "steer_logit_slope",
    "steer_kl_at_1",
    "steer_ce_increase",
    "diff_fve",
    "diff_fve_fire",
    "diff_fve_top",
    "diff_fve_bottom",
    "diff_l0",
    "diff_dead_fraction",
    "diff_precision",
    "diff_recall",
    "diff_f1",
    "diff_prompt_auroc",
    "cc_fve_base",
    "cc_fve_chat",
    "cc_shared",
    "cc_base_only",
    "cc_chat_only",
    "cc_cosine_shared",
    "cc_nu_error_chat_only",
    "cc_nu_reconstruction_chat_only",
    "cc_chat_specific",
    "causal_equivalence",
    "causal_partial",
    "causal_over_mismatched",
    "causal_gap_share",
    "causal_effect",
    "causal_effect_over_random",
)

# What a number has to be read against: a null, a baseline or a reference, with the words for it.
BESIDE: Mapping[str, tuple[tuple[str, str], ...]] = {
    "fve": (
        ("fve_mean_predictor", "mean predictor"),
        ("fve_random_init", "random-init SAE"),
        ("fve_pca", "PCA"),
    ),
    "ce_recovered": (("ce_recovered_mean", "against mean ablation"),),
    "ce_delta": (("ce_clean", "clean CE"), ("ce_zero", "zero-ablated CE")),
    "kl": (("kl_zero", "zero ablation"),),
    "fake_token": (
        ("fake_token_alive", "of the alive"),
        ("fake_unigram", "unigram-random"),
        ("fake_shuffled", "shuffled text"),
    ),
    "fake_sequence": (("fake_sequence_alive", "of the alive"),),
    "fake_configured": (("fake_configured_alive", "of the alive"),),
    "fake_specific": (("fake_dense", "also on text"),),
    "probe_accuracy_latents": (
        ("probe_accuracy_baseline", "activations"),
        ("probe_accuracy_majority", "commonest class"),
    ),
    "probe_accuracy_reconstruction": (("probe_accuracy_baseline", "activations"),),
    "shared_decoder": (("shared_decoder_alive", "of the alive"), ("shared_floor", "by chance")),
    "shared_encoder": (("shared_encoder_alive", "of the alive"),),
    "matched_cosine_decoder": (("matched_cosine_floor", "by chance"),),
    "port_fve_drop": (("port_fve_reference", "reference"), ("port_fve_variant", "variant")),
    "port_alive_shift": (("port_alive_reference", "reference"), ("port_alive_variant", "variant")),
    "port_kl": (("port_ce_shift", "CE shift"),),
    "concept_d_max": (
        ("concept_d_max_null", "under shuffled labels"),
        ("concept_d_max_activations", "of dimensions"),
    ),
    "concept_d_held_out": (
        ("concept_held_out_p", "p"),
        ("concept_d_held_out_activations", "of a dimension"),
        ("concept_d_held_out_mean_difference", "of the mean difference"),
    ),
    "concept_top_k_overlap": (("concept_top_k_overlap_chance", "by chance"),),
    "concept_behaviour_minus_control": (("concept_d_control", "d on control texts"),),
    "cv_auroc_latents": (
        ("cv_auroc_raw", "activations"),
        ("cv_auroc_random", "untrained SAE"),
        ("cv_auroc_other", "another SAE"),
    ),
    "steer_spearman": (("steer_spearman_p", "p"),),
    "cc_chat_specific": (
        ("cc_chat_only_compared", "latents"),
        ("cc_complete_shrinkage", "complete shrinkage"),
        ("cc_latent_decoupling", "latent decoupling"),
    ),
    "cc_nu_error_chat_only": (("cc_nu_error_shared", "of shared latents"),),
    "cc_nu_reconstruction_chat_only": (("cc_nu_reconstruction_shared", "of shared latents"),),
    "steer_slope": (("steer_slope_over_random", "over random directions"), ("steer_p_random", "p")),
    "steer_logit_slope": (
        ("steer_logit_slope_over_random", "over random directions"),
        ("steer_logit_p_random", "p"),
    ),
    "diff_fve": (
        ("diff_fve_pca", "PCA"),
        ("diff_fve_random", "random decoder"),
        ("diff_fve_base_sae", "base SAE"),
    ),
    "diff_fve_fire": (
        ("diff_fve_fire_global", "about the global mean"),
        ("diff_tss_share_fire", "share of the variance"),
        ("diff_fve_fire_matched", "with a counterpart"),
        ("diff_fve_matched", "their counterparts"),
    ),
    "diff_fve_top": (
        ("diff_fve_top_global", "about the global mean"),
        ("diff_tss_share_top", "share of the variance"),
    ),
    "diff_fve_bottom": (
        ("diff_fve_bottom_global", "about the global mean"),
        ("diff_tss_share_bottom", "share of the variance"),
    ),
    "causal_equivalence": (
        ("causal_tested", "latents"),
        ("causal_random", "random directions"),
        ("causal_mismatched", "mismatched latents"),
        ("causal_equivalence_other", "other latents"),
    ),
    "causal_partial": (
        ("causal_partial_random", "random directions"),
        ("causal_partial_mismatched", "mismatched latents"),
    ),
    "causal_gap_share": (
        ("causal_gap_share_point", "by r alone, noise included"),
        ("causal_cosine_correlation", "cosine against equivalence, ρ"),
    ),
    "causal_effect": (
        ("causal_effect_ratio", "over a random direction's"),
        ("causal_effect_chat", "other model"),
    ),
}

NAMED = 4  # measurements without a value that are named one by one
WORST_FIRST = (Status.FAIL, Status.NOT_EVALUABLE, Status.WAIVED, Status.PASS)
WORDS = {
    Status.PASS: "pass",
    Status.FAIL: "FAIL",
    Status.NOT_EVALUABLE: "NOT EVALUABLE",
    Status.WAIVED: "waived",
}


@dataclass(frozen=True)
class Row:
    """One line of a results table.

    ``value`` and ``interval`` are formatted numbers, the rest is raw text: whoever prints it makes it
    harmless. ``beside`` are ``(words, value)`` pairs; ``limit`` is empty and ``status`` None without a
    gate; ``reason`` says why there is no value, or no interval.
    """

    metric: str
    label: str
    unit: str
    value: str
    interval: str
    beside: tuple[tuple[str, str], ...] = ()
    limit: str = ""
    status: Status | None = None
    reason: str = ""


def headline_rows(record: Record, verdicts: Sequence[Verdict]) -> list[Row]:
    """The rows that a reader needs: the headline metrics, and every metric that has a gate."""
    gated = {_short(verdict.gate.metric) for verdict in of(record, verdicts)}
    names = [name for name in HEADLINES if name in gated or record.get(name) is not None]
    names += sorted(gated - set(names))
    return [row for name in names for row in _rows(record, name, verdicts)]


def all_rows(record: Record) -> list[Row]:
    """Every measurement of the record, the headline metrics first, without verdicts."""
    found = (record.get(name) for name in HEADLINES)
    first = [measurement.metric for measurement in found if measurement is not None]
    rest = sorted(set(record.measurements) - set(first))
    return [_row(record, metric, None) for metric in [*first, *rest]]


def of(record: Record, verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts on this record's checkpoint."""
    return [verdict for verdict in verdicts if verdict.name == record.name]


def tally(verdicts: Sequence[Verdict]) -> str:
    """``4 of 6 limits hold, 1 fails, 1 is waived``, or that there are none."""
    if not verdicts:
        return "no limits were set"
    counts = {status: sum(v.status is status for v in verdicts) for status in Status}
    total = len(verdicts)
    held = counts[Status.PASS]
    verb = "holds" if held == 1 else "hold"
    parts = [f"{held} of {total} limit{'' if total == 1 else 's'} {verb}"]
    phrases = (
        (Status.FAIL, "fails", "fail"),
        (Status.NOT_EVALUABLE, "could not be evaluated", "could not be evaluated"),
        (Status.WAIVED, "is waived", "are waived"),
    )
    for status, one, many in phrases:
        if counts[status]:
            parts.append(f"{counts[status]} {one if counts[status] == 1 else many}")
    return ", ".join(parts)


def worst(verdicts: Sequence[Verdict]) -> Status | None:
    """The worst status among the verdicts, None without any."""
    found = {verdict.status for verdict in verdicts}
    return next((status for status in WORST_FIRST if status in found), None)


def describe(record: Record, metric: str) -> Mapping[str, Any]:
    """The definition that the record embeds for a metric (by id or short name), empty if it has none."""
    if metric in record.definitions:
        return record.definitions[metric]
    measurement = record.get(metric)
    return record.definitions.get(measurement.metric, {}) if measurement is not None else {}


def value_of(record: Record, metric: str) -> float | None:
    """The value of a metric by id or short name, None where the record has none."""
    measurement = record.get(metric)
    return measurement.value if measurement is not None else None


def tokens_counted(record: Record) -> int:
    """How many token positions counted, under either name that records have for it."""
    data = record.data
    return int(data.get("n_tokens_counted") or data.get("n_counted") or data.get("n_tokens") or 0)


def documents(record: Record) -> int | None:
    """How many documents the sequences were cut from, None where that is not recorded."""
    number = record.data.get("n_documents")
    return number if isinstance(number, int) and number > 0 else None


def limit_text(verdict: Verdict) -> str:
    """The limit, and whether it is on the interval rather than on the estimate; raw text."""
    return f"{verdict.gate.limit}{' on the interval' if verdict.gate.confidence else ''}"


def sample(record: Record, metric: str) -> str:
    """``32 sequences`` where a baseline was measured on others than what it stands beside, else empty."""
    name, own = _short(metric), record.get(metric)
    tops = (top for top, pairs in BESIDE.items() if any(name == below for below, _ in pairs))
    top = record.get(next(tops, ""))
    if own is None or top is None:
        return ""
    sizes = ((own.n_sequences, top.n_sequences, "sequence"), (own.n_tokens, top.n_tokens, "token"))
    for here, there, noun in sizes:
        if here and there and here != there:
            return f"{count(here)} {noun}{'' if here == 1 else 's'}"
    return ""


def label(record: Record, metric: str) -> str:
    """The short human name of a metric, as the record defines it."""
    return str(describe(record, metric).get("label") or metric)


def not_evaluated(record: Record) -> list[tuple[str, str]]:
    """``(label, reason)`` of each measurement that has no value."""
    missing = [m for _, m in sorted(record.measurements.items()) if m.value is None]
    return [(label(record, m.metric), m.reason or "not measured") for m in missing]


def told(case: Record, rows: Sequence[Row]) -> list[Row]:
    """The rows of a case; without those that have neither value nor limit, where many lack one.

    A case that cannot be measured has one reason for all of them.
    """
    many = len(not_evaluated(case)) > NAMED
    return [row for row in rows if row.status or row.value != "–" or not many]


def _rows(record: Record, name: str, verdicts: Sequence[Verdict]) -> list[Row]:
    gates = [verdict for verdict in of(record, verdicts) if _short(verdict.gate.metric) == name]
    return [_row(record, name, verdict) for verdict in gates] or [_row(record, name, None)]


def _row(record: Record, metric: str, verdict: Verdict | None) -> Row:
    measurement = record.get(metric)
    if measurement is None:
        measurement = Measurement(metric, None, reason="the record has no such measurement")
    value, interval = estimate(measurement, verdict.gate.limit if verdict else None)
    return Row(
        metric=measurement.metric,
        label=label(record, metric),
        unit=str(describe(record, metric).get("unit", "")),
        value=value,
        interval=interval,
        beside=_beside(record, _short(metric)),
        limit=limit_text(verdict) if verdict else "",
        status=verdict.status if verdict else None,
        reason=measurement.reason or "",
    )


def _beside(record: Record, name: str) -> tuple[tuple[str, str], ...]:
    if name == "l0":
        k = record.checkpoint.get("cfg", {}).get("k")
        return (("k in training:", number(float(k))),) if isinstance(k, int | float) else ()
    other = sample(record, name)
    pairs = [("on", other)] if other else []
    for metric, words in BESIDE.get(name, ()):
        measurement = record.get(metric)
        if measurement is not None and measurement.value is not None:
            components = measurement.detail.get("components")
            size = f", {components} components" if components is not None else ""
            on = sample(record, metric)
            value = estimate(measurement)[0]
            pairs.append((f"{words}{size}:", f"{value} ({on})" if on else value))
    return tuple(pairs)


def _short(metric: str) -> str:
    return metric.partition("@")[0]
