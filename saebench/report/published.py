"""Figures that papers gave of other models, and where an estimate lies beside them. Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from saebench.record import Record
from saebench.report.base_model import regime
from saebench.report.stored import mapping


class Published(NamedTuple):
    """A range from papers on other models, for regimes with these ``bases``; it is not a limit."""

    bases: tuple[str, ...]
    words: str
    low: float
    high: float
    worse: str
    unchanged: str


FULL = ("float32", "bfloat16", "float16")
FOUR_BITS = ("nf4", "fp4", "rtn4")
LOSS = Published(
    FOUR_BITS, "published for 4-bit models: a rise of 2 to 3 %", 0.02, 0.03, "above", "0 %"
)
SURVIVING = Published(
    ("rtn6",), "published for 6-bit rounding: 0.51 to 0.62", 0.51, 0.62, "below", "1"
)
PUBLISHED_K = 10
TOP_K = Published(
    FOUR_BITS, "published for a bf16 SAE on an NF4 model: 0.89", 0.885, 0.895, "below", "1"
)


def _missing_figure(record: Record, published: Published) -> str:
    """Why a published range does not speak of this variant; empty where it does."""
    before = mapping(record.model.get("reference"))
    base, reference = (_base(model) for model in (record.model, before))
    if base not in published.bases:
        return "no published figure for this regime"
    if reference not in FULL:
        return "no published figure from this reference"
    digests = record.model.get("digest"), before.get("digest")
    if all(digests) and digests[0] != digests[1]:
        return "no published figure for other weights"
    k = mapping(mapping(record.details.get("portability")).get("protocol")).get("top_k")
    return "no published figure for this k" if published is TOP_K and k != PUBLISHED_K else ""


def _base(model: Mapping[str, Any]) -> str:
    return (regime(model) or str(model.get("dtype") or "")).partition("+")[0]


def expected(record: Record, published: Published) -> str:
    """What was published for the regime of a variant, or that nothing was."""
    missing = _missing_figure(record, published)
    return f"{missing}; unchanged is {published.unchanged}" if missing else published.words


def set_against(record: Record, published: Published, value: float | None, rest: str) -> str:
    """Where an estimate lies beside a published range, if there is one, and ``rest``."""
    if value is None or _missing_figure(record, published):
        return rest
    where = "below" if value < published.low else "above" if value > published.high else "within"
    return f"{f'**{where}**' if where == published.worse else where} what is published; {rest}"


def is_reference(record: Record) -> bool:
    """Whether the variant is the reference over again: weights, regime, and what runs it."""
    same = mapping(record.model.get("reference"))

    def told(model: Mapping[str, Any]) -> tuple[Any, ...]:
        return model.get("digest"), regime(model), mapping(model.get("precision")).get("backend")

    return bool(same.get("digest")) and told(record.model) == told(same)
