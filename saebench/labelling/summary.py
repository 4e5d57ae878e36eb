"""What labels are like, in lines of markdown: how many of each class, and how far other judges agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from saebench.labelling.agreement import agreement
from saebench.labelling.resampled import Figure
from saebench.labelling.scoring import Scores, score
from saebench.stats import wilson

Labels = Sequence[str | None]
AMBIGUOUS = "(ambiguous)"


def summary(
    labels: Labels,
    judges: Mapping[str, Labels] | None = None,
    groups: Sequence[Any] | None = None,
    *,
    name: str = "labels",
    consensus: bool = False,
) -> list[str]:
    """A table of the labels' classes, then one of agreement and scores for each of the other judges.

    Labels that are the ``consensus`` of the judges are no judge of their own. Intervals resample texts, or
    their documents where ``groups`` names that of each.
    """
    lines = class_counts(labels)
    if not judges:
        return lines
    everyone = judges if consensus else {name: labels, **judges}
    found = agreement(everyone, groups)
    lines += ["", *_row("judges", "texts", "equal", "Cohen's κ"), *_rule(4)]
    for pair in found.pairs:
        lines += _row(
            f"{pair.first}, {pair.second}", f"{pair.raw.n:,}", shown(pair.raw), shown(pair.kappa)
        )
    if len(everyone) > 2:
        lines += ["", f"Fleiss' κ of all, {found.fleiss.n:,} texts: {shown(found.fleiss)}"]
    if consensus:
        return lines
    for judge, others in judges.items():
        lines += ["", *_scores(name, judge, score(labels, others, groups))]
    return lines


def class_counts(labels: Labels) -> list[str]:
    """How many texts each class has, and how many are ambiguous, with Wilson's intervals."""
    counts = Counter(labels)
    names = sorted(name for name in counts if name is not None)
    lines = [*_row("class", "texts", "share"), *_rule(3)]
    for label, text in [*((name, name) for name in names), (None, AMBIGUOUS)]:
        found = wilson(counts[label], len(labels))
        share = counts[label] / len(labels) if labels else None
        figure = Figure(share, len(labels), found.low, found.high, found.how, found.reason)
        lines += _row(text, f"{counts[label]:,}", shown(figure))
    return lines


def _scores(name: str, judge: str, scores: Scores) -> list[str]:
    lines = [
        f"{name} against {judge}, {scores.n_texts:,} texts, {shown(scores.decided)} of them decided:",
        "",
        *_row(
            "class", "precision", "recall", "F1", *(f"as {c}" for c in scores.classes), AMBIGUOUS
        ),
        *_rule(4 + len(scores.classes) + 1),
    ]
    for row, (label, item) in zip(scores.confusion, scores.by_class.items(), strict=True):
        figures = (shown(figure) for figure in (item.precision, item.recall, item.f1))
        lines += _row(label, *figures, *(f"{n:,}" for n in row))
    return lines


def shown(figure: Figure) -> str:
    """``0.812 [0.79, 0.83]``, or a dash where there is no number."""
    if figure.value is None:
        return "–"
    bounds = "" if figure.low is None else f" [{figure.low:.3f}, {figure.high:.3f}]"
    return f"{figure.value:.3f}{bounds}"


def _row(*cells: str) -> Iterable[str]:
    safe = ("".join(c if c.isprintable() else " " for c in cell[:60]) for cell in cells)
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in safe)} |"]


def _rule(n: int) -> Iterable[str]:
    return [f"| :-- |{' --: |' * (n - 1)}"]
