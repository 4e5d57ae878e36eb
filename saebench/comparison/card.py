"""The comparison card: its text between the markers, derived from a comparison alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from saebench.comparison import tables
from saebench.comparison.document import Comparison
from saebench.comparison.in_short import in_short
from saebench.comparison.limits import caveats
from saebench.comparison.pairing import Pairing, smallest_of
from saebench.comparison.seeds import Seeds
from saebench.record import Record
from saebench.report import escape
from saebench.report.appendix import definitions, reproduce
from saebench.report.card import NOTICE
from saebench.report.digits import count
from saebench.report.splice import existing_front, splice
from saebench.report.table import markdown_grid

TAGS = ("sparse-autoencoder", "mechanistic-interpretability", "saebench")
LONGEST_LIST = 30  # checkpoints that are in no group, by name

READING = (
    "A place is one language model and one block, and it is the replicate: its tasks share their "
    "checkpoints, so they are averaged first. The interval of the mean difference (Student's t) and the "
    "sign test (exact, two-sided, without ties) are over places, at least two; beside the test stands the "
    "smallest p that so few places can give. Wins–ties–losses count cells, one for each place and task, "
    "with the mean over the seeds of each source in it; a win is a cell where the first source is better, "
    "for a metric without a better direction one where it is higher. The sign test as if cells were "
    "independent is the usual one, and optimistic: cells of a place share their checkpoints."
)
FAMILY = (
    "Holm's correction covers the rows of one table that have a better direction. They overlap (the same "
    "predictions scored twice, the same matching cut at another place), so it is conservative."
)
SHUFFLED = (
    "Here the seed is the replicate: the values of all seeds of both sources are dealt out in every "
    "possible way (exact permutation test of the difference of means, two-sided; beyond 100,000 ways a "
    "random sample of them). With few seeds the smallest possible p is large, and a large p then says "
    "nothing."
)


def render_comparison(
    comparison: Comparison, images: Mapping[str, str], existing: str | None = None
) -> str:
    """The text of the card; ``images`` maps a caption to a path, what is by hand in ``existing`` stays.

    Raises :class:`OutputError` when the existing card is damaged.
    """
    tags = existing_front(existing).get("tags")
    kept = [str(tag) for tag in tags] if isinstance(tags, list) else [tags] if tags else []
    front = {"tags": [*kept, *(tag for tag in TAGS if tag not in kept)]}
    sources = comparison.gathered.sources
    title = " against ".join(sources) if 1 < len(sources) < 4 else f"{count(len(sources))} sources"
    heading = f"Comparison of {escape.markdown_text(title)}"
    return splice(existing, front, _body(comparison, images), title=heading)


def _body(comparison: Comparison, images: Mapping[str, str]) -> str:
    parts = [NOTICE, "## In short", _summary(comparison), in_short(comparison), "## Groups"]
    parts += [tables.groups_table(comparison.gathered.groups), _left_out(comparison)]
    parts += ["## Values by group", *_values(comparison)]
    if comparison.pairings:
        parts += ["## Sources against each other", READING, FAMILY]
        for pairing in comparison.pairings:
            parts += _pairing(pairing)
    parts += ["## How alike the seeds are", *_seeds(comparison.seeds), *escape.pictures(images)]
    parts += ["## Limitations", "\n".join(f"- {line}" for line in caveats(comparison))]
    parts += ["## Definitions", definitions(_records(comparison))]
    parts += ["## Reproduce", reproduce(comparison.command)]
    parts += ["## Provenance", _provenance(comparison)]
    return "\n\n".join(part for part in parts if part)


def _summary(comparison: Comparison) -> str:
    groups = comparison.gathered.groups
    n = len({(group.model, name) for group in groups for name in group.names})
    counted = (
        (len(groups), "group"),
        (n, "checkpoint"),
        (len(comparison.gathered.sources), "source"),
        (len({group.cell for group in groups}), "cell of language model and block"),
    )
    words = [f"{count(size)} {_plural(noun, size)}" for size, noun in counted]
    return f"{', '.join(words[:-1])}, {words[-1]}. Checkpoints of one group differ in their seed."


def _plural(noun: str, size: int) -> str:
    first, space, rest = noun.partition(" ")
    return noun if size == 1 else f"{first}s{space}{rest}"


def _left_out(comparison: Comparison) -> str:
    names = [name for _, name in comparison.gathered.left_out]
    if not names:
        return ""
    shown = ", ".join(escape.code_span(name) for name in names[:LONGEST_LIST])
    more = f" and {count(len(names) - LONGEST_LIST)} more" if len(names) > LONGEST_LIST else ""
    return f"In no group, and left out: {shown}{more}."


def _values(comparison: Comparison) -> list[str]:
    parts = [
        "The mean over seeds; sd is the standard deviation over seeds (n − 1 in the denominator), n the "
        "number of seeds. Numbers without n do not depend on the seed, or are of the group as a whole, with "
        "their 95 % interval over checkpoints. Probe scores are means over tasks."
    ]
    quantities = comparison.measured.quantities
    headline = [q for q in quantities if q.headline or q.beside]
    rest = [q for q in quantities if not (q.headline or q.beside)]
    for place in dict.fromkeys(group.cell for group in comparison.gathered.groups):
        model, block = place
        words = f"{model}, {block}" if block else model
        parts += [f"### {escape.markdown_text(words)}"]
        parts += [tables.values_table(comparison, place, headline)]
        parts += _folded("Probes task by task", tables.tasks_table(comparison, place))
        parts += _folded("Other metrics", tables.values_table(comparison, place, rest))
    return parts


def _pairing(pairing: Pairing) -> list[str]:
    parts = [f"### {escape.markdown_text(pairing.a)} against {escape.markdown_text(pairing.b)}"]
    if not (pairing.headline or pairing.rest):
        return [*parts, "They have no cell with a common metric."]
    parts += [f"{escape.markdown_text(note)}." for note in pairing.notes]
    said = ""
    if pairing.headline:
        said = tables.why_no_holm(smallest_of(pairing.headline), "places")
        parts += [tables.pairing_table(pairing, pairing.headline), said]
        by_model = tables.by_model_table(pairing.headline)
        if by_model:
            words = "By language model: mean difference with its interval, wins–ties–losses."
            parts += [words, by_model]
    if pairing.seeds:
        parts += ["#### Seeds shuffled between the two", SHUFFLED, tables.shuffled_table(pairing)]
        parts += [tables.why_no_holm(smallest_of(pairing.seeds), "seeds")]
    if pairing.headline:
        parts += _folded("Cell by cell", tables.cells_table(pairing, pairing.headline))
    if pairing.rest:
        why = tables.why_no_holm(smallest_of(pairing.rest), "places")
        table = tables.pairing_table(pairing, pairing.rest)
        parts += _folded("Other metrics", f"{table}\n\n{why}" if why != said else table)
    return parts


def _seeds(groups: Sequence[Seeds]) -> list[str]:
    matched = [seeds for seeds in groups if seeds.pairs]
    parts = []
    if matched:
        given = {f"{seeds.threshold:g}" for seeds in matched if seeds.threshold is not None}
        shared = (
            f", shared meaning a cosine or correlation above {given.pop()}"
            if len(given) == 1
            else ""
        )
        parts.append(
            f"Means over the pairs of checkpoints of a group{shared}. Pairs share checkpoints, so their "
            "spread is no standard error; the range of a group's pairs stands under its name below."
        )
        parts.append(tables.matching_table(matched))
        parts += _folded("Shared decoder rows by threshold", tables.curve_table(matched))
    for seeds in groups:
        name = escape.markdown_text(seeds.group)
        if seeds.pairs:
            pairs = f"{count(len(seeds.pairs))} {_plural('pair', len(seeds.pairs))} of {name}"
            parts += _folded(pairs, tables.seeds_table(seeds))
        elif seeds.n_members < 2:
            parts.append(
                f"{name} is one checkpoint: matching needs at least two checkpoints (seeds)."
            )
        else:
            parts.append(f"{name} was not matched: run the seeds suite on this group.")
    return parts


def _provenance(comparison: Comparison) -> str:
    rows = []
    for group in comparison.gathered.groups:
        for record in group.members:
            names = (
                escape.code_span(group.name, cell=True),
                escape.code_span(record.name, cell=True),
            )
            digests = (record.key, record.data.get("digest") or "")
            rows.append([*names, *(escape.code_span(text, cell=True) for text in digests)])
    grid = markdown_grid(["Group", "Checkpoint", "Record", "Data"], rows)
    return "\n".join(_folded(f"{count(len(rows))} records", grid))


def _records(comparison: Comparison) -> list[Record]:
    groups = comparison.gathered.groups
    summaries = [group.summary for group in groups if group.summary is not None]
    return [*(record for group in groups for record in group.members), *summaries]


def _folded(title: str, text: str) -> list[str]:
    if not text:
        return []
    return [f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"]
