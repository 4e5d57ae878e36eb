"""What a checkpoint is, without a model: every fact with where it was read, as text and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from saebench.diagnosis import Finding
from saebench.sae import Fact
from saebench.weights import TensorInfo

MAX_TEXT = 160  # characters of one value on a terminal


@dataclass(frozen=True)
class Inspection:
    """What was found at a reference, and what each fact was read from.

    ``evidence`` says by what the format was recognised, ``tensors`` what the weight file holds,
    ``norms`` the smallest, mean and largest Euclidean norm of the decoder directions (None where only
    headers were read), ``findings`` what the weights show.
    """

    reference: str
    name: str
    commit: str | None
    format: str
    evidence: tuple[str, ...]
    facts: Mapping[str, Fact]
    notes: tuple[str, ...]
    tensors: Mapping[str, TensorInfo]
    norms: tuple[float, float, float] | None
    digests: Mapping[str, str]
    provenance: Mapping[str, Any]
    findings: tuple[Finding, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; numbers that are not finite, which JSON cannot hold, as text."""
        data = asdict(self)
        data["tensors"] = {
            key: {"dtype": item.dtype, "shape": list(item.shape)}
            for key, item in self.tensors.items()
        }
        data["norms"] = dict(zip(("min", "mean", "max"), self.norms or (None,) * 3, strict=True))
        data["findings"] = [asdict(finding) for finding in self.findings]
        found: dict[str, Any] = _strict(data)
        return found

    def to_text(self) -> str:
        """Lines for a terminal; control characters in values from files are taken out."""
        lines = [printable(self.reference, 400), f"  format  {self.format}"]
        lines += [f"          {printable(item)}" for item in self.evidence]
        lines += [f"  commit  {self.commit}"] if self.commit else []
        lines += ["", *_columns(_fact_rows(self.facts))]
        lines += [
            "",
            *_columns([(k, str(list(t.shape)), t.dtype) for k, t in self.tensors.items()]),
        ]
        if self.norms is None:
            lines += ["", "  only headers, configs and vectors were read"]
        else:
            low, mean, high = self.norms
            lines += ["", f"  decoder norms  min {low:.4g}, mean {mean:.4g}, max {high:.4g}"]
        lines += [f"  {item.severity}: {printable(item.text, 400)}" for item in self.findings]
        lines += [f"  note: {printable(note, 400)}" for note in self.notes]
        known = [(key, value, "") for key, value in _flat(self.provenance) if value is not None]
        lines += ["", "  training", *_columns(known)] if known else []
        lines += ["", *_columns([(name, f"sha256 {d}", "") for name, d in self.digests.items()])]
        return "\n".join(lines)


def _strict(value: Any) -> Any:
    """The value with lists for tuples, and without the numbers that JSON has no words for."""
    if isinstance(value, Mapping):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def printable(value: object, limit: int = MAX_TEXT) -> str:
    """The text of a value on one line, without control or direction characters."""
    text = "".join(c if c.isprintable() else " " for c in str(value)[: limit * 4])
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _fact_rows(facts: Mapping[str, Fact]) -> list[tuple[str, object, object]]:
    sources = {"file": "", "user": "given: ", "assumed": "assumed: "}
    rows = [(key, fact.value, f"{sources[fact.how]}{fact.source}") for key, fact in facts.items()]
    several = {key: f"{key}s" for key in ("site", "model")}
    missing = [(k, "not known", "") for k, many in several.items() if not {k, many} & set(facts)]
    return [*rows, *missing]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values by dotted key."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _columns(rows: list[tuple[Any, ...]]) -> list[str]:
    """Rows of three values, the first two columns padded to the widest."""
    cells = [[printable(value) for value in row] for row in rows]
    widths = [max((len(row[i]) for row in cells), default=0) for i in range(2)]
    return [
        f"  {first:<{widths[0]}}  {second:<{min(widths[1], 40)}}  {third}".rstrip()
        for first, second, third in cells
    ]
