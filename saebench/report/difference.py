"""What a card says of an SAE on the difference of two models, token subset by token subset. Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saebench.record import Record
from saebench.report import escape
from saebench.report.digits import counted, number_or_dash
from saebench.report.places import portable
from saebench.report.stored import items, mapping
from saebench.report.table import markdown_grid

PART = "difference"
SUBSETS = {
    "all": "All tokens",
    "fire": "Fire tokens",
    "decision": "Decision tokens",
    "answer": "Answer tokens",
    "fire_matched": "Fire tokens with a counterpart",
    "matched": "Their counterparts",
    "top": "Largest ‖δ‖",
    "rest": "The rest",
    "bottom": "Smallest ‖δ‖",
}
BASELINES = {
    "mean": "Mean of δ",
    "pca": "PCA",
    "base_sae": "Base SAE: dec(f(x₁)) − dec(f(x₀))",
    "random": "Random directions, least squares",
}
FEW_DOCUMENTS = 30
SHARES = {"top": "top", "bottom": "bottom"}  # subsets whose share of tokens the protocol says


def section(record: Record) -> str:
    """The tables of a difference SAE; empty without the part."""
    found = mapping(record.details.get(PART))
    if not found:
        return ""
    rows = _rows(found.get("table"))
    if not rows:
        return f"Not measured: {escape.markdown_text(found.get('reason'))}"
    latents = mapping(found.get("latents"))
    parts = [
        _intro(found),
        _subsets(found, rows),
        _conditions(_rows(found.get("conditions"))),
        _baselines(mapping(found.get("baselines"))),
        _latents(latents),
    ]
    return "\n\n".join(part for part in parts if part)


def _intro(found: Mapping[str, Any]) -> str:
    """What was read, and how to read FVE of a subset."""
    text, asked = mapping(found.get("text")), mapping(found.get("protocol"))
    where = (
        "the run's own text"
        if text.get("own", True)
        else f"{counted(mapping(text.get('data')).get('n_sequences'))} labelled prompts"
    )
    dead = mapping(found.get("dead"))
    size = f"{counted(found.get('n_tokens'))} tokens of {where}"
    said = [
        f"Measured on {size}; {counted(dead.get('n'))} of {counted(dead.get('of'))} latents fire on none "
        "of them.",
        "Only FVE about the global mean adds up over a partition, weighted by the share of the variance. "
        "Tokens selected by ‖δ‖ have large denominators: their FVE is high for any reconstruction, and "
        "fire tokens with a counterpart, an unlabelled token of nearly the same norm, are to be read beside "
        "those counterparts.",
    ]
    if n := text.get("n_documents"):
        said.insert(
            1,
            f"Intervals resample whole documents, of which there are {counted(n)}{_few(n)}.",
        )
    if n := text.get("n_left_out"):
        most = counted(asked.get("max_tokens"))
        said.insert(1, f"{counted(n)} prompts beyond {most} tokens were left out at random.")
    lost = mapping(text.get("n_lost"))
    named = [
        f"{counted(n)} of {counted(mapping(text.get('n_spans')).get(name))} {escape.markdown_text(name)}"
        for name, n in lost.items()
        if n
    ]
    if named:
        said.insert(1, f"Spans without any token (cut off, or blank): {', '.join(named)}.")
    return " ".join(said)


def _few(n: object) -> str:
    """What to know of percentile intervals over few documents."""
    few = isinstance(n, int | float) and n < FEW_DOCUMENTS
    return f": with fewer than {FEW_DOCUMENTS} percentile intervals are too narrow" if few else ""


def _subsets(found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    asked = mapping(found.get("protocol"))
    body = [[_subset_name(row.get("name"), asked), *_cells(row)] for row in rows]
    whys: dict[str, list[str]] = {}
    for row in rows:
        why = row.get("reason") or _without_value(mapping(row.get("fve")))
        if why:
            whys.setdefault(str(why), []).append(_subset_name(row.get("name"), asked))
    missing = [f"{', '.join(names)}: {escape.markdown_text(why)}." for why, names in whys.items()]
    missing += _unpaired(rows)
    table = markdown_grid(["Tokens", *_header()], body, right=range(1, 8))
    return "\n\n".join(part for part in (table, " ".join(missing)) if part)


def _unpaired(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many fire tokens are left out of the comparison with counterparts, where it is made."""
    sizes = {str(row.get("name")): row.get("n_tokens") for row in rows}
    every, paired = sizes.get("fire"), sizes.get("fire_matched")
    if not isinstance(every, int) or not isinstance(paired, int) or not 0 < paired < every:
        return []
    return [
        f"{counted(every - paired)} of {counted(every)} fire tokens have no counterpart: no other token "
        "without a label is left that has such a norm."
    ]


def _without_value(figure: Mapping[str, Any]) -> object:
    return figure.get("reason") if figure.get("value") is None else None


def _subset_name(name: object, asked: Mapping[str, Any]) -> str:
    words = SUBSETS.get(str(name), escape.markdown_cell(name))
    share = asked.get(SHARES.get(str(name), ""))
    if not isinstance(share, int | float):
        return words
    return f"{words}, {number_or_dash(100 * share)} %"


def _conditions(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    body = [[escape.markdown_cell(row.get("name")), *_cells(row)] for row in rows]
    table = markdown_grid(["Prompts", *_header()], body, right=range(1, 8))
    return f"By what the prompt is an example of:\n\n{table}"


def _header() -> list[str]:
    return ["n", "Sequences", "Mean ‖δ‖", "Share of variance", "FVE, own mean", "global mean", "L0"]


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        counted(row.get("n_tokens")),
        counted(row.get("n_sequences")),
        number_or_dash(row.get("mean_norm")),
        *(shown(row.get(name)) for name in ("tss_share", "fve", "fve_global")),
        number_or_dash(mapping(row.get("l0")).get("value")),
    ]


def _baselines(found: Mapping[str, Any]) -> str:
    """FVE of simpler reconstructions, on all tokens and on the subsets where they were taken."""
    names = [name for name in BASELINES if mapping(found.get(name))]
    if not names:
        return ""
    columns = ("all", "fire", "fire_matched", "matched", "top", "bottom")
    body = []
    for name in names:
        one = mapping(found.get(name))
        words = BASELINES[name] + (f", k = {counted(one['k'])}" if "k" in one else "")
        body.append([words, *(shown(one.get(column)) for column in columns)])
    table = markdown_grid(["FVE of", *(SUBSETS[c] for c in columns)], body, right=range(1, 7))
    notes = []
    base, sample = (
        mapping(found.get("base_sae")),
        mapping(mapping(found.get("random")).get("sample")),
    )
    if base:
        named = escape.code_span(portable(base.get("sae")))
        l0 = number_or_dash(base.get("l0"))
        notes.append(f"The base SAE is {named}, {l0} latents a token on either side.")
        notes += [f"{escape.markdown_text(note)}." for note in items(base.get("notes"))]
    if sample:
        notes.append(
            f"Random directions are fitted on a sample of {counted(sample.get('n_tokens'))} tokens."
        )
    return "\n\n".join(part for part in (table, " ".join(notes)) if part)


def _latents(found: Mapping[str, Any]) -> str:
    """The latents most specific to fire tokens, and where else they fire."""
    if reason := found.get("reason"):
        return f"Latents as detectors of fire tokens: not measured, {escape.markdown_text(reason)}."
    rows = _rows(found.get("rows"))
    if not rows:
        return ""
    conditions = mapping(found.get("prompts_of_condition"))
    header = ["Latent", "F1 where chosen", "F1", "Precision", "Recall", "AUROC of prompts"]
    header += [f"{escape.markdown_cell(name)} ({counted(n)})" for name, n in conditions.items()]
    body = []
    for row in rows:
        judging, on = mapping(row.get("judging")), mapping(row.get("prompts_by_condition"))
        cells = [
            counted(row.get("latent")),
            number_or_dash(mapping(row.get("choosing")).get("f1")),
        ]
        cells += [
            number_or_dash(judging.get(name))
            for name in ("f1", "precision", "recall", "prompt_auroc")
        ]
        body.append([*cells, *(counted(on.get(name)) for name in conditions)])
    best = mapping(found.get("best"))
    scored = ", ".join(
        f"{words} {shown(best.get(name))}"
        for name, words in (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))
    )
    return (
        f"The latents most specific to fire tokens, chosen by F1 on {_half(found, 'choosing')} and judged on "
        f"{_half(found, 'judging')}, where the best one has {scored}. Every other counted "
        "token is a negative. The last columns count the prompts of each condition in which the latent "
        "fires before the answer: one that stands for the conjunction stays silent on single words and "
        f"mismatched pairs.\n\n{markdown_grid(header, body, right=range(len(header)))}"
    )


def _half(found: Mapping[str, Any], name: str) -> str:
    """The prompts of a half, and their documents where these are known."""
    prompts, documents = (mapping(found.get(key)).get(name) for key in ("n_prompts", "n_documents"))
    of = "" if documents is None else f" of {counted(documents)} documents"
    return f"{counted(prompts)} prompts{of}"


def shown(figure: object) -> str:
    """``0.612 [0.541, 0.683]`` of a stored figure."""
    found = mapping(figure)
    value, bounds = found.get("value"), items(found.get("interval"))
    if not isinstance(value, int | float):
        return "–"
    if len(bounds) != 2 or not all(isinstance(bound, int | float) for bound in bounds):
        return f"{value:.3f}"
    low, high = bounds
    return f"{value:.3f}" if low == high else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _rows(value: object) -> list[Mapping[str, Any]]:
    return [row for row in items(value) if isinstance(row, Mapping)]
