"""What a comparison does not show, and what to know before believing it; markdown lines."""

from __future__ import annotations

from collections.abc import Iterator

from saebench.comparison.document import Comparison
from saebench.comparison.groups import listed
from saebench.report import escape


def caveats(comparison: Comparison) -> Iterator[str]:
    """A line for each thing: groups of one, different text or token masks, and what holds always."""
    groups = comparison.gathered.groups
    alone = [group.name for group in groups if len(group.members) == 1]
    if alone:
        yield (
            f"One checkpoint only, so neither a standard deviation nor a test over seeds: "
            f"{escape.markdown_text(listed(alone))}. Both need at least two checkpoints (seeds)."
        )
    for note in (*comparison.gathered.notes, *comparison.notes):
        yield f"{escape.markdown_text(note[:1].upper() + note[1:])}."
    for place in dict.fromkeys(group.cell for group in groups):
        records = [record for group in groups if group.cell == place for record in group.members]
        for words, kinds in (
            ("different text", {str(record.data.get("digest")) for record in records}),
            ("different token masks", {str(record.data.get("mask")) for record in records}),
            ("contexts of different length", {str(r.data.get("context_size")) for r in records}),
        ):
            if len(kinds) > 1:
                where = escape.markdown_text(", ".join(part for part in place if part))
                yield f"**{where}: measured on {words}**, which alone can make a difference."
    yield (
        "The tasks of one language model and block share their checkpoints, so they are no replicates: "
        "a sign test over cells finds differences where there are none."
    )
    yield (
        "Places of one language model share its weights and the text, so they resemble each other more "
        "than places of other models would: the interval and the sign test speak of such places only."
    )
    yield (
        "A difference that is not significant is not shown to be absent: that takes an interval inside "
        "a margin chosen beforehand."
    )
