"""What a card says of a checkpoint under a variant of its model: seven rows, two verdicts. Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from saebench.record import Record
from saebench.report import escape
from saebench.report.digits import count, counted, estimate, number_or_dash
from saebench.report.published import (
    LOSS,
    SURVIVING,
    TOP_K,
    expected,
    is_reference,
    set_against,
)
from saebench.report.stored import mapping
from saebench.report.table import markdown_grid

PART = "portability"
HEADER = ("", "What to expect", "Reference", "Variant", "Shift", "Measured")
OVERVIEW = (
    *("Variant", "Regime", "Run by", "FVE", "FVE drop", "Alive shift", "Survival", "KL"),
    *("By the rule", "Equivalence"),
)
L0_LIMIT = 0.1  # a convention: how far thresholds may let L0 move before the table says so
QUANTILES = ("0.05", "0.25", "0.5", "0.75", "0.95")


def section(record: Record) -> str:
    """The table of expected and measured, both verdicts, and what became of latents; empty without it."""
    found = mapping(record.details.get(PART))
    if not found:
        return ""
    if reason := found.get("not_portable"):
        return f"**Not portable.** {_sentence(str(reason).removeprefix('not portable: '))}"
    if reason := found.get("failed"):
        return f"**Not measured.** {_sentence(str(reason))}"
    table = markdown_grid(HEADER, _rows(record, found), right=(2, 3, 4))
    parts = [_regimes(record, found), table, verdict(record), _transfer(record, found)]
    parts += [_concepts(found), _latents(found)]
    return "\n\n".join(part for part in parts if part)


def overview(records: Sequence[Record]) -> str:
    """One row for each variant of a checkpoint; empty without any."""
    rows = [_overview_row(record) for record in records if PART in record.details]
    return markdown_grid(OVERVIEW, rows, right=range(3, 8)) if rows else ""


def verdict(record: Record) -> str:
    """Both verdicts in words: of the rule on estimates, and of the intervals."""
    rule, tested = (_detail(record, name) for name in ("portable", "equivalent"))
    if not rule:
        measured = record.get("port_portable")
        return f"No verdict: {_sentence(str(measured.reason if measured else 'not measured'))}"
    limits, over = mapping(rule.get("limits")), rule.get("exceeded") or ()
    allowed = (
        f"an FVE drop of {_percent(limits.get('fve_drop'))} and an alive shift of "
        f"{_percent(limits.get('alive_shift'))}"
    )
    words = {"fve_drop": "the FVE drop is larger", "alive_shift": "the alive shift is larger"}
    first = (
        f"By the rule, which allows {allowed}: **retrain**, as "
        f"{' and '.join(words.get(str(name), str(name)) for name in over)}."
        if over
        else f"By the rule, which allows {allowed}: **portable**."
    )
    return f"{first} {_tested(record, tested)}"


def _tested(record: Record, tested: Mapping[str, Any]) -> str:
    margins = mapping(tested.get("margins"))
    bounds = mapping(mapping(record.details.get(PART)).get("equivalence_intervals"))
    parts = mapping(tested.get("parts"))
    said = [
        f"{title} {_interval(mapping(bounds.get(name)))} against ± {_percent(margins.get(name))} "
        f"({parts.get(name, 'unknown')})"
        for name, title in (("fve_drop", "FVE drop"), ("alive_shift", "alive shift"))
    ]
    level = _percent(tested.get("level"))
    words = {
        "equivalent": "**shown**",
        "different": "**refuted**",
        "inconclusive": "**not shown**: the data do not decide",
    }
    outcome = words.get(str(tested.get("verdict")), "unknown")
    return (
        f"Equivalence is {outcome}. The {level} intervals (two one-sided tests at 5 %) are: "
        f"{'; '.join(said)}."
    )


def _transfer(record: Record, found: Mapping[str, Any]) -> str:
    """How a checkpoint trained on the variant fares there; empty where none was named."""
    if not (named := mapping(found.get("variant")).get("sae")):
        return ""
    native = record.get("port_fve_native")
    if native is None or native.value is None:
        return f"No transfer gap: {_sentence(str((native and native.reason) or 'not measured'))}"
    return (
        f"The SAE trained on the variant, {escape.code_span(named)}, has an FVE of "
        f"{_value(record, 'fve_native')} there; the transfer gap, FVE of this one less FVE of that one, is "
        f"{_value(record, 'transfer_gap')}."
    )


def _rows(record: Record, found: Mapping[str, Any]) -> list[list[str]]:
    protocol = mapping(found.get("protocol"))
    latents = mapping(found.get("latents"))
    rule = _detail(record, "portable")
    judged = {
        name: "–" if not rule else "**over**" if name in (rule.get("exceeded") or ()) else "within"
        for name in ("fve_drop", "alive_shift")
    }
    ratio = _detail(record, "l0_ratio").get("fixed_by_k")
    l0 = f"thresholds decide it: moves by at most {_percent(L0_LIMIT)}"
    if fixed := isinstance(ratio, int):
        l0 = f"k = {count(ratio)} fixes it"
    k = protocol.get("top_k", "k")
    eligible = f"{counted(latents.get('surviving'))} of {counted(latents.get('eligible'))} followed"
    cut = number_or_dash(protocol.get("survival"))
    codes = f"r of codes per token {_value(record, 'sample_correlation')}"
    before, moved = _number(record, "ce_reference"), _number(record, "ce_shift")
    rise = moved / before if before and moved is not None else None
    return [
        [
            *("FVE", f"falls by at most {_percent(protocol.get('fve_drop'))} of itself"),
            *_values(record, "fve_reference", "fve_variant"),
            *(_relative(record, "fve_drop", -1), judged["fve_drop"]),
        ],
        [
            *("Alive latents", f"move by at most {_percent(protocol.get('alive_shift'))}"),
            *_values(record, "alive_reference", "alive_variant"),
            *(_relative(record, "alive_shift"), judged["alive_shift"]),
        ],
        [
            *("L0", l0, *_values(record, "l0_reference", "l0_variant")),
            *(f"× {_value(record, 'l0_ratio')}", "says nothing" if fixed else _l0(record)),
        ],
        [
            *("Activation drift", "less than the SAE misses anyway"),
            *("–", "–", _value(record, "drift"), _against_error(record)),
        ],
        [
            *(f"Surviving latents (r ≥ {cut})", expected(record, SURVIVING)),
            *("–", "–", _value(record, "survival")),
            set_against(record, SURVIVING, _number(record, "survival"), eligible),
        ],
        [
            *(f"Top-{escape.markdown_text(k)} agreement", expected(record, TOP_K)),
            *("–", "–", _value(record, "top_k_agreement")),
            set_against(record, TOP_K, _number(record, "top_k_agreement"), codes),
        ],
        [
            *("CE of the model", expected(record, LOSS)),
            *_values(record, "ce_reference", "ce_variant"),
            _value(record, "ce_shift") + (f" nats, {_signed(rise)} %" if rise is not None else ""),
            set_against(record, LOSS, rise, f"KL {_value(record, 'kl')}"),
        ],
    ]


def _l0(record: Record) -> str:
    if (ratio := _number(record, "l0_ratio")) is None:
        return "–"
    return "within" if 1 - L0_LIMIT <= ratio <= 1 + L0_LIMIT else "**moved**"


def _overview_row(record: Record) -> list[str]:
    found = mapping(record.details.get(PART))
    regime = mapping(found.get("regime"))
    asked = mapping(found.get("variant"))
    name = escape.code_span(record.checkpoint.get("case"), cell=True)
    how = escape.markdown_cell(regime.get("regime") or asked.get("precision"))
    backend = escape.markdown_cell(regime.get("backend") or "–")
    if regime.get("emulated"):
        backend += ", emulated"
    if reason := found.get("not_portable") or found.get("failed"):
        word = "**not portable**" if "not_portable" in found else "not measured"
        said = escape.markdown_cell(str(reason).removeprefix("not portable: "))
        return [name, how, backend, "–", "–", "–", "–", "–", word, said]
    rule, tested = (_detail(record, one).get("verdict", "–") for one in ("portable", "equivalent"))
    same = " (identical to the reference)" if is_reference(record) else ""
    return [
        *(name, how, backend, _point(record, "fve_variant")),
        *(_percent_of(record, "fve_drop"), _percent_of(record, "alive_shift")),
        *(_point(record, "survival"), _point(record, "kl")),
        *(escape.markdown_cell(rule) + same, escape.markdown_cell(tested)),
    ]


def _regimes(record: Record, found: Mapping[str, Any]) -> str:
    """What ran, and what it is set against."""
    regime = mapping(found.get("regime"))
    reference = mapping(record.model.get("reference"))
    before = mapping(reference.get("precision")).get("regime") or reference.get("dtype") or "–"
    text = (
        f"Reference {escape.code_span(reference.get('id'))} in {escape.markdown_text(before)}; variant "
        f"{escape.code_span(record.model.get('id'))} in {escape.markdown_text(regime.get('regime', '–'))}, "
        f"run by {escape.markdown_text(regime.get('backend') or '–')}"
    )
    why = f": {escape.markdown_text(regime['why'])}" if regime.get("why") else ""
    text += f" (emulated{why})." if regime.get("emulated") else f"{why}."
    if is_reference(record):
        text += " It is **identical to the reference**, so that its zeros say nothing."
    return text


def _concepts(found: Mapping[str, Any]) -> str:
    rows = []
    for row in _tables(found.get("concepts")):
        names = ("d_max_reference", "d_max", "d_best_reference", "d_best")
        latent = row.get("latent")
        rows.append(
            [
                escape.code_span(row.get("concept"), cell=True),
                counted(row.get("n_held_out")),
                "–" if latent is None else escape.markdown_cell(latent),
                *(number_or_dash(row.get(name)) for name in names),
                escape.markdown_cell(row.get("reason", "")),
            ]
        )
    if not rows:
        return ""
    header = ["Concept", "Held-out texts", "Best latent", "d_max, reference", "d_max, variant"]
    header += ["d of the best, reference", "d of the best, variant", "Why not"]
    return markdown_grid(header, rows, right=range(1, 7))


def _latents(found: Mapping[str, Any]) -> str:
    """How correlations spread and depend on the peak activation, folded away."""
    latents = mapping(found.get("latents"))
    strata = _tables(latents.get("by_peak"))
    if not strata:
        return ""
    quantiles = mapping(latents.get("correlation_quantiles"))
    spread = ", ".join(f"{q}: {number_or_dash(quantiles.get(q))}" for q in QUANTILES)
    rows = [
        [
            f"{number_or_dash(row.get('peak_from'))} to {number_or_dash(row.get('peak_to'))}",
            *(counted(row.get("n")),),
            *(number_or_dash(row.get(name)) for name in ("survival", "median")),
        ]
        for row in strata
    ]
    table = markdown_grid(
        ["Peak activation", "Latents", "Survive", "Median r"], rows, right=(1, 2, 3)
    )
    words = (
        f"Followed: {counted(latents.get('eligible'))} latents that fire on at least "
        f"{counted(latents.get('min_firings'))} tokens of the reference; "
        f"{counted(latents.get('silent_on_variant'))} of them are silent on the variant. Alive on both: "
        f"{counted(latents.get('alive_on_both'))}, on the reference only: "
        f"{counted(latents.get('alive_on_reference_only'))}, on the variant only: "
        f"{counted(latents.get('alive_on_variant_only'))}. Quantiles of r: {spread}."
    )
    return f"<details><summary>Latent by latent</summary>\n\n{words}\n\n{table}\n\n</details>"


def _against_error(record: Record) -> str:
    found = record.get("port_error_over_drift")
    if found is None or found.value is None:
        return "no drift" if found is not None and "the same" in str(found.reason) else "–"
    word = "less" if found.value > 1 else "**more**"
    return f"{word}: its error is {estimate(found)[0]} times the drift"


def _values(record: Record, *names: str) -> list[str]:
    return [_point(record, name) for name in names]


def _point(record: Record, name: str) -> str:
    found = record.get(f"port_{name}")
    return "–" if found is None else estimate(found)[0]


def _number(record: Record, name: str) -> float | None:
    found = record.get(f"port_{name}")
    return None if found is None else found.value


def _value(record: Record, name: str) -> str:
    """The number with its interval."""
    found = record.get(f"port_{name}")
    return "–" if found is None else " ".join(estimate(found)).strip()


def _relative(record: Record, name: str, sign: int = 1) -> str:
    """A share as a signed percentage with its interval."""
    found = record.get(f"port_{name}")
    if found is None or found.value is None:
        return "–"
    text = f"{_signed(sign * found.value)} %"
    if found.low is None or found.high is None:
        return text
    ends = sorted((sign * found.low, sign * found.high))
    return f"{text} [{_signed(ends[0])}, {_signed(ends[1])}]"


def _percent_of(record: Record, name: str) -> str:
    share = _number(record, name)
    return "–" if share is None else f"{_signed(share)} %"


def _signed(share: float) -> str:
    return f"{100 * share + 0.0:+.2f}".replace("+0.00", "0").replace("-0.00", "0").replace("-", "−")


def _percent(share: object) -> str:
    return f"{100 * share:g} %" if isinstance(share, int | float) else "–"


def _interval(bounds: Mapping[str, Any]) -> str:
    low, high = bounds.get("low"), bounds.get("high")
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return f"without one ({escape.markdown_text(bounds.get('reason') or 'not measured')})"
    return f"[{_signed(low)} %, {_signed(high)} %]"


def _detail(record: Record, name: str) -> Mapping[str, Any]:
    found = record.get(f"port_{name}")
    return found.detail if found is not None else {}


def _tables(value: object) -> list[Mapping[str, Any]]:
    items: Iterable[Any] = value if isinstance(value, list | tuple) else ()
    return [item for item in items if isinstance(item, Mapping)]


def _sentence(text: str) -> str:
    plain = escape.markdown_text(text)
    return plain if plain.endswith((".", "?", "!")) else f"{plain}."
