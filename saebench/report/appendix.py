"""The parts of a card about the whole evaluation: definitions, masks, limits, how to repeat it. Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saebench.gates import Status, Verdict
from saebench.record import Record
from saebench.report import escape
from saebench.report.base_model import other_model
from saebench.report.digits import count
from saebench.report.front_matter import models_measured
from saebench.report.places import portable, portable_command, reference
from saebench.report.results import NAMED, documents, not_evaluated, tokens_counted
from saebench.report.stored import mapping
from saebench.report.table import markdown_grid

MASKS = {
    "special": "positions that hold a special token (BOS, EOS, padding) are not counted",
    "bos": "positions that hold the BOS token, and padding, are not counted",
    "none": "every position is counted but padding",
    "all but position 0": "every position is counted but the first, which is BOS, and padding",
}


def definitions(records: Sequence[Record]) -> str:
    """Formula, unit, direction and source of every metric in the card."""
    known: dict[str, Mapping[str, Any]] = {}
    for record in records:
        for metric in record.measurements:
            known.setdefault(metric, record.definitions.get(metric, {}))
    rows = []
    for metric, definition in sorted(known.items()):
        cells = (definition.get(key) for key in ("label", "unit", "better", "source"))
        words = [escape.markdown_cell(cell or "") for cell in cells]
        rows.append(
            [escape.code_span(metric, cell=True), words[0], _formula(definition), *words[1:]]
        )
    header = ["Id", "Metric", "Definition", "Unit", "Better", "Source"]
    table = markdown_grid(header, rows)
    intro = "Intervals are 95 %. The number after @ is the version of a definition."
    summary = f"<details><summary>{count(len(rows))} definitions</summary>"
    return f"{intro}\n\n{summary}\n\n{table}\n\n</details>"


def positions(records: Sequence[Record]) -> str:
    """The mask policy and the resampling, once for records that share them."""
    return "\n\n".join(_grouped(records, _positions))


def limitations(records: Sequence[Record], verdicts: Sequence[Verdict]) -> str:
    """Another model than in training, failed and waived limits, what is missing, what is not covered."""
    others: dict[str, list[str]] = {}  # what to say, and of which checkpoints
    for record in records:
        if other := other_model(record):
            others.setdefault(other, []).append(record.name)
    found: dict[str, list[str]] = {}
    for status in (Status.FAIL, Status.NOT_EVALUABLE, Status.WAIVED):
        for verdict in verdicts:
            if verdict.status is status:
                found.setdefault(verdict.message, []).append(verdict.name)
    for record in records:
        for text in [*_missing(record), *_windows(record), *_pieces(record)]:
            found.setdefault(text, []).append(record.name)
    several = len(records) > 1
    lines = [_about(names, text, several, strong=True) for text, names in others.items()]
    lines += [_about(names, text, several) for text, names in found.items()]
    lines.append(
        "Intervals come from resampling the sequences of one data set. They do not cover other text, "
        "other models, or training the same recipe with another seed."
    )
    return "\n".join(f"- {line}" for line in lines)


def _missing(record: Record) -> list[str]:
    """What has no value and why; many with one reason are counted instead of named."""
    by_reason: dict[str, list[str]] = {}
    for name, why in not_evaluated(record):
        by_reason.setdefault(why, []).append(name)
    found = []
    for why, names in by_reason.items():
        if len(names) > NAMED:
            found.append(f"{count(len(names))} measurements were not evaluated: {why}")
        else:
            found += [f"{name} was not evaluated: {why}" for name in names]
    return found


def reproduce(command: str) -> str:
    """The exact command, but for the folders of the computer where it ran."""
    if not command.strip():
        return "The command was not recorded."
    text, replaced = portable_command(command)
    block = escape.code_block(text.splitlines(), "sh")
    return f"{block}\n\n`path/to/…` are placeholders." if replaced else block


def provenance(records: Sequence[Record]) -> str:
    """Commits, digests, versions and dates."""
    parts = []
    for record in records:
        title = [f"**{escape.markdown_text(record.name)}**"] if len(records) > 1 else []
        parts += [*title, _files(record)]
    parts += _grouped(records, _environment)
    return "\n\n".join(parts)


def _formula(definition: Mapping[str, Any]) -> str:
    formula = definition.get("formula")
    return escape.code_span(formula, cell=True) if formula else "–"


def _positions(record: Record) -> str:
    policy, data = record.policy, record.data
    mask = str(data.get("mask") or policy.get("mask") or "")
    words = MASKS.get(mask, "which positions count is not recorded")
    parts = [f"Mask policy {escape.code_span(mask)}: {words}."]
    if policy.get("uncounted_positions"):
        parts.append(f"Other positions {escape.markdown_text(policy['uncounted_positions'])}.")
    if policy.get("ablation"):
        parts.append(f"Ablation: {escape.markdown_text(policy['ablation'])}.")
    if policy.get("resampling"):
        text = escape.markdown_text(policy["resampling"])
        n, seed = policy.get("n_resamples"), policy.get("seed")
        size = f", {count(n)} resamples" if n else ""
        parts.append(f"Resampled: {text}{size}{f', seed {seed}' if seed is not None else ''}.")
    if "pack" in data:
        parts.append("Documents are packed." if data["pack"] else "Documents are not packed.")
    return " ".join(parts)


def _windows(record: Record) -> list[str]:
    """What the number of tokens read says about latents that were not seen to fire."""
    dead = record.get("dead_fraction")
    if dead is None or dead.value is None:
        return []
    n = count(dead.n_tokens or tokens_counted(record))
    lines = []
    bound, rise = (
        dead.detail.get(key) for key in ("density_upper_bound", "alive_rise_last_doubling")
    )
    if bound:
        lines.append(
            f"a latent counts as dead when it did not fire on {n} tokens; "
            f"that bounds its density at {bound:.1e} (3/n, 95 %), it does not make it zero"
        )
    if dead.detail.get("window_too_short") and rise:
        lines.append(
            f"the number of latents seen to fire still grew by {100 * rise:.1f} % over the last doubling "
            "of the text; more text would find fewer dead"
        )
    return lines


def _pieces(record: Record) -> list[str]:
    """That sequences cut from the same document are no independent sample."""
    n_sequences, n_documents = record.data.get("n_sequences"), documents(record)
    if not (record.data.get("pack") and n_sequences and n_documents):
        return []
    return [
        f"the {count(n_sequences)} sequences are cut from {count(n_documents)} "
        f"document{'' if n_documents == 1 else 's'}; pieces of one document resemble each other, so "
        "the intervals are narrower than a new set of documents would give"
    ]


def _files(record: Record) -> str:
    checkpoint = record.checkpoint
    rows = [["reference", escape.code_span(reference(record), cell=True)]]
    for name in ("commit", "digest"):
        if checkpoint.get(name):
            rows.append([name, escape.code_span(checkpoint[name], cell=True)])
    for name, digest in sorted(checkpoint.get("files", {}).items()):
        title = f"sha256 of {escape.code_span(name, cell=True)}"
        rows.append([title, escape.code_span(digest, cell=True)])
    rows += _base_sae(record)
    rows.append(["record", escape.code_span(record.key, cell=True)])
    rows.append(["measured", escape.markdown_cell(record.created)])
    return markdown_grid(["Checkpoint", ""], rows)


def _base_sae(record: Record) -> list[list[str]]:
    """The SAE of the base model that a difference SAE was compared with, as far as it is known."""
    baselines = mapping(mapping(record.details.get("difference")).get("baselines"))
    found = mapping(baselines.get("base_sae"))
    named = (("base SAE", "sae"), ("base SAE commit", "commit"), ("base SAE digest", "digest"))
    return [
        [title, escape.code_cell(portable(found[key]))] for title, key in named if found.get(key)
    ]


def _environment(record: Record) -> str:
    models = models_measured(record)
    numbered = [f"model {n}" for n in range(len(models))] if len(models) > 1 else ["model"]
    rows = []
    for title, part in (
        *zip(numbered, models, strict=True),
        ("data", record.data),
        ("labelled prompts", _prompts(record)),
    ):
        for key, value in sorted(part.items()):
            if isinstance(value, str) and value:
                rows.append(
                    [f"{title} {escape.markdown_text(key)}", escape.code_cell(portable(value))]
                )
    versions = [f"{key} {value}" for key, value in sorted(record.environment.items())]
    if versions:
        rows.append(["versions", escape.markdown_cell(", ".join(versions), 400)])
    return markdown_grid(["Model, data and software", ""], rows)


def _prompts(record: Record) -> Mapping[str, Any]:
    """What identifies the labelled prompts of the difference suite; empty without any."""
    text = mapping(mapping(record.details.get("difference")).get("text"))
    if text.get("own", True):
        return {}
    data = mapping(text.get("data"))
    return {
        **{key: data.get(key) for key in ("spec", "tokenizer", "digest")},
        "digest with labels": text.get("digest"),
    }


def _grouped(records: Sequence[Record], text: Any) -> list[str]:
    """``text(record)`` once where all agree, else under the names of those that share it."""
    groups: dict[str, list[str]] = {}
    for record in records:
        groups.setdefault(text(record), []).append(record.name)
    if len(groups) == 1:
        return list(groups)
    parts = []
    for shared, names in groups.items():
        parts += [_bold(names), shared]
    return parts


def _about(names: Sequence[str], message: str, several: bool, *, strong: bool = False) -> str:
    text = escape.markdown_text(message if several else message[:1].upper() + message[1:])
    text = f"**{text}**" if strong else text
    return f"{_bold(names)}: {text}" if several else text


def _bold(names: Sequence[str]) -> str:
    return ", ".join(f"**{escape.markdown_text(name)}**" for name in names)
