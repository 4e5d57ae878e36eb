"""Plots: the same records draw the same bytes, any record draws, and colours stay apart for every eye."""

from __future__ import annotations

import builtins
import io
import sys
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from saebench.errors import MissingExtraError
from saebench.record import Measurement
from saebench.report.alive_plot import alive_plot
from saebench.report.density_plot import density_plot
from saebench.report.fve_plot import fve_plot
from saebench.report.plot_style import PALETTE, png, short, spread
from saebench.report.plots import caption, draw_plots
from tests.report.records import make_record


def words_of(figure):
    return " ".join(
        text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text"))
    )


def test_a_record_draws_three_pictures_of_a_width_that_a_card_shows():
    drawn = draw_plots([make_record()])
    assert list(drawn) == ["fve", "density", "alive"]
    for content in drawn.values():
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert Image.open(io.BytesIO(content)).width == 1110


def test_the_same_records_draw_the_same_bytes_without_version_or_date():
    first, second = draw_plots([make_record()]), draw_plots([make_record()])
    assert first == second
    for content in first.values():
        assert Image.open(io.BytesIO(content)).info.keys() <= {"dpi"}


def test_settings_of_the_user_do_not_change_a_plot():
    import matplotlib as mpl

    plain = draw_plots([make_record()])
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "pink", "lines.linewidth": 9}):
        assert draw_plots([make_record()]) == plain


def test_drawing_leaves_settings_and_pyplot_alone():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    had = "matplotlib.pyplot" in sys.modules
    draw_plots([make_record()])
    assert dict(mpl.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == had


def test_the_fve_plot_names_the_checkpoint_its_number_and_each_baseline():
    figure = fve_plot([make_record("topk-a")])
    words = words_of(figure)
    for text in (
        "topk-a",
        "0.812 [0.806, 0.818]",
        "mean predictor",
        "random-init SAE",
        "PCA, rank L0",
    ):
        assert text in words


def test_a_baseline_far_below_zero_is_drawn_at_the_edge_with_its_value():
    record = make_record()
    low = Measurement("fve_random_init@1", -3.2, -3.5, -3.0)
    figure = fve_plot([replace(record, measurements={**record.measurements, low.metric: low})])
    assert "-3.20" in words_of(figure)
    assert figure.axes[0].get_xlim()[0] == pytest.approx(-0.29)


def test_the_density_plot_counts_what_never_fired_and_marks_the_bound():
    words = words_of(density_plot([make_record(alive=1963)]))
    assert "85\n4.2 %" in words
    assert "3/n, n = 65,024" in words
    assert "never" in words


def test_the_alive_plot_ends_each_line_with_its_name_and_share():
    words = words_of(alive_plot([make_record("a", alive=1024), make_record("b", alive=2048)]))
    assert "a  50.0 %" in words
    assert "b  100.0 %" in words


def test_a_checkpoint_has_the_same_colour_in_every_plot():
    records = [make_record("a", curves={}), make_record("b")]
    line = alive_plot(records).axes[0].get_lines()[0]
    title = density_plot(records).axes[0].title
    assert line.get_color() == title.get_color() == PALETTE[1]


@pytest.mark.parametrize(
    "record",
    [
        make_record(alive=0),
        make_record(alive=2048),
        make_record(missing={"fve": "no tokens"}),
        make_record(missing={"fve_pca": "x", "fve_random_init": "x", "fve_mean_predictor": "x"}),
        make_record(curves={}),
        make_record(curves={"alive": [{"n_sequences": 1, "n_tokens": 127, "alive": 3}]}),
        make_record(measurements={}),
        make_record("中文 $\\frac{x}{0}$ \x1b[31m \u202e" + "long" * 40),
    ],
    ids=[
        "all dead",
        "none dead",
        "no fve",
        "no baselines",
        "no curves",
        "a point",
        "nothing",
        "name",
    ],
)
def test_any_record_draws_without_a_warning(record, recwarn):
    draw_plots([record, make_record("other", curves={})])
    assert not recwarn.list


def test_what_has_no_data_has_no_plot():
    assert draw_plots([make_record(curves={}, measurements={})]) == {}


def test_the_caption_says_on_how_many_sequences_the_untrained_sae_was_measured():
    record = make_record()
    assert "an untrained SAE and PCA" in caption("fve", [record])
    records = []
    for n in (32, 16):
        small = replace(record.measurements["fve_random_init@1"], n_sequences=n)
        measurements = {**record.measurements, small.metric: small}
        records.append(replace(record, measurements=measurements))
    assert "an untrained SAE (on 32 sequences) and PCA" in caption("fve", [records[0], record])
    assert "an untrained SAE (on other sequences) and PCA" in caption("fve", records)


def test_an_fve_without_an_interval_is_drawn():
    record = make_record()
    alone = replace(
        record.measurements["fve@1"], low=None, high=None, reason="no interval: 1 sequence"
    )
    assert "0.812" in words_of(fve_plot([replace(record, measurements={"fve@1": alone})]))


def test_many_checkpoints_are_cut_to_twelve_and_the_caption_says_so():
    records = [make_record(f"s{number}", curves={}) for number in range(14)]
    assert words_of(fve_plot(records)).count("0.812") == 14
    assert draw_plots(records)["fve"] == draw_plots(records[:12])["fve"]
    assert "(first 12 of 14 checkpoints)" in caption("fve", records)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match="pip install 'saebench-suites\\[plots\\]'"):
        png(lambda: None)


def test_names_are_shortened_in_the_middle():
    assert short("a" * 34) == "a" * 34
    assert short("topk-k32-seed0@blocks.2.hook_resid_post") == "topk-k32-seed0@b…hook_resid_post"


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 8)), max_size=10),
)
def test_labels_are_spread_apart_in_order_and_within_bounds(labels):
    places, sizes = [place for place, _ in labels], [size for _, size in labels]
    moved = spread(places, sizes, 0, 100)
    order = sorted(range(len(places)), key=lambda index: (places[index], index))
    for first, second in pairwise(order):
        assert moved[second] - moved[first] >= (sizes[first] + sizes[second]) / 2 - 1e-9
    assert all(-1e-9 <= place <= 100 + 1e-9 for place in moved)


def test_labels_that_do_not_touch_stay_where_they_are():
    assert spread([50, 10, 90], [5, 5, 5]) == [50, 10, 90]
    assert spread([10, 10], [4, 4]) == [8, 12]


# Machado, Oliveira and Fernandes (2009), severity 1: linear RGB as seen without one kind of cone.
SEEN = {
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
    "all cones": np.eye(3),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(ink):
    values = np.array([int(ink[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / TO_XYZ.sum(1)
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


@pytest.mark.parametrize("kind", SEEN)
def test_colours_stay_apart_for_colour_blind_readers(kind):
    seen = [lab(np.array(SEEN[kind]) @ linear(ink)) for ink in PALETTE]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 12


def test_coloured_words_are_readable_on_white():
    for ink in PALETTE:
        luminance = TO_XYZ[1] @ linear(ink)
        assert 1.05 / (luminance + 0.05) > 4
