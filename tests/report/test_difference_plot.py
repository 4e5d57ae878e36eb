"""The plot of difference SAEs: a panel per site, every subset at its figure, any record draws."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from saebench.record import Measurement, Record
from saebench.report.difference_plot import (
    COLOURS,
    MOST_PANELS,
    caption,
    difference_plot,
    has_data,
)
from saebench.report.model_diffing import diffing_plots
from tests.report.records import make_record

FIGURES = {"diff_fve": 0.7, "diff_fve_fire": 0.95, "diff_fve_top": 0.9, "diff_fve_bottom": 0.4}


def of(name: str, k: object, site: str = "blocks.1", **more: Any) -> Record:
    figures = more.pop("figures", FIGURES)
    protocol = {"top": 0.01, "bottom": 0.5}
    found = {"site": site, "k": k, "d_sae": 64, "difference": "1-0", "protocol": protocol, **more}
    measurements = {
        f"{metric}@1": Measurement(f"{metric}@1", value, value - 0.05, value + 0.02)
        for metric, value in figures.items()
    }
    return make_record(name, measurements=measurements, details={"difference": found})


def shown(figure: Any) -> list[Any]:
    return [axes for axes in figure.axes if axes.get_visible()]


def lines(axes: Any, metric: str) -> list[list[float]]:
    """Values of the lines that join the points of a subset."""
    found = [line for line in axes.get_lines() if line.get_marker() in ("None", None, "")]
    return [list(line.get_ydata()) for line in found if line.get_color() == COLOURS[metric]]


def dots(axes: Any, metric: str, marker: str) -> list[tuple[float, float]]:
    found = [line for line in axes.get_lines() if line.get_marker() == marker]
    ours = [line for line in found if line.get_color() == COLOURS[metric]]
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in ours]


def test_each_site_has_a_panel_over_k_with_a_line_per_subset():
    records = [
        of(f"{site}-{k}", k, site, figures={"diff_fve": k / 100, "diff_fve_fire": 0.9})
        for site in ("blocks.1", "blocks.2")
        for k in (32, 2, 8)
    ]
    first, second = shown(difference_plot(records))
    assert [first.get_title(), second.get_title()] == ["blocks.1", "blocks.2"]
    assert first.get_xscale() == "log"
    assert [tick.get_text() for tick in first.get_xticklabels()] == ["2", "8", "32"]
    assert lines(first, "diff_fve") == [[0.02, 0.08, 0.32]]
    assert lines(first, "diff_fve_fire") == [[0.9, 0.9, 0.9]]
    assert lines(first, "diff_fve_top") == []
    assert [y for _, y in dots(first, "diff_fve", "o")] == [0.02, 0.08, 0.32]


def test_an_interval_reaches_from_its_low_to_its_high_end():
    (axes,) = shown(difference_plot([of("a", 4)]))
    ends = [tuple(line.get_ydata()) for line in axes.get_lines() if line.get_marker() == "_"]
    assert ends == [pytest.approx((v - 0.05, v + 0.02)) for v in FIGURES.values()]


def test_checkpoints_of_one_k_or_none_stand_by_name():
    for k, note in ((4, "model 1 − model 0, k = 4"), (None, "model 1 − model 0")):
        (axes,) = shown(difference_plot([of("a", k), of("b", k)]))
        assert axes.get_xscale() == "linear"
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a", "b"]
        assert lines(axes, "diff_fve") == []
        assert [round(x) for x, _ in dots(axes, "diff_fve", "o")] == [0, 1]
        assert note in [text.get_text() for text in axes.texts]


def test_a_checkpoint_without_a_k_is_kept_in_a_panel_of_its_own():
    over_k, named = shown(difference_plot([of("a", 2), of("j", None), of("b", 4)]))
    assert over_k.get_xscale() == "log"
    assert [tick.get_text() for tick in named.get_xticklabels()] == ["j"]


def test_sizes_have_lines_of_their_own_and_runs_of_one_k_are_not_joined():
    sizes = [of(f"{d}-{k}", k, d_sae=d) for d in (64, 256) for k in (2, 4)]
    figure = difference_plot(sizes)
    assert len(lines(shown(figure)[0], "diff_fve")) == 2
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[-2:] == ["64 latents", "256 latents"]
    seeds = [of("a", 2), of("b", 2), of("c", 4)]
    (axes,) = shown(difference_plot(seeds))
    assert lines(axes, "diff_fve") == []
    assert len(dots(axes, "diff_fve", "o")) == 3


def test_the_legend_has_the_subsets_there_are_with_their_shares():
    figure = difference_plot([of("a", 2)])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "all tokens",
        "fire tokens",
        "largest ‖δ‖ (1 % of tokens)",
        "smallest ‖δ‖ (50 % of tokens)",
    ]
    other = of("b", 4, protocol={"top": 0.1, "bottom": 0.5}, figures={"diff_fve_top": 0.5})
    figure = difference_plot([of("a", 2, figures={"diff_fve_top": 0.5}), other])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["largest ‖δ‖"]


def test_a_figure_far_below_zero_stands_at_the_edge_with_its_value():
    (axes,) = shown(difference_plot([of("a", 2, figures={**FIGURES, "diff_fve_bottom": -3.2})]))
    assert axes.get_ylim()[0] == -0.25
    assert dots(axes, "diff_fve_bottom", "D")[0][1] == -0.25
    assert "-3.20" in [text.get_text() for text in axes.texts]


def test_at_most_six_panels_are_drawn_and_the_caption_says_so():
    records = [of(f"r{n}", 4, f"blocks.{n}") for n in range(8)]
    assert len(shown(difference_plot(records))) == MOST_PANELS
    assert "(first 6 of 8 panels)" in caption(records)
    assert "panels)" not in caption(records[:6])


def test_the_caption_says_what_the_axis_is():
    assert "over k (log scale), a panel per site: all tokens, fire" in caption(
        [of("a", 2), of("b", 4)]
    )
    assert "by checkpoint" in caption([of("a", 2)])


def test_a_report_has_the_plot_where_a_record_has_a_figure_and_the_same_bytes_each_time():
    records = [of("a", 2), of("b", 4), make_record("plain")]
    words, content = diffing_plots(records)["difference_fve"]
    assert words == caption(records)
    assert diffing_plots(records)["difference_fve"][1] == content
    assert Image.open(io.BytesIO(content)).width == 1110
    assert not has_data(make_record("plain"))
    assert "difference_fve" not in diffing_plots([make_record("plain")])


@pytest.mark.parametrize(
    "damage",
    [
        {"k": "many"},
        {"k": True},
        {"k": -4},
        {"k": float("nan")},
        {"d_sae": "x", "site": None, "difference": 3},
        {"protocol": {"top": "x", "bottom": None}},
        {"site": "中文 $\\frac{x}{0}$ \x1b[31m" + "long" * 40},
    ],
)
def test_any_record_draws_without_a_warning(damage, recwarn):
    records = [of("a", 2), of("b" * 90, **{"k": 4, **damage})]
    assert diffing_plots(records)["difference_fve"]
    assert not recwarn.list
