"""The crosscoder section and plot: what they show of a planted pair, and that they let nothing through."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fixtures.planted_crosscoder import LATENTS, Latent, planted_crosscoder
from saebench.evals.crosscoder import CrosscoderEval, SourcesEval
from saebench.measure.crosscoder import factors
from saebench.passes import SiteView, SubjectView
from saebench.protocols import CrosscoderProtocol
from saebench.record import Record
from saebench.report.crosscoder import section
from saebench.report.crosscoder_plot import crosscoder_plot, relative_norms
from saebench.report.plot_style import png
from saebench.report.results import headline_rows

N = 1500


def of_planted(scales: tuple[float, float], latents: Sequence[Latent] = LATENTS) -> Record:
    planted = planted_crosscoder(latents, scales=scales)
    sae, x = planted.crosscoder(), planted.sample(N, noise=0.01).flat.float()
    ids, (codes, x_hat) = torch.arange(N) // 15, sae.reconstruct(x)
    sources = SourcesEval(128)
    item = CrosscoderEval(sae, sources, CrosscoderProtocol())
    sources.update(SiteView((), x, ids))
    item.update(SubjectView(x, x, codes, x_hat, ids))
    found = item.found()
    details = {"models": ["org/base", "org/chat"], "normalization": factors(sae), **found.details()}
    measured = found.measurements(n_sequences=100, n_resamples=50)
    return Record("k", {"name": "a/b"}, {}, {}, {}, measured, details={"crosscoder": details})


@pytest.fixture(scope="module")
def record() -> Record:
    return of_planted((2.0, 0.25))


def cells(text: str, start: str, place: int = 0) -> list[str]:
    lines = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in lines[place].strip("|").split("|")]


def test_counts_of_all_conventions_stand_side_by_side(record):
    text = section(record)
    assert cells(text, "Δ_norm (arXiv 2504.02922; OpenInterp's cut-offs)")[1:] == list("83522")
    assert cells(text, "dec_norm_diff (diffing toolkit)")[1:] == list("62462")
    assert cells(text, "Relative norm (ckkissane's band)")[1:] == ["10", "–", "–", "8", "2"]


def test_factors_that_were_undone_are_stated_and_other_counts_without_them(record):
    text = section(record)
    assert cells(text, "Base")[-1] == "0.500"
    assert cells(text, "Chat")[-1] == "4"
    assert "without the factors undone, the counts differ" in text
    stored = cells(text, "Δ_norm (arXiv 2504.02922; OpenInterp's cut-offs)", 1)
    assert stored[1:] == ["0", "12", "4", "2", "2"]
    assert "the counts differ" not in section(of_planted((1.0, 1.0)))


def test_classes_have_their_cosines_and_ratios(record):
    text = section(record)
    assert cells(text, "Shared")[:4] == ["Shared", "8", "44.4 %", "1.00 / 1.00"]
    assert cells(text, "Chat only")[4].endswith("of 1")  # only one has a base direction
    assert cells(text, "Shared, as many at random")[1] == "5"
    ratios = cells(text, "Chat only", 1)
    assert ratios[1:4] == ["5", "0.000", "0.000"]
    assert "Of 5 chat-only latents with both ratios, 2 (0.400 [0.000, 1.000]) are specific" in text
    assert "Intervals are about the texts" in text
    assert "2: it never fired; 2: it has no direction in the chat model" in text


def test_rows_that_hold_nothing_are_left_out_and_said_in_a_sentence():
    text = section(of_planted((1.0, 1.0), [Latent("shared", 1, 1)] * 3))
    assert cells(text, "Shared")[:3] == ["Shared", "3", "100.0 %"]
    assert not [line for line in text.splitlines() if line.startswith("| Chat only |")]
    assert "as many at random" not in text
    assert "No latent is the chat model's alone by these norms." in text
    assert "No latent is the chat model's" not in section(of_planted((1.0, 1.0)))


def test_chat_only_latents_without_ratios_are_said(record):
    plain = json.loads(json.dumps(record.details["crosscoder"]))
    plain["scaling"]["candidates"] |= {"n": 0, "left_out": 0}
    bare = Record("k", {"name": "a"}, {}, {}, {}, {}, details={"crosscoder": plain})
    assert "No chat-only latent has both ratios." in section(bare)
    plain["scaling"]["candidates"] |= {"left_out": 3}
    assert "3 chat-only latents are left out" in section(bare)


def test_a_share_of_latents_that_were_drawn_says_of_how_many(record):
    plain = json.loads(json.dumps(record.details["crosscoder"]))
    plain["scaling"]["candidates"]["n"] = 70
    drawn = Record(
        "k", {"name": "a"}, {}, {}, {}, record.measurements, details={"crosscoder": plain}
    )
    assert "2 (0.400 [0.000, 1.000] of 5 drawn)" in section(drawn)


def test_what_a_reader_wants_first_stands_among_the_headlines(record):
    rows = {row.metric.partition("@")[0]: row for row in headline_rows(record, [])}
    assert {"cc_fve_base", "cc_fve_chat", "cc_shared", "cc_chat_only"} <= set(rows)
    assert rows["cc_chat_specific"].beside[0] == ("latents:", "5")
    assert rows["cc_nu_error_chat_only"].beside[0][0] == "of shared latents:"


def test_what_was_not_measured_is_said_and_nothing_of_what_is_not_there():
    other = Record(
        "k", {"name": "a"}, {}, {}, {}, {}, details={"crosscoder": {"reason": "it is *one*"}}
    )
    assert section(other) == r"Not measured: it is \*one\*."
    assert section(Record("k", {"name": "a"}, {}, {}, {}, {})) == ""


def test_foreign_text_stays_text(record):
    plain = json.loads(json.dumps(record.details["crosscoder"]))
    plain["models"] = ["<script>|`x`", "b"]
    plain["rules"]["delta_norm"] = "<img src=x>|**bold**"
    plain["scaling"]["undefined"]["never_fired"]["words"] = "[a](http://x)"
    text = section(Record("k", {"name": "a"}, {}, {}, {}, {}, details={"crosscoder": plain}))
    assert "<img" not in text.replace(r"\<img", "")
    assert "[a](http" not in text
    assert len(cells(text, "Base")) == 4 or r"\|" in text


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.text(max_size=3)
    | st.just([1])
    | st.just({})
)


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(st.data())
def test_damaged_tables_do_not_stop_a_report(record, data):
    plain: dict[str, Any] = json.loads(json.dumps(record.details["crosscoder"]))
    place: Any = plain
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        place[key] = data.draw(leaves)
        break
    damaged = Record("k", {"name": "a"}, {}, {}, {}, {}, details={"crosscoder": plain})
    assert isinstance(section(damaged), str)
    relative_norms(damaged)


def test_the_plot_is_as_wide_as_a_card_and_the_same_each_time(record):
    one, other = (png(lambda: crosscoder_plot([record])) for _ in range(2))
    assert one == other
    assert Image.open(io.BytesIO(one)).width == 1110


def test_the_plot_has_a_bar_for_each_class_and_a_panel_for_each_record(record):
    figure = crosscoder_plot([record, record, record])
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 3
    assert [axes.get_legend() for axes in shown] == [None] * 3
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["base only", "shared", "chat only", "other"]
    (counts,) = (text.get_text().replace("\n", " ") for text in shown[0].texts)
    assert counts == "3 base only, 8 shared, 5 chat only, 2 other, 2 never fired"
    heights = sum(bar.get_height() + bar.get_y() for bar in shown[0].patches)
    assert heights == pytest.approx(18)  # no bin holds two classes here


def test_records_without_the_histogram_are_not_drawn(record):
    assert relative_norms(record)
    assert not relative_norms(Record("k", {"name": "a"}, {}, {}, {}, {}))
