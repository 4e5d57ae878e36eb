"""What a card says of groups of checkpoints that differ in their seed: figures, and every pair. Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saebench.gates import Verdict
from saebench.record import Record
from saebench.report import escape
from saebench.report.digits import count, number, number_or_dash
from saebench.report.results import all_rows, headline_rows
from saebench.report.table import markdown_grid, markdown_table

# A column of the table of pairs: its title and where its number is in the details of a pair.
PAIR_COLUMNS = (
    ("Shared, decoder", ("decoder", "shared")),
    ("of the alive", ("decoder", "shared_alive")),
    ("Shared, encoder", ("encoder", "shared")),
    ("Matched cosine, decoder", ("decoder", "matched_cosine")),
    ("by chance", ("floor", "matched_cosine")),
    ("either sign", ("decoder", "matched_abs_cosine")),
    ("Matched cosine, encoder", ("encoder", "matched_cosine")),
    ("Functional correlation", ("functional", "correlation")),
    ("by chance", ("functional", "null")),
    ("of pairs", ("functional", "n_scored")),
    ("Firing Jaccard", ("firing_jaccard",)),
    ("Top-k overlap", ("top_k_overlap",)),
)


def groups_intro(groups: Sequence[Record]) -> str:
    """What the figures of groups are about."""
    thresholds = {_threshold(group) for group in groups} - {None}
    above = f" above {', '.join(number(float(t)) for t in thresholds if t is not None)}"
    return (
        "The checkpoints of a group are matched pair by pair: each latent of one with at most one of "
        "the other, such that the sum of cosines is the largest possible. A pair of latents counts as "
        f"shared where its cosine is{above if thresholds else ' above the threshold'}. Figures are "
        "means over the pairs of a group."
    )


def group_section(group: Record, verdicts: Sequence[Verdict]) -> str:
    """The members of a group, its figures with their verdicts, and a table of its pairs."""
    members = group.checkpoint.get("members", ())
    names = ", ".join(escape.code_span(str(name)) for name in members)
    parts = [f"{count(len(members))} checkpoints: {names}."]
    parts.append(markdown_table(headline_rows(group, verdicts)))
    pairs = group.details.get("seeds", {}).get("pairs", ())
    if pairs:
        columns = [
            (title, path)
            for title, path in PAIR_COLUMNS
            if any(_at(p, path) is not None for p in pairs)
        ]
        rows = [
            [
                f"{escape.code_span(str(pair.get('a')), cell=True)} and "
                f"{escape.code_span(str(pair.get('b')), cell=True)}",
                *(number_or_dash(_at(pair, path)) for _, path in columns),
            ]
            for pair in pairs
        ]
        header = ["Pair", *(title for title, _ in columns)]
        parts.append(markdown_grid(header, rows, right=range(1, len(header))))
        if open_ones := [p for p in pairs if _at(p, ("decoder", "certified")) is False]:
            parts.append(
                f"Of {count(len(open_ones))} pairs the matching of decoders is not proven to be the "
                "best one; the record says by how much it may fall short."
            )
    shown = {row.metric for row in headline_rows(group, verdicts)}
    if rest := [row for row in all_rows(group) if row.metric not in shown]:
        summary = f"<details><summary>{count(len(rest))} more measurements</summary>"
        parts += [summary, markdown_table(rest), "</details>"]
    return "\n\n".join(parts)


def _threshold(group: Record) -> float | None:
    value = group.details.get("seeds", {}).get("threshold")
    return float(value) if isinstance(value, int | float) else None


def _at(pair: Mapping[str, Any], path: Sequence[str]) -> Any:
    """The value at a path of keys, None where there is none."""
    value: Any = pair
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
