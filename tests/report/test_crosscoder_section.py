"""The crosscoder section and plot: what they show of a planted pair, and that they let nothing through."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fixtures.planted_crosscoder import planted_crosscoder
from saebench.evals.crosscoder import CrosscoderEval, SourcesEval
from saebench.measure.crosscoder import factors
from saebench.passes import SiteView, SubjectView
from saebench.protocols import CrosscoderProtocol
from saebench.record import Record
from saebench.report.crosscoder import section
from saebench.report.crosscoder_plot import crosscoder_plot, relative_norms
from saebench.report.plot_style import png

N = 1500


def of_planted(scales: tuple[float, float]) -> Record:
    planted = planted_crosscoder(scales=scales)
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
    assert cells(text, "Shared")[:4] == ["Shared", "8", "0.444", "1.00 / 1.00"]
    assert cells(text, "Chat only")[4].endswith("of 1")  # only one has a base direction
    assert cells(text, "Shared, as many at random")[1] == "5"
    ratios = cells(text, "Chat only", 1)
    assert ratios[1:4] == ["5", "0.000", "0.000"]
    assert "Of 5 chat-only latents with both ratios" in text
    assert "2: it never fired; 2: it has no direction in the chat model" in text


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
    legend = [text.get_text() for text in shown[0].get_legend().get_texts()]
    assert legend == ["base only (3)", "shared (8)", "chat only (5)", "other (2)"]
    assert "2 that never fired" in shown[0].get_title()
    heights = sum(bar.get_height() + bar.get_y() for bar in shown[0].patches)
    assert heights == pytest.approx(18)  # no bin holds two classes here


def test_records_without_the_histogram_are_not_drawn(record):
    assert relative_norms(record)
    assert not relative_norms(Record("k", {"name": "a"}, {}, {}, {}, {}))
