"""The plots of a comparison as PNG files: a heat map per language model, one histogram of cosines."""

from __future__ import annotations

from dataclasses import dataclass

from saebench.comparison.cosine_plot import cosine_plot, drawn_histograms
from saebench.comparison.document import Comparison
from saebench.comparison.matching_plot import MOST, matched_pairs, matching_plot
from saebench.report.plot_style import png


@dataclass(frozen=True)
class Plot:
    """A file stem, what it shows in words for those who do not see it, and the PNG."""

    stem: str
    caption: str
    content: bytes


def draw(comparison: Comparison) -> list[Plot]:
    """As many plots as the comparison has data for; the same comparison gives the same bytes.

    Raises :class:`MissingExtraError` when matplotlib is not installed.
    """
    gathered = comparison.gathered
    plots = []
    for place, model in enumerate(gathered.checkpoints.models, start=1):
        groups = [group for group in gathered.groups if group.model == model]
        pairs = matched_pairs(groups, gathered.checkpoints)
        if pairs:
            plots.append(
                Plot(
                    "matching" if place == 1 else f"matching-{place}",
                    _matching_caption(model, pairs, sum(len(group.names) for group in groups)),
                    png(lambda groups=groups: matching_plot(groups, gathered.checkpoints)),  # type: ignore[misc]
                )
            )
    drawn = drawn_histograms(comparison.seeds)
    if drawn:
        words = (
            "Histogram of the cosines of matched decoder rows over all pairs of checkpoints of a group, "
            "with the chance floor and the threshold above which a pair is shared"
        )
        plots.append(Plot("matched-cosines", words, png(lambda: cosine_plot(comparison.seeds))))
    return plots


def _matching_caption(model: str, pairs: dict[tuple[str, str], float], n: int) -> str:
    values = list(pairs.values())
    words = (
        f"Heat map of the mean matched cosine of decoder rows for pairs of checkpoints on {model}: from "
        f"{min(values):.2f} to {max(values):.2f}; hatched pairs were not matched"
    )
    return f"{words} (first {MOST} of {n} checkpoints)" if n > MOST else words
