"""Plots of a comparison: numbers stand in the cells, what is missing is hatched, bytes stay the same."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from saebench.comparison.cosine_plot import cosine_plot
from saebench.comparison.document import compare
from saebench.comparison.matching_plot import matched_pairs, matching_plot
from saebench.comparison.plots import draw
from tests.comparison.studies import group, matched, record, report, small_study


def words_of(figure):
    texts = figure.findobj(match=lambda artist: hasattr(artist, "get_text"))
    return " ".join(text.get_text() for text in texts)


def study_of(pairs, members="abcd", groups=(("g", "ab"), ("h", "cd")), **more):
    made = [
        group(name, names, pairs=pairs if place == 0 else (), **more)
        for place, (name, names) in enumerate(groups)
    ]
    return compare({"run": report([record(n, fve=0.5, **more) for n in members], made)})


def test_the_same_comparison_draws_the_same_bytes_as_wide_as_a_card():
    first, second = (draw(compare({"run": small_study()})) for _ in range(2))
    assert first == second
    assert [plot.stem for plot in first] == ["matching", "matched-cosines"]
    for plot in first:
        assert Image.open(io.BytesIO(plot.content)).width == 1110


def test_the_heat_map_writes_each_number_twice_and_hatches_the_rest():
    comparison = study_of([matched("a", "b", 0.61), matched("a", "c", 0.33)])
    gathered = comparison.gathered
    assert matched_pairs(gathered.groups, gathered.checkpoints) == {
        ("a", "b"): 0.61, ("b", "a"): 0.61, ("a", "c"): 0.33, ("c", "a"): 0.33,
    }  # fmt: skip
    figure = matching_plot(gathered.groups, gathered.checkpoints)
    words = words_of(figure)
    assert words.count("0.61") == 2
    assert words.count("0.33") == 2
    assert words.count("same") == 4
    hatched = [patch for patch in figure.axes[0].patches if patch.get_hatch()]
    assert len(hatched) == 16 - 4 - 4


def test_lines_part_the_groups():
    comparison = study_of([matched("a", "b", 0.6)])
    figure = matching_plot(comparison.gathered.groups, comparison.gathered.checkpoints)
    across = [line for line in figure.axes[0].get_lines() if set(line.get_ydata()) == {1.5}]
    assert len(across) == 1


def test_the_histogram_names_the_floor_and_the_threshold():
    comparison = study_of([matched("a", "b", 0.6)])
    words = words_of(cosine_plot(comparison.seeds))
    assert "chance 0.20" in words
    assert "shared > 0.7" in words
    assert "g  (1 pair)" in words


def test_without_matched_pairs_there_is_no_plot():
    assert draw(study_of([])) == []


def test_the_caption_says_what_the_picture_does():
    plots = draw(study_of([matched("a", "b", 0.61), matched("c", "d", 0.3)]))
    assert "from 0.30 to 0.61" in plots[0].caption
    assert "on m" in plots[0].caption


def test_each_model_has_its_own_heat_map():
    runs = {
        m: report(
            [record(n, model=m, fve=0.5) for n in "ab"],
            [group("g", "ab", model=m, pairs=[matched("a", "b", 0.5)])],
        )
        for m in ("m1", "m2")
    }
    assert [plot.stem for plot in draw(compare(runs))] == [
        "matching",
        "matching-2",
        "matched-cosines",
    ]


@pytest.mark.parametrize(
    "pairs",
    [
        [matched("a", "b", -0.2)],
        [matched("a", "b", 0.0, floor=None)],
        [matched("a", "b", 0.5, decoder={"histogram": {"edges": [0.0, 1.0], "counts": [0]}})],
        [matched("a", "b", 1.0, decoder={"matched_cosine": 1.0})],
    ],
)
def test_any_pair_draws_without_a_warning(pairs, recwarn):
    draw(study_of(pairs))
    assert not recwarn.list


def test_many_checkpoints_are_cut_and_the_caption_says_so():
    names = [f"s{number:02}" for number in range(30)]
    groups = [group("g", names, pairs=[matched("s00", "s01", 0.5)])]
    (plot, _) = draw(compare({"run": report([record(n) for n in names], groups)}))
    assert "(first 24 of 30 checkpoints)" in plot.caption
