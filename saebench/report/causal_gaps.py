"""Gaps on a card: latents whose decoder rows agree and whose effects do not; what a null says of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saebench.report.causal_stored import items, known, row_bounds, shown_count
from saebench.report.causal_table import Rows, rows_of
from saebench.report.digits import count, number_or_dash
from saebench.report.stored import mapping
from saebench.report.table import markdown_grid

LISTED = 10  # in the table
HEADER = (
    "Latent",
    "Sure",
    "Cosine",
    "Pearson",
    "Spearman",
    "Logs, log f fixed",
    "Pearson, random",
    "Probes",
)


def gap_list(found: Mapping[str, Any]) -> str:
    """How many gaps there are, the first of them in a table, and in how many a random direction is one."""
    gaps = mapping(found.get("gaps"))
    wanted, sure = items(gaps.get("latents")), items(gaps.get("sure"))
    limit = number_or_dash(gaps.get("equivalence"))
    total = (
        f"{count(len(sure))} of {shown_count(gaps.get('n_known'))} shared latents are gaps for sure: cosine "
        f"> {number_or_dash(gaps.get('cosine'))}, and the whole intervals of Pearson's r and of "
        f"Spearman's ρ below {limit}. {count(len(wanted))} have r < {limit} at such a cosine, some of them "
        f"by the noise of few probes; {shown_count(gaps.get('n_candidates'))} have such a cosine."
    )
    if not wanted:
        return total
    listed = _gap_rows(found)[:LISTED]
    body = [
        [
            shown_count(row.get("latent")),
            "yes" if row.get("latent") in sure else "no",
            number_or_dash(row.get("cosine")),
            row_bounds(row, "pearson"),
            row_bounds(row, "spearman"),
            row_bounds(row, "partial_log"),
            number_or_dash(row.get("random_pearson")),
            shown_count(row.get("n_probes")),
        ]
        for row in listed
    ]
    table = markdown_grid(HEADER, body, right=range(len(HEADER)))
    shown = f"{total} Sure ones first, lowest r first ({count(len(listed))}):\n\n{table}"
    said = _of_any_direction(found, limit)
    return f"{shown}\n\n{said}" if said else shown


def of_any_direction(found: Mapping[str, Any]) -> tuple[Rows, Rows]:
    """The gaps at which a random direction correlates below the limit, too, and all that have such a null."""
    limit = mapping(found.get("gaps")).get("equivalence")
    tested = [row for row in _gap_rows(found) if known(row.get("random_pearson"))]
    low = [row for row in tested if known(limit) and row["random_pearson"] < limit]
    return low, tested


def any_direction_counts(found: Mapping[str, Any]) -> tuple[int, int]:
    """How many of how many gaps that is: as the record says, else counted in its columns."""
    gaps = mapping(found.get("gaps"))
    low, tested = gaps.get("n_random_below"), gaps.get("n_random_known")
    if isinstance(low, int) and isinstance(tested, int):
        return low, tested
    rows, every = of_any_direction(found)
    return len(rows), len(every)


def _of_any_direction(found: Mapping[str, Any], limit: str) -> str:
    """Whether the gaps belong to the latents or to their contexts, in a sentence."""
    low, tested = any_direction_counts(found)
    if not tested:
        return ""
    if not low:
        no = f"In none of {count(tested)} does a random direction"
        return f"{no} correlate below {limit} on the same probes."
    return (
        f"In {count(low)} of {count(tested)} a random direction correlates below {limit} on the same probes "
        "as well: these contexts differ for any direction, and the gap is not one of the latent."
    )


def _gap_rows(found: Mapping[str, Any]) -> Rows:
    """The rows of the gaps, in the order of the record."""
    by_latent = {row.get("latent"): row for row in rows_of(found)}
    wanted = items(mapping(found.get("gaps")).get("latents"))
    return [by_latent[latent] for latent in wanted if latent in by_latent]
