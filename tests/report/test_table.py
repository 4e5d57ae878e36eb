"""Results as rows and tables: value, interval, limit, verdict and what it has to be read against."""

from __future__ import annotations

from dataclasses import replace

import pytest

from saebench.gates import Status, Waiver, parse_limit
from saebench.record import Measurement
from saebench.report.digits import count, estimate, number, significant
from saebench.report.results import (
    all_rows,
    headline_rows,
    not_evaluated,
    sample,
    tally,
    worst,
)
from saebench.report.table import describe_checkpoint, markdown_table, terminal_table
from tests.report.records import N_TOKENS, TODAY, make_provenance, make_record, make_verdicts

LIMITS = {"fve": ">= 0.85", "l0": "k ± 10%", "dead_fraction": "<= 10%"}


def test_a_value_has_the_digits_that_its_interval_supports():
    assert estimate(Measurement("fve@1", 0.8123456, 0.80611, 0.81827)) == (
        "0.812",
        "[0.806, 0.818]",
    )
    assert estimate(Measurement("fve@1", 0.8123456, 0.81231, 0.81238)) == (
        "0.81235",
        "[0.81231, 0.81238]",
    )
    assert estimate(Measurement("mse@1", 41.2345, 40.102, 42.377)) == ("41.2", "[40.1, 42.4]")


def test_a_value_on_the_wrong_side_of_its_limit_never_prints_like_the_limit():
    measurement = Measurement("fve@1", 0.84996, 0.84, 0.86)
    assert estimate(measurement)[0] == "0.850"
    value, interval = estimate(measurement, parse_limit(">= 0.85"))
    assert float(value) < 0.85
    assert value == "0.84996"
    assert interval == "[0.84000, 0.86000]"


def test_counts_have_separators_and_no_decimals():
    assert count(131_072) == "131,072"
    assert estimate(Measurement("alive@1", 1963.0)) == ("1,963", "")
    assert number(0.0) == "0"
    assert significant(0.812345678) == 0.812346
    assert significant(1_234_567.0) == 1_234_567.0


def test_what_was_not_measured_has_a_dash_and_no_digits():
    assert estimate(Measurement("kl@1", None, reason="no logits")) == ("–", "")


def test_headline_rows_stand_in_one_order_with_baselines_beside_them():
    rows = {row.metric: row for row in headline_rows(make_record(), [])}
    assert list(rows)[:3] == ["fve@1", "mse@1", "cosine@1"]
    assert rows["fve@1"].beside == (
        ("mean predictor:", "0"),
        ("random-init SAE:", "0.287"),
        ("PCA, 32 components:", "0.661"),
    )
    assert rows["l0@1"].beside == (("k in training:", "32"),)
    assert rows["kl@1"].label == "KL"
    assert rows["fve@1"].unit == "fraction"


def test_a_baseline_on_other_tokens_than_the_metric_says_on_how_many():
    record = make_record()
    small = replace(record.measurements["fve_random_init@1"], n_sequences=32, n_tokens=4062)
    fewer = replace(record, measurements={**record.measurements, small.metric: small})
    assert headline_rows(fewer, [])[0].beside[1] == ("random-init SAE:", "0.287 (32 sequences)")
    assert sample(fewer, "fve_random_init") == sample(fewer, "fve_random_init@1") == "32 sequences"
    assert (
        sample(record, "fve_random_init") == sample(fewer, "fve_pca") == sample(fewer, "fve") == ""
    )
    tokens = replace(small, n_sequences=512)
    fewer = replace(record, measurements={**record.measurements, small.metric: tokens})
    assert sample(fewer, "fve_random_init") == "4,062 tokens"
    unknown = replace(small, n_sequences=0, n_tokens=0)
    fewer = replace(record, measurements={**record.measurements, small.metric: unknown})
    assert sample(fewer, "fve_random_init") == ""


def test_a_measurement_without_an_interval_has_an_empty_one_in_a_terminal():
    record = make_record()
    alone = Measurement("fve@1", 0.8123, reason="no interval: only 1 sequence")
    few = replace(record, measurements={"fve@1": alone, "l0@1": record.measurements["l0@1"]})
    lines = terminal_table([few], []).splitlines()
    assert lines[3] == "  FVE     0.812                  no interval: only 1 sequence"


def test_another_model_than_in_training_stands_under_the_block():
    other = make_provenance(model={"id": "gpt\x1b[2J", "digest": "0123456789ab" + "c" * 52})
    record = make_record(checkpoint={"provenance": other})
    lines = terminal_table([record], []).splitlines()
    assert lines[-2].endswith("no limits were set")
    assert lines[-1] == (
        "  measured on another model than it was trained on: trained on gpt (digest 0123456789ab), "
        "measured on fixtures/model (digest 5f5f5f5f5f5f)"
    )
    assert "another model" not in terminal_table([make_record()], [])


def test_no_line_of_a_terminal_table_is_wider_than_a_screen():
    reason = "no interval: " + "the groups of sequences are too few to resample them " * 4
    other = make_provenance(model={"id": "m" * 90, "digest": "01" * 32})
    record = make_record(checkpoint={"provenance": other})
    fve = replace(record.measurements["fve@1"], reason=reason)
    small = replace(record.measurements["fve_random_init@1"], n_sequences=32)
    wide = replace(
        record, measurements={**record.measurements, fve.metric: fve, small.metric: small}
    )
    verdicts = [*make_verdicts(wide, fve="0.123456..0.987654", dead_fraction="<= 10%")]
    verdicts = [replace(v, gate=replace(v.gate, confidence=True)) for v in verdicts]
    plain = terminal_table([wide], verdicts)
    assert max(map(len, plain.splitlines())) < 160
    words = " ".join(plain.split())
    assert "random-init SAE: 0.287 (32 sequences)" in words
    assert "too few to resample them" in words
    assert plain.count("FVE") == 1


def test_a_gated_metric_outside_the_headlines_gets_a_row():
    record = make_record()
    verdicts = make_verdicts(record, kl_recovered=">= 0.9")
    row = headline_rows(record, verdicts)[-1]
    assert (row.metric, row.limit, row.status) == ("kl_recovered@1", ">= 0.9", Status.PASS)


def test_two_gates_on_one_metric_make_two_rows():
    record = make_record()
    verdicts = [*make_verdicts(record, fve=">= 0.5"), *make_verdicts(record, fve=">= 0.9")]
    rows = [row for row in headline_rows(record, verdicts) if row.metric == "fve@1"]
    assert [(row.limit, row.status) for row in rows] == [(">= 0.5", "PASS"), (">= 0.9", "FAIL")]


def test_a_gate_on_something_the_record_does_not_have_says_so():
    record = make_record()
    short = replace(record, measurements={"fve@1": record.measurements["fve@1"]})
    (row,) = [
        r for r in headline_rows(short, make_verdicts(short, kl="<= 0.1")) if "kl" in r.metric
    ]
    assert (row.value, row.status) == ("–", Status.NOT_EVALUABLE)
    assert row.reason == "the record has no such measurement"


def test_verdicts_on_another_checkpoint_do_not_show():
    record, other = make_record("a"), make_record("b")
    rows = headline_rows(record, make_verdicts(other, fve=">= 0.9"))
    assert all(row.status is None for row in rows)


def test_every_measurement_is_in_the_full_list_once():
    record = make_record()
    metrics = [row.metric for row in all_rows(record)]
    assert sorted(metrics) == sorted(record.measurements)


def test_labels_come_from_the_record_alone():
    record = make_record()
    own = replace(record, definitions={"fve@1": {"label": "Variance", "unit": "share"}})
    rows = {row.metric: row for row in headline_rows(own, [])}
    assert rows["fve@1"].label == "Variance"
    assert rows["mse@1"].label == "mse"


def test_the_tally_counts_each_outcome():
    record = make_record()
    waiver = Waiver("topk*", "fve", "known", TODAY)
    verdicts = make_verdicts(record, waiver, fve=">= 0.9", kl="<= 0.1", l0="<= 40", cosine=">= 0.9")
    assert tally(verdicts) == "2 of 4 limits hold, 1 fails, 1 is waived"
    assert tally(verdicts[:0]) == "no limits were set"
    assert tally(make_verdicts(record, l0="<= 40")) == "1 of 1 limit holds"
    assert worst(verdicts) is Status.FAIL
    assert worst(verdicts[:1]) is Status.WAIVED
    assert worst([]) is None


def test_what_could_not_be_evaluated_is_listed_with_its_reason():
    record = make_record(missing={"ce_recovered": "ablation does not hurt the model"})
    assert not_evaluated(record) == [("CE recovered", "ablation does not hurt the model")]


def test_the_terminal_table_lines_up():
    record = make_record()
    kept = {key: record.measurements[key] for key in ("fve@1", "l0@1")}
    small = replace(record, measurements=kept)
    table = terminal_table([small], make_verdicts(small, fve=">= 0.85", l0=">= 30"))
    lines = table.splitlines()
    assert lines[0] == "topk-s0  (topk, 128 → 2,048 latents, k 32, blocks.2.hook_resid_post)"
    assert lines[1] == "  metric  value  95 % interval   limit    verdict  baseline"
    assert lines[3] == "  FVE     0.812  [0.806, 0.818]  >= 0.85  FAIL"
    assert lines[4] == "  L0      31.87  [31.81, 31.93]  >= 30    pass     k in training: 32"
    assert lines[5] == "  65,024 tokens of 512 sequences; 1 of 2 limits holds, 1 fails"


def test_the_terminal_table_has_a_block_per_checkpoint_and_no_limits_without_gates():
    table = terminal_table([make_record("a"), make_record("b")], [])
    assert table.count("\n\n") == 1
    assert "verdict" not in table
    assert table.count("no limits were set") == 2
    assert f"{N_TOKENS:,} tokens" in table


def test_tokens_are_those_counted_not_those_read():
    data = {"n_sequences": 3, "n_tokens": 100, "n_counted": 90}
    assert "  90 tokens of 3 sequences;" in terminal_table([make_record(data=data)], [])


def test_colour_paints_only_the_verdict():
    record = make_record()
    verdicts = make_verdicts(record, **LIMITS)
    plain, painted = (
        terminal_table([record], verdicts),
        terminal_table([record], verdicts, colour=True),
    )
    assert "\x1b" not in plain
    assert "\x1b[1;31mFAIL\x1b[0m" in painted
    assert "\x1b[32mpass\x1b[0m" in painted
    for code in ("\x1b[1;31m", "\x1b[32m", "\x1b[0m"):
        painted = painted.replace(code, "")
    assert painted == plain


def test_a_hostile_name_cannot_steer_the_terminal():
    record = make_record("evil\x1b[2J\x07\n  FVE 1.0 pass\u202e")
    table = terminal_table([record], make_verdicts(record, **LIMITS))
    assert "\x1b" not in table
    assert "\u202e" not in table
    assert table.splitlines()[0].startswith("evil FVE 1.0 pass  (topk")


def test_wide_letters_keep_the_columns_aligned():
    record = make_record()
    wide = replace(record, definitions={"fve@1": {"label": "再構成"}, "mse@1": {"label": "MSE"}})
    lines = terminal_table([wide], []).splitlines()
    assert lines[3].index("0.812") + 3 == lines[4].index("41.2") - 1


def test_the_markdown_table_marks_failures_and_leaves_no_gap_without_gates():
    record = make_record()
    table = markdown_table(headline_rows(record, make_verdicts(record, **LIMITS)))
    header, rule, fve, *_ = table.splitlines()
    assert header == "| Metric | Value | 95 % interval | Limit | Verdict | Baseline |"
    assert rule == "| --- | ---: | --- | --- | --- | --- |"
    assert fve.startswith(
        "| FVE | 0.812 | [0.806, 0.818] | `>= 0.85` | **FAIL** | mean predictor: 0 ·"
    )
    assert markdown_table(headline_rows(record, [])).startswith(
        "| Metric | Value | 95 % interval | Baseline |\n"
    )


@pytest.mark.parametrize("text", ["a | b", "<b>x</b>", "`x`", "[l](https://e.example)", "a\nb"])
def test_hostile_labels_and_reasons_stay_in_their_cells(text):
    record = make_record(missing={"fve": text})
    own = replace(record, definitions={"mse@1": {"label": text}})
    table = markdown_table(headline_rows(own, []))
    lines = table.splitlines()
    assert len(lines) == 2 + 10
    for line in lines:
        assert line.replace("\\|", "").count("|") == 5


def test_a_transcoder_is_described_by_both_of_its_sites():
    cfg = {**make_record().checkpoint["cfg"], "site": "blocks.2.hook_mlp_in", "site_out": "mlp_out"}
    record = make_record(checkpoint={"cfg": cfg})
    assert describe_checkpoint(record).endswith("k 32, blocks.2.hook_mlp_in → mlp_out")
