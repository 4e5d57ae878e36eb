"""The labelled texts of one spec of a concept, as sequences with what was left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from saebench.data.concept_examples import Columns, Drawn, Example
from saebench.data.concept_labels import Labels
from saebench.data.labelled import Examples, LabelledText, Texts
from saebench.data.opening import Reader
from saebench.data.prompted import Prompted, after_prompts
from saebench.data.stream import Row
from saebench.errors import DataError
from saebench.generation.completions_file import read_provenance
from saebench.stats import wilson


@dataclass(frozen=True)
class Part:
    """Labelled examples that have a token to read: row i is ``examples[i]`` with ``labels[i]``."""

    drawn: Drawn
    reader: Reader
    rows: Sequence[Row]
    examples: Sequence[Example]
    labels: Sequence[str]
    n_dropped: int
    facts: Mapping[str, Any]
    source: Mapping[str, Any]

    def where(self, chosen: np.ndarray, *, n_dropped: int) -> Part:
        """The chosen ones alone."""
        places = np.flatnonzero(chosen).tolist()
        return replace(
            self,
            rows=[self.rows[i] for i in places],
            examples=[self.examples[i] for i in places],
            labels=[self.labels[i] for i in places],
            n_dropped=n_dropped,
        )

    def labelled(self, name: str, classes: Sequence[str]) -> LabelledText:
        """The text of these rows, resampled by document where any is of several rows."""
        rows = self.rows
        stream = self.reader.stream(lambda: iter(rows), self.source, documents=lambda: len(rows))
        groups = clusters(self.examples)
        documents = [None] * len(rows) if groups is None else groups
        found = Examples(self.drawn.spec, stream, self.labels, self.n_dropped, documents)
        return found.labelled(name, classes)


def read_part(
    drawn: Drawn,
    label: Callable[[Sequence[Example]], Labels],
    columns: Columns,
    reader: Reader,
    limit: int,
    seed: int,
) -> Part:
    """The drawn examples of one spec that have a label and a token to read."""
    found = [
        (example, name)
        for example, name in zip(drawn.examples, label(drawn.examples), strict=True)
        if name is not None
    ]
    examples = [example for example, _ in found]
    read = _tokens(reader, examples)
    kept = [
        (item, example, name)
        for item, (example, name) in zip(read, found, strict=True)
        if len(item.row.ids) > 1 and item.row.counted.any()
    ]
    n_drawn, n_dropped = len(drawn.examples), len(found) - len(kept)
    n_ambiguous = n_drawn - len(found)
    if not kept:
        raise DataError(
            f"labelled texts with a token that counts in {drawn.spec!r}",
            f"none among {n_drawn} rows: {n_ambiguous} have no label, {n_dropped} no such token",
            "Name the columns text = and label = of the concept, or correct its rules.",
        )
    share = wilson(n_ambiguous, n_drawn)
    items, kept_examples, labels = zip(*kept, strict=True)
    facts: dict[str, Any] = {
        "spec": drawn.spec,
        "n_rows": drawn.n_rows,
        "n_drawn": n_drawn,
        "n_ambiguous": n_ambiguous,
        "ambiguous_share": {
            "value": n_ambiguous / n_drawn,
            "low": share.low,
            "high": share.high,
            "how": share.how,
        },
        "n_without_tokens": n_dropped,
        "n_prompts_cut": sum(item.prompt_cut for item in items),
        "n_completions_cut": sum(item.completion_cut for item in items),
    }
    if (written := read_provenance(drawn.spec.partition("#")[0])) is not None:
        facts["written_by"] = {key: written.get(key) for key in ("model", "settings", "sha256")}
    source = {
        **drawn.source,
        "text": drawn.text,
        "prompt": columns.prompt,
        "counted_part": "completion" if columns.prompt else "text",
        "n_rows": drawn.n_rows,
        "limit": limit,
        "seed": seed,
    }
    rows = [item.row for item in items]
    return Part(drawn, reader, rows, kept_examples, labels, n_dropped, facts, source)


def _tokens(reader: Reader, examples: Sequence[Example]) -> list[Prompted]:
    """The sequence of each example."""
    texts = [example.text for example in examples]
    prompts = [example.prompt for example in examples if example.prompt is not None]
    if len(prompts) == len(texts):
        return list(after_prompts(reader, prompts, texts))
    room = reader.context_size
    return [Prompted(row, False, len(row.ids) == room) for row in reader.each(Texts(texts, {}))]


def group_of(example: Example) -> str:
    """What is never split: the document, else the prompt, else the text."""
    if example.document is not None:
        return f"document\0{example.document}"
    if example.prompt is not None:
        return f"prompt\0{example.prompt}"
    return f"text\0{example.text}"


def clusters(examples: Sequence[Example]) -> list[str] | None:
    """The group of each example, None where every one is on its own and none has a document."""
    groups = [group_of(example) for example in examples]
    alone = len(set(groups)) == len(groups)
    return None if alone and all(example.document is None for example in examples) else groups
