"""What a card says of ablated latents: do two models shift alike, and more than nulls do? Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saebench.record import Record
from saebench.report import escape
from saebench.report.causal_table import Rows, rows_of
from saebench.report.digits import count, number_or_dash
from saebench.report.results import value_of
from saebench.report.stored import mapping
from saebench.report.table import markdown_grid

CLASSES = {
    "shared": "shared",
    "base_only": "base only",
    "chat_only": "chat only",
    "other": "other",
    "dead": "dead",
    "all": "all",
}
ARMS = {"random": "random directions of equal norm", "mismatched": "other latents of the class"}
STATISTICS = (
    ("pearson", "Pearson"),
    ("spearman", "Spearman"),
    ("log", "Logs"),
    ("partial_pearson", "Pearson, f and f² fixed"),
    ("partial_spearman", "Spearman, rank f fixed"),
    ("partial_log", "Logs, log f fixed"),
    ("reverse_pearson", "KL reversed"),
)
EVEN = 0.5  # of latents, that chance has above a random direction
LISTED = 10  # gaps, or latents, in a table


def section(record: Record) -> str:
    """The causal part of one checkpoint; empty without it."""
    found = mapping(record.details.get("causal"))
    if not found:
        return ""
    if reason := found.get("reason"):
        return f"Not measured: {escape.markdown_text(reason)}"
    if found.get("mode") == "single":
        parts = [_single_verdict(record), _design(found), _selection(found), _strongest(found)]
    else:
        parts = [
            _verdict(found),
            _design(found),
            _selection(found),
            _classes(found),
            _nulls(found),
            _notes(record, found),
            _gaps(found),
        ]
    return "\n\n".join(part for part in parts if part)


def _verdict(found: Mapping[str, Any]) -> str:
    """Whether both models shift alike when a shared latent is ablated, and what nulls make of that."""
    shared = _statistics(found, "shared")
    r = mapping(shared.get("pearson"))
    if not _known(r.get("value")):
        return (
            "**Verdict.** Whether shared latents do the same in both models is not known: none has a "
            "correlation."
        )
    head = (
        f"**Verdict.** Ablating a shared latent gives shifts that correlate r = {_with_bounds(r)} "
        f"between the models (median of {_count(r.get('n'))} latents), "
        f"{number_or_dash(mapping(shared.get('partial_log')).get('value'))} in logs with the latent's "
        "code held fixed."
    )
    return " ".join([head, *(_against(shared, arm) for arm in ARMS)]).strip()


def _against(shared: Mapping[str, Any], arm: str) -> str:
    """What a null gives on the same probes, and whether the latents give more, in a sentence."""
    null = mapping(shared.get(f"{arm}_pearson"))
    over = mapping(shared.get(f"pearson_over_{arm}"))
    if not _known(null.get("value")) or not _known(over.get("value")):
        return ""
    name = ARMS[arm]
    figures = f"{number_or_dash(null['value'])}; difference {_with_bounds(over)}"
    low, high = over.get("low"), over.get("high")
    if isinstance(low, int | float) and low > 0:
        return f"{name[0].upper()}{name[1:]} give less ({figures})."
    meaning = {
        "random": "the models answer alike to any direction, which says nothing about these latents",
        "mismatched": "the correlation is not specific to the latent",
    }[arm]
    more = " or more" if isinstance(high, int | float) and high < 0 else ""
    return f"{name[0].upper()}{name[1:]} give as much{more} ({figures}): {meaning}."


def _single_verdict(record: Record) -> str:
    """Whether latents move predictions more than random directions do."""
    effect = record.get("causal_effect")
    above = record.get("causal_effect_over_random")
    if effect is None or effect.value is None or above is None or above.value is None:
        return "**Verdict.** How far latents move predictions is not known: none has probes enough."
    share = _with_bounds({"value": above.value, "low": above.low, "high": above.high})
    ratio = number_or_dash(value_of(record, "causal_effect_ratio"))
    chance = ""
    if above.low is not None and above.low <= EVEN:
        chance = " That share is no more than chance would have it."
    return (
        f"**Verdict.** Ablating a latent moves the next-token distribution by "
        f"{number_or_dash(effect.value)} nats (median of {_count(effect.detail.get('n_latents'))} "
        f"latents); {share} of them move it more than a random direction of equal norm, the median one "
        f"{ratio} times as far.{chance}"
    )


def _design(found: Mapping[str, Any]) -> str:
    """What was done."""
    asked = mapping(found.get("protocol"))
    sites = " and ".join(escape.code_span(site) for site in _items(found.get("site")))
    models = " and ".join(escape.code_span(model) for model in _items(found.get("models")))
    pair = found.get("mode") != "single"
    arms = "random directions of equal norm (the same unit vector in both models)"
    null = f"{arms} and other latents of the class" if pair else "random directions of equal norm"
    return (
        f"At {sites} of {models}: f · d of one latent is taken from the activation at a token where it "
        f"fires, the rest stays, and the shift is KL(clean‖ablated) of the next token. "
        f"{_count(found.get('n_probes'))} probes in {_count(found.get('n_sequences'))} sequences, at most "
        f"{_count(asked.get('n_probes'))} per latent and one per sequence; a latent with fewer than "
        f"{_count(asked.get('min_probes'))} has no statistic. Nulls on the same probes: {null}. Intervals "
        "of a latent resample its probes; those of a class resample latents and hold for these probes."
    )


def _selection(found: Mapping[str, Any]) -> str:
    """How many latents of each class were ablated."""
    body = []
    for item in _items(found.get("selection")):
        row = mapping(item)
        tested, enough = row.get("n_tested"), row.get("n_enough")
        how = "–"
        if _known(tested) and _known(enough) and tested:
            how = "all of these" if tested == enough else "random sample"
        name = str(row.get("class"))
        body.append(
            [
                escape.markdown_cell(CLASSES.get(name, name)),
                _count(row.get("n")),
                _count(enough),
                _count(tested),
                how,
            ]
        )
    if not body:
        return ""
    header = ["Class", "Latents", "With enough sequences", "Ablated", "Which"]
    return markdown_grid(header, body, right=(1, 2, 3))


def _classes(found: Mapping[str, Any]) -> str:
    """A row per class: the median of every statistic, with its interval and quartiles where they matter."""
    body = []
    for name in _names(found):
        values = _statistics(found, name)
        r = mapping(values.get("pearson"))
        cells = [CLASSES[name], _count(r.get("n")), _with_bounds(r), _quartiles(r)]
        cells += [
            number_or_dash(mapping(values.get(key)).get("value")) for key, _ in STATISTICS[1:]
        ]
        cells += [
            number_or_dash(mapping(values.get(f"above_{limit}")).get("value"))
            for limit in ("0.5", "0.9")
        ]
        body.append(cells)
    if not body:
        return ""
    header = ["Class", "n", "Pearson, median", "Quartiles", *(title for _, title in STATISTICS[1:])]
    header += ["r > .5", "r > .9"]
    table = markdown_grid(header, body, right=range(1, len(header)))
    return f"Correlation of both models' shifts over the probes of a latent, medians by class.\n\n{table}"


def _nulls(found: Mapping[str, Any]) -> str:
    """A row per class: the statistic beside the nulls, the paired differences, size and direction."""
    body = []
    for name in _names(found):
        values = _statistics(found, name)
        body.append(
            [
                CLASSES[name],
                *(
                    _value(values, key)
                    for key in ("pearson", "random_pearson", "mismatched_pearson")
                ),
                *(
                    _value(values, key)
                    for key in ("partial_log", "random_partial_log", "mismatched_partial_log")
                ),
                _with_bounds(mapping(values.get("partial_log_over_random"))),
                _with_bounds(mapping(values.get("partial_log_over_mismatched"))),
                f"{_value(values, 'logit_cosine')} ({_value(values, 'random_logit_cosine')})",
                f"{_value(values, 'effect_base')} / {_value(values, 'effect_chat')}",
                _value(values, "effect_ratio"),
            ]
        )
    if not body:
        return ""
    header = [
        "Class",
        "Pearson",
        "random",
        "mismatched",
        "Logs, log f fixed",
        "random",
        "mismatched",
        "Over random",
        "Over mismatched",
        "Logit cosine (random)",
        "Mean KL base / chat",
        "over random",
    ]
    table = markdown_grid(header, body, right=range(1, len(header)))
    return (
        "The same beside what nulls give on the same probes; differences are medians latent by latent.\n\n"
        f"{table}"
    )


def _notes(record: Record, found: Mapping[str, Any]) -> str:
    """Cosine against equivalence, what is undefined, and which probes the logs lack."""
    lines = []
    rho = record.get("causal_cosine_correlation")
    if rho is not None and rho.value is not None:
        shown = _with_bounds({"value": rho.value, "low": rho.low, "high": rho.high})
        lines.append(f"Decoder cosine against Pearson's r over shared latents: ρ = {shown}.")
    for name in _names(found):
        for reason, n in mapping(
            mapping(mapping(found.get("classes")).get(name)).get("undefined")
        ).items():
            lines.append(
                f"Undefined, not 0: {_count(n)} {CLASSES[name]} ({escape.markdown_text(reason)})."
            )
    rows = rows_of(found)
    lost = sum(
        row["n_probes"] - row["n_log"]
        for row in rows
        if isinstance(row.get("n_probes"), int)
        and isinstance(row.get("n_log"), int)
        and row.get("pearson") is not None
    )
    if lost:
        lines.append(
            f"{count(lost)} probes with a shift of exactly 0 in a model are left out of the logs alone."
        )
    return "\n".join(f"- {line}" for line in lines)


def _gaps(found: Mapping[str, Any]) -> str:
    """The shared latents whose decoder rows agree while their effects do not."""
    gaps = mapping(found.get("gaps"))
    wanted, sure = _items(gaps.get("latents")), _items(gaps.get("sure"))
    where = (
        f"cosine > {number_or_dash(gaps.get('cosine'))} and r < "
        f"{number_or_dash(gaps.get('equivalence'))}"
    )
    total = (
        f"{count(len(wanted))} of {_count(gaps.get('n_known'))} shared latents are gaps ({where}; "
        f"{_count(gaps.get('n_candidates'))} have such a cosine), {count(len(sure))} with their whole "
        "interval below."
    )
    if not wanted:
        return total
    by_latent = {row.get("latent"): row for row in rows_of(found)}
    listed = [by_latent[latent] for latent in wanted[:LISTED] if latent in by_latent]
    body = [
        [
            _count(row.get("latent")),
            number_or_dash(row.get("cosine")),
            _bounds_of(row, "pearson"),
            _bounds_of(row, "spearman"),
            _bounds_of(row, "partial_log"),
            number_or_dash(row.get("random_pearson")),
            _count(row.get("n_probes")),
        ]
        for row in listed
    ]
    header = ["Latent", "Cosine", "Pearson", "Spearman", "Logs, log f fixed", "random", "Probes"]
    table = markdown_grid(header, body, right=range(len(header)))
    return f"{total} The lowest {count(len(listed))}:\n\n{table}"


def _strongest(found: Mapping[str, Any]) -> str:
    """The latents of one model that move predictions the most."""
    rows: Rows = [row for row in rows_of(found) if _known(row.get("effect"))]
    rows.sort(key=lambda row: (-row["effect"], str(row.get("latent"))))
    body = [
        [
            _count(row.get("latent")),
            number_or_dash(row["effect"]),
            number_or_dash(row.get("random_effect")),
            _bounds_of(row, "over_random"),
            _count(row.get("n_probes")),
        ]
        for row in rows[:LISTED]
    ]
    if not body:
        return ""
    header = ["Latent", "Mean KL", "Random direction", "Difference", "Probes"]
    table = markdown_grid(header, body, right=range(len(header)))
    return f"The latents that move predictions the most, in nats:\n\n{table}"


def _names(found: Mapping[str, Any]) -> list[str]:
    """The classes that have statistics, in order."""
    return [name for name in CLASSES if _statistics(found, name)]


def _statistics(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return mapping(mapping(mapping(found.get("classes")).get(name)).get("statistics"))


def _value(values: Mapping[str, Any], key: str) -> str:
    return number_or_dash(mapping(values.get(key)).get("value"))


def _with_bounds(item: Mapping[str, Any]) -> str:
    """``0.81 [0.74, 0.86]``, or what of it there is."""
    value, low, high = (item.get(key) for key in ("value", "low", "high"))
    shown = number_or_dash(value)
    if not _known(low) or not _known(high):
        return shown
    return f"{shown} [{number_or_dash(low)}, {number_or_dash(high)}]"


def _bounds_of(row: Mapping[str, Any], name: str) -> str:
    return _with_bounds(
        {"value": row.get(name), "low": row.get(f"{name}_low"), "high": row.get(f"{name}_high")}
    )


def _quartiles(item: Mapping[str, Any]) -> str:
    found = _items(item.get("quartiles"))
    return " to ".join(number_or_dash(value) for value in found) if len(found) == 2 else "–"


def _items(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _known(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(value: object) -> str:
    return count(value) if isinstance(value, int | float) else "–"
