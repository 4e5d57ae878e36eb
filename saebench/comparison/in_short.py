"""The first lines of a card: which source is ahead in what, and how alike the seeds are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from saebench.comparison.alike import Alike
from saebench.comparison.document import Comparison
from saebench.comparison.inference import is_tie
from saebench.comparison.quantities import Quantity
from saebench.comparison.text import value_text
from saebench.report import escape

MOST = 4  # sources, and places, with words of their own


def in_short(comparison: Comparison) -> str:
    """At most nine lines of markdown, empty where there is nothing to say."""
    return "\n".join([*_ahead(comparison), *_seeds(comparison.alike)])


def _ahead(comparison: Comparison) -> Iterator[str]:
    """A line for each source: in how many places its mean over seeds is the best of all sources."""
    sources = comparison.gathered.sources
    won: dict[str, list[str]] = {source: [] for source in sources}
    for quantity in comparison.measured.quantities:
        if quantity.headline and quantity.better != "none":
            leaders, n_places = _leaders(comparison, quantity)
            for source in sources if n_places else ():
                if source in leaders:
                    label = escape.markdown_text(quantity.label)
                    won[source].append(f"{label} ({leaders.count(source)} of {n_places})")
    if not any(won.values()):
        return
    for source in sources[:MOST]:
        words = ", ".join(won[source]) or "nothing"
        yield f"- **{escape.markdown_text(source)}** is ahead in {words}."
    more = f" {len(sources) - MOST} more sources stand below." if len(sources) > MOST else ""
    yield (
        "- In brackets: in how many places (language model and block), by the mean over seeds, however "
        f"small the difference.{more}"
    )


def _leaders(comparison: Comparison, quantity: Quantity) -> tuple[list[str], int]:
    """The best source of each place where one is, and how many places have at least two sources."""
    leaders = []
    n_places = 0
    for place in dict.fromkeys(group.cell for group in comparison.gathered.groups):
        means = []
        for source in comparison.gathered.sources:
            value = comparison.value(quantity, source, place)
            if value is not None and value.over_seeds.mean is not None:
                means.append((value.over_seeds.mean, source))
        if len(means) < 2:
            continue
        n_places += 1
        means.sort(key=lambda one: one[0], reverse=quantity.better == "higher")
        if not is_tie(means[0][0], means[1][0]):
            leaders.append(means[0][1])
    return leaders, n_places


def _seeds(places: Sequence[Alike]) -> Iterator[str]:
    """How alike the matched decoder rows are, and what an equal training seed does to that."""
    if not places:
        return
    parts = [_place(one) for one in places[:MOST]]
    more = f"; {len(places) - MOST} more places" if len(places) > MOST else ""
    yield f"- Mean matched cosine of decoder rows: {'; '.join(parts)}{more}."
    yield from _starts(places)


def _starts(places: Sequence[Alike]) -> Iterator[str]:
    """Two sources of which an equal training seed makes more alike, in every place, than equal data do."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for one in places:
        within = dict(one.by_source)
        for a, b, equal in one.equal_by_sources:
            if a in within and b in within:
                found.setdefault((a, b), []).append((equal, max(within[a], within[b])))
    words = []
    for (a, b), numbers in found.items():
        if all(equal > most for equal, most in numbers):
            means = ", ".join(
                f"{value_text(equal)} against {value_text(most)}" for equal, most in numbers[:MOST]
            )
            words.append(f"{escape.markdown_text(a)} and {escape.markdown_text(b)} ({means})")
    if words:
        more = f" and {len(words) - MOST} more pairs" if len(words) > MOST else ""
        yield (
            f"- With equal training seeds, {'; '.join(words[:MOST])}{more} are in every place more alike "
            "than the seeds of either alone: there the initialisation matters more than the data."
        )


def _place(one: Alike) -> str:
    where = ", ".join(part for part in (one.model, one.block) if part)
    words = []
    if one.within.mean is not None:
        words.append(f"{value_text(one.within.mean)} within sources")
    if one.across.mean is not None:
        words.append(f"{value_text(one.across.mean)} across")
    if one.equal.mean is not None and one.different.mean is not None:
        equal, different = value_text(one.equal.mean), value_text(one.different.mean)
        words[-1] += f" ({equal} for equal training seeds, {different} for different ones)"
    if one.chance is not None:
        words.append(f"chance {value_text(one.chance)}")
    return f"{escape.markdown_text(where)}: {', '.join(words)}"
