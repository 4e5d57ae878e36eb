"""The step summary is short, worst first, and never so long that the runner drops it."""

from __future__ import annotations

import pytest

from saebench.errors import OutputError
from saebench.gates import Gate, judge_record, parse_limit
from saebench.report.summary import CAP, step_summary, write_summary
from tests.report.records import make_record, make_verdicts

LIMITS = {"cosine": ">= 0.5", "fve": ">= 0.85", "ce_recovered": ">= 0.9"}


def make_run(number=1):
    records = [
        make_record(f"sae-{n:04d}", missing={"ce_recovered": "no logits"}) for n in range(number)
    ]
    return records, [verdict for record in records for verdict in make_verdicts(record, **LIMITS)]


def test_a_summary_is_a_headline_and_a_line_per_verdict_worst_first():
    assert step_summary(*make_run()) == (
        "### saebench: 1 checkpoint, 1 of 3 limits holds, 1 fails, 1 could not be evaluated\n\n"
        "|  | Checkpoint | Metric | Value | Limit |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| **FAIL** | `sae-0000` | FVE | 0.812 [0.806, 0.818] | `>= 0.85` |\n"
        "| **NOT EVALUABLE** | `sae-0000` | CE recovered | – no logits | `>= 0.9` |\n"
        "| pass | `sae-0000` | Cosine | 0.941 [0.939, 0.943] | `>= 0.5` |\n"
    )


def test_a_limit_on_the_interval_says_so():
    record = make_record()
    gate = Gate("fve", parse_limit(">= 0.80"), confidence=True)
    text = step_summary([record], judge_record([gate], record))
    assert text.endswith(
        "| pass | `topk-s0` | FVE | 0.812 [0.806, 0.818] | `>= 0.8 on the interval` |\n"
    )


def test_without_limits_there_is_only_the_headline():
    assert step_summary(make_run()[0], []) == "### saebench: 1 checkpoint, no limits were set\n"


@pytest.mark.parametrize("budget", [400, 1000, 5000, 20_000])
def test_a_summary_keeps_its_byte_budget_and_says_what_it_left_out(budget):
    records, verdicts = make_run(100)
    text = step_summary(records, verdicts, budget=budget)
    assert len(text.encode()) <= budget
    shown = text.count("`sae-")
    assert f"{300 - shown} more verdicts are in the report." in text
    assert text.count("**FAIL**") == min(shown, 100)


def test_the_summary_is_appended_to_the_file_that_the_runner_names(tmp_path):
    path = tmp_path / "summary.md"
    path.write_text("from an earlier tool\n")
    records, verdicts = make_run()
    assert write_summary(records, verdicts, {"GITHUB_STEP_SUMMARY": str(path)}) == path
    text = path.read_text()
    assert text.startswith("from an earlier tool\n\n### saebench: 1 checkpoint")
    write_summary(records, verdicts, {"GITHUB_STEP_SUMMARY": str(path)})
    assert path.read_text().count("### saebench") == 2


def test_outside_of_a_runner_nothing_is_written(tmp_path):
    assert write_summary(*make_run(), {}) is None
    assert write_summary(*make_run(), {"GITHUB_STEP_SUMMARY": ""}) is None


@pytest.mark.parametrize("left", [0, 10, 300, 2000])
def test_what_others_wrote_is_never_pushed_over_the_limit(tmp_path, left):
    path = tmp_path / "summary.md"
    path.write_bytes(b"x" * (CAP - left))
    write_summary(*make_run(50), {"GITHUB_STEP_SUMMARY": str(path)})
    assert path.stat().st_size <= CAP


def test_an_unwritable_summary_is_one_clear_error(tmp_path):
    with pytest.raises(OutputError, match="GITHUB_STEP_SUMMARY"):
        write_summary(*make_run(), {"GITHUB_STEP_SUMMARY": str(tmp_path)})


def test_hostile_values_stay_in_their_cells():
    evil = "a | b\n<script> `x` [l](https://evil.example)\x1b[2J"
    record = make_record(evil, missing={"fve": evil})
    lines = step_summary([record], make_verdicts(record, fve=">= 0.9")).splitlines()
    assert len(lines) == 5
    assert lines[-1].replace("\\|", "").count("|") == 6
    assert "\x1b" not in lines[-1]
