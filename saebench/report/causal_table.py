"""Every ablated latent as a row of ``causal_validation.csv``, from a record alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from saebench.record import Record
from saebench.report.stored import mapping

FILE = "causal_validation.csv"
FIRST = ("latent", "class", "cosine", "norm_base", "norm_chat", "norm", "n_sequences", "n_probes")
LAST = ("mismatched_with", "reason")
# what spreadsheets take for a formula where a text begins with it
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
Rows = list[dict[str, Any]]


def csv_text(record: Record) -> str:
    """The table as CSV (RFC 4180, LF): a header and a row per latent; "" without the causal part.

    An empty field is an undefined value, and ``reason`` says why.
    """
    rows = rows_of(mapping(record.details.get("causal")))
    if not rows:
        return ""
    names = column_names(rows[0])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_text(name) for name in names])
    writer.writerows([_text(row[name]) for name in names] for row in rows)
    return out.getvalue()


def rows_of(found: Mapping[str, Any]) -> Rows:
    """A mapping per latent, of the columns that are lists as long as ``latent`` is; [] without that."""
    columns = mapping(found.get("latents"))
    numbers = columns.get("latent")
    if not isinstance(numbers, Sequence) or isinstance(numbers, str):
        return []
    whole = {
        str(name): values
        for name, values in columns.items()
        if isinstance(values, list | tuple) and len(values) == len(numbers)
    }
    return [dict(zip(whole, row, strict=True)) for row in zip(*whole.values(), strict=True)]


def column_names(row: Mapping[str, Any]) -> list[str]:
    """The columns in order: what the latent is, what was found, what it was set against."""
    ends = {*FIRST, *LAST}
    middle = [name for name in row if name not in ends]
    return [name for name in FIRST if name in row] + middle + [n for n in LAST if n in row]


def _text(value: object) -> str:
    """A field: a number as it is, a text that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    text = " ".join(str(value).split())
    return f"'{text}" if text.startswith(_FORMULA) else text
