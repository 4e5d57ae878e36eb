"""What a card says of ablated latents: do two models shift alike, and more than nulls do? Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saebench.record import Record
from saebench.report import escape
from saebench.report.causal_gaps import gap_list
from saebench.report.causal_stored import (
    CLASSES,
    class_names,
    items,
    known,
    quartiles,
    row_bounds,
    selected,
    shown_count,
    statistics_of,
    value_of_key,
    with_bounds,
)
from saebench.report.causal_table import Rows, rows_of
from saebench.report.causal_verdict import pair_verdict, single_verdict
from saebench.report.digits import count, number_or_dash
from saebench.report.stored import mapping
from saebench.report.table import markdown_grid

STATISTICS = (
    ("pearson", "Pearson"),
    ("spearman", "Spearman"),
    ("log", "Logs"),
    ("partial_pearson", "Pearson, f and f² fixed"),
    ("partial_spearman", "Spearman, rank f fixed"),
    ("partial_log", "Logs, log f fixed"),
    ("reverse_pearson", "KL reversed"),
)
COMPARED = {"pearson": "Pearson", "partial_log": "Partial"}  # that are set against nulls
LISTED = 10  # latents in a table


def section(record: Record) -> str:
    """The causal part of one checkpoint; empty without it."""
    found = mapping(record.details.get("causal"))
    if not found:
        return ""
    if reason := found.get("reason"):
        return f"Not measured: {escape.markdown_text(reason)}"
    if found.get("mode") == "single":
        parts = [
            single_verdict(record, found),
            _design(found),
            _selection(found),
            _strongest(found),
        ]
    else:
        parts = [
            pair_verdict(found),
            _design(found),
            _selection(found),
            _classes(found),
            _nulls(found),
            _sizes(found),
            _notes(record, found),
            gap_list(found),
        ]
    return "\n\n".join(part for part in parts if part)


def _design(found: Mapping[str, Any]) -> str:
    """What was done."""
    asked = mapping(found.get("protocol"))
    sites = " and ".join(escape.code_span(site) for site in items(found.get("site")))
    models = " and ".join(escape.code_span(model) for model in items(found.get("models")))
    pair = found.get("mode") != "single"
    arms = "random directions of equal norm (the same unit vector in both models)"
    null = f"{arms} and other latents of the class" if pair else "random directions of equal norm"
    return (
        f"At {sites} of {models}: f · d of one latent is taken from the activation at a token where it "
        f"fires, the rest stays, and the shift is KL(clean‖ablated) of the next token. "
        f"{shown_count(found.get('n_probes'))} probes in {shown_count(found.get('n_sequences'))} sequences, "
        f"at most {shown_count(asked.get('n_probes'))} per latent and one per sequence; a latent with fewer "
        f"than {shown_count(asked.get('min_probes'))} has no statistic. Nulls on the same probes: {null}. "
        f"{_intervals(found, pair)}"
    )


def _intervals(found: Mapping[str, Any], pair: bool) -> str:
    """How intervals were made, and what they are of where there was no sampling of latents."""
    said = [
        "Intervals of a latent resample its probes; those of a class resample latents and hold for these "
        "probes."
    ]
    whole = [name for name in class_names(found) if _is_census(selected(found, name))]
    if whole:
        of = "" if whole == ["all"] else f" {' and '.join(CLASSES[name] for name in whole)}"
        said.append(
            f"Those over{of} latents are as if these latents were a sample of like ones; all were tested "
            "that fire often enough."
        )
    if pair:
        said.append(
            "Pearson's intervals cover less than 95 % for heavy-tailed shifts (measured .83 to .92); those "
            "of ranks and logarithms .91 to .97."
        )
    return " ".join(said)


def _is_census(row: Mapping[str, Any]) -> bool:
    """Whether every latent of a class that fires often enough was ablated."""
    tested = row.get("n_tested")
    return bool(known(tested) and tested and tested == row.get("n_enough"))


def _selection(found: Mapping[str, Any]) -> str:
    """How many latents of each class were ablated."""
    body = []
    for item in items(found.get("selection")):
        row = mapping(item)
        tested, enough = row.get("n_tested"), row.get("n_enough")
        how = "–"
        if known(tested) and known(enough) and tested:
            how = "all of these" if _is_census(row) else "random sample"
        name = str(row.get("class"))
        body.append(
            [
                escape.markdown_cell(CLASSES.get(name, name)),
                shown_count(row.get("n")),
                shown_count(enough),
                shown_count(tested),
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
    for name in class_names(found):
        values = statistics_of(found, name)
        r = mapping(values.get("pearson"))
        cells = [CLASSES[name], shown_count(r.get("n")), with_bounds(r), quartiles(r)]
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
    """A row per class: two statistics beside what nulls give, and how much more the latents give."""
    body = []
    for name in class_names(found):
        values = statistics_of(found, name)
        cells = [CLASSES[name]]
        for key in COMPARED:
            nulls = (f"random_{key}", f"mismatched_{key}")
            cells += [value_of_key(values, one) for one in (key, *nulls)]
            cells += [
                with_bounds(mapping(values.get(f"{key}_over_{arm}")))
                for arm in ("random", "mismatched")
            ]
        body.append(cells)
    if not body:
        return ""
    header = ["Class"]
    for title in COMPARED.values():
        header += [title, *(f"{title} {of}" for of in ("of random", "of mismatched"))]
        header += [f"{title} less random's", f"{title} less mismatched's"]
    table = markdown_grid(header, body, right=range(1, len(header)))
    return (
        "Pearson's r, and the partial r of the logs with log f fixed (Partial), beside what nulls give on "
        "the same probes; each difference is the median, latent by latent, of the statistic less the null's. "
        "The random arm puts one unit vector into both models (cosine 1), so that latents whose rows differ "
        f"fall below it by construction; the mismatched one is the test of specificity.\n\n{table}"
    )


def _sizes(found: Mapping[str, Any]) -> str:
    """A row per class: direction and size of the shifts, beside those of random directions."""
    body = [
        [
            CLASSES[name],
            value_of_key(values, "logit_cosine"),
            value_of_key(values, "random_logit_cosine"),
            value_of_key(values, "effect_base"),
            value_of_key(values, "effect_chat"),
            value_of_key(values, "effect_ratio"),
        ]
        for name in class_names(found)
        for values in (statistics_of(found, name),)
    ]
    if not body:
        return ""
    header = ["Class", "Logit cosine", "of random", "Mean KL, base", "chat", "times random's"]
    table = markdown_grid(header, body, right=range(1, len(header)))
    return (
        "Direction and size: cosine of both models' changes of the logits, and mean KL in nats.\n\n"
        f"{table}"
    )


def _notes(record: Record, found: Mapping[str, Any]) -> str:
    """Cosine against equivalence, what is undefined, and which probes the logs lack."""
    lines = []
    rho = record.get("causal_cosine_correlation")
    if rho is not None and rho.value is not None:
        shown = with_bounds({"value": rho.value, "low": rho.low, "high": rho.high})
        lines.append(f"Decoder cosine against Pearson's r over shared latents: ρ = {shown}.")
    for name in class_names(found):
        for reason, n in mapping(
            mapping(mapping(found.get("classes")).get(name)).get("undefined")
        ).items():
            lines.append(
                f"Undefined, not 0: {shown_count(n)} {CLASSES[name]} ({escape.markdown_text(reason)})."
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


def _strongest(found: Mapping[str, Any]) -> str:
    """The latents of one model that move predictions the most."""
    rows: Rows = [row for row in rows_of(found) if known(row.get("effect"))]
    rows.sort(key=lambda row: (-row["effect"], str(row.get("latent"))))
    body = [
        [
            shown_count(row.get("latent")),
            number_or_dash(row["effect"]),
            number_or_dash(row.get("random_effect")),
            row_bounds(row, "over_random"),
            shown_count(row.get("n_probes")),
        ]
        for row in rows[:LISTED]
    ]
    if not body:
        return ""
    header = ["Latent", "Mean KL", "Random direction", "Difference", "Probes"]
    table = markdown_grid(header, body, right=range(len(header)))
    return f"The latents that move predictions the most, in nats:\n\n{table}"
