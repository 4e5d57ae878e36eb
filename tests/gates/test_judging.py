"""Limits are read as written, compared unrounded, and a verdict says why in one line."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import date

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from saebench.errors import ConfigError
from saebench.gates import (
    Gate,
    Limit,
    Status,
    Waiver,
    judge,
    judge_record,
    parse_limit,
    shown,
)
from saebench.record import Measurement, Record

TODAY = date(2026, 6, 1)
FVE = Measurement("fve@1", 0.812, 0.806, 0.818, n_tokens=131072, n_sequences=512)


def gate(limit: str, metric: str = "fve", *, confidence: bool = False) -> Gate:
    return Gate(metric, parse_limit(limit), confidence, "reconstruction")


def waiver(expires: date, sae: str = "topk-*", metric: str = "fve") -> Waiver:
    return Waiver(sae, metric, "trained for a tenth\nof the tokens", expires)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        (">= 0.80", 0.8, math.inf),
        (">=.8", 0.8, math.inf),
        ("≥ 0.8", 0.8, math.inf),
        ("<= 10%", -math.inf, 0.1),
        ("<= 7 %", -math.inf, 0.07),
        ("> 0", 0, math.inf),
        ("> -1e-3", -0.001, math.inf),
        ("< 131_072", -math.inf, 131072),
        ("60..70", 60, 70),
        ("-1.5 .. 2.5", -1.5, 2.5),
        ("10%..20%", 0.1, 0.2),
        ("== 16", 16, 16),
        ("16", 16, 16),
        ("64 ± 0.5", 63.5, 64.5),
        ("== 64 +- 0.5", 63.5, 64.5),
        ("64 +/- 10%", 57.6, 70.4),
        ("-2 ± 50%", -3, -1),
        ("10% ± 2%", 0.08, 0.12),
    ],
)
def test_a_limit_means_the_interval_it_spells(text: str, low: float, high: float) -> None:
    limit = parse_limit(text)
    assert (limit.low, limit.high) == (low, high)


def test_ends_are_computed_in_decimal_so_that_a_value_on_the_end_holds() -> None:
    assert 0.8 - 0.1 > 0.7
    assert parse_limit("0.8 ± 0.1").holds(0.7)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (">= 0.8", [0.8, 1.0, math.inf], [math.nextafter(0.8, 0), -1.0]),
        ("<= 0.1", [0.1, -1.0], [math.nextafter(0.1, 1)]),
        ("> 0", [5e-324], [0.0, -0.0, -1.0]),
        ("< 5", [4.999], [5.0, 6.0]),
        ("60..70", [60, 65, 70], [math.nextafter(60, 0), math.nextafter(70, 99)]),
        ("== 16", [16.0], [16.000001]),
    ],
)
def test_ends_belong_to_a_limit_unless_it_is_strict(
    text: str, inside: list[float], outside: list[float]
) -> None:
    limit = parse_limit(text)
    assert all(limit.holds(value) for value in inside)
    assert not any(limit.holds(value) for value in [*outside, math.nan])


def test_shortfall_is_the_distance_to_the_nearest_end() -> None:
    assert parse_limit(">= 0.75").shortfall(0.5) == 0.25
    assert parse_limit("60..70").shortfall(72.5) == 2.5
    assert parse_limit("60..70").shortfall(65) == 0
    assert parse_limit("> 0").shortfall(0) == 0


@pytest.mark.parametrize(
    "text",
    [
        *("", "high", ">=", "0.8 >=", "=> 0.8", "= 0.8", ">= 0.8 and < 1", ">= nan", "<= inf"),
        *("70..60", "60..", "..70", "0.1...0.2", "60..70%", "64 ± -1", "10% ± 2", "k..70", "2k"),
        *(">= 1e999", "> 1e99999999999999999999", ">= 0x10", ">= 1,000", "!= 3", ">= ١"),
    ],
)
def test_text_outside_the_grammar_is_refused_with_the_text(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_limit(text)
    assert caught.value.asked == f"the limit {text!r}"
    assert caught.value.next_step.endswith(".")


def test_a_very_long_text_is_not_repeated_whole() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_limit("x" * 5000)
    assert len(str(caught.value)) < 300


finite = st.floats(allow_nan=False, allow_infinity=False).map(lambda x: x + 0.0)
distances = st.floats(min_value=0, allow_nan=False, allow_infinity=False).map(lambda x: x + 0.0)
one_number = st.builds(
    Limit, st.sampled_from([">=", "<=", ">", "<", "=="]), st.one_of(finite, st.none())
)
ranges = st.tuples(finite, finite).map(lambda ends: Limit("..", min(ends), max(ends)))
around = st.builds(Limit, st.just("±"), st.one_of(finite, st.none()), distances, st.booleans())
limits = st.one_of(one_number, ranges, around)


@given(limits)
def test_the_text_of_a_limit_reads_back_as_the_limit(limit: Limit) -> None:
    assert parse_limit(str(limit)) == limit


@given(limits, finite)
def test_a_value_holds_exactly_when_it_lies_between_the_ends(limit: Limit, value: float) -> None:
    limit = limit.at(16)
    beyond = value < limit.low or value > limit.high
    on_a_strict_end = limit.operator in ("<", ">") and value in (limit.low, limit.high)
    assert limit.holds(value) == (not beyond and not on_a_strict_end)
    assert (limit.shortfall(value) > 0) == beyond


@given(st.text(max_size=30))
def test_any_text_is_a_limit_or_a_config_error(text: str) -> None:
    try:
        limit = parse_limit(text)
    except ConfigError:
        return
    assert parse_limit(str(limit)) == limit


def test_k_stands_for_the_checkpoints_own_k() -> None:
    limit = parse_limit("k ± 10%")
    assert limit.needs_k
    assert (limit.at(20).low, limit.at(20).high) == (18, 22)
    assert str(limit.at(20)) == "20 ± 10%"
    assert parse_limit("k").at(16).holds(16)
    with pytest.raises(ConfigError, match="no k"):
        limit.holds(16)


def test_without_a_k_a_shipped_gate_does_not_apply_and_a_written_one_is_not_evaluable() -> None:
    written = gate("k ± 10%", "l0")
    shipped = Gate("l0", written.limit, shipped=True)
    assert shipped.at(None) is None
    assert shipped.at(16) == Gate("l0", parse_limit("16 ± 10%"), shipped=True)
    stays = written.at(None)
    assert stays == written
    verdict = judge(stays, Measurement("l0@1", 16.0))
    assert verdict.status is Status.NOT_EVALUABLE
    assert "states no k" in verdict.message


def test_a_failure_reads_as_the_design_says() -> None:
    verdict = judge(gate(">= 0.85"), FVE, name="topk-s0")
    assert verdict.status is Status.FAIL
    assert not verdict.passed
    assert verdict.name == "topk-s0"
    assert verdict.message == (
        "FVE 0.812 [0.806, 0.818] is below the gate >= 0.85   (131,072 tokens, 512 sequences, fve@1)"
    )


def test_a_pass_reads_alike() -> None:
    verdict = judge(gate(">= 0.80"), FVE)
    assert (verdict.status, verdict.passed) == (Status.PASS, True)
    assert verdict.message.startswith("FVE 0.812 [0.806, 0.818] meets the gate >= 0.8   (131,072")


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        (">= 0.9", 0.5, "0.500 is below the gate >= 0.9"),
        ("<= 10%", 0.5, "0.500 is above the gate <= 0.1"),
        ("> 0", 0.0, "0.00 is not above the gate > 0"),
        ("< 5", 7.0, "7.00 is not below the gate < 5"),
        ("60..70", 72.25, "72.2 is outside the gate 60..70"),
        ("64 ± 10%", 72.25, "72.2 is outside the gate 64 ± 10%"),
        ("== 16", 15.0, "15.0 differs from the gate == 16"),
    ],
)
def test_the_words_come_from_the_operator(limit: str, value: float, words: str) -> None:
    assert words in judge(gate(limit), Measurement("fve@1", value)).message


@pytest.mark.parametrize(
    ("limit", "value", "text"),
    [
        (">= 0.85", 0.8499996, "0.8499996"),
        (">= 0.85", math.nextafter(0.85, 0), "0.8499999999999999"),
        ("<= 70", 70.004, "70.004"),
        ("> 0", 1e-9, "1.00e-09"),
        ("== 16", 16.0000001, "16.0000001"),
        ("<= 1e12", 1.0000001e12, "1.0000001e+12"),
        ("< 1543.2", 1543.24, "1543.24"),
    ],
)
def test_a_narrow_result_shows_the_digits_that_decide_it(
    limit: str, value: float, text: str
) -> None:
    assert judge(gate(limit), Measurement("fve@1", value)).message.startswith(f"FVE {text} ")


@given(limits, finite)
def test_the_number_shown_is_on_the_side_of_the_verdict(limit: Limit, value: float) -> None:
    limit = limit.at(16)
    assume(not (limit.low == -math.inf and limit.high == math.inf))
    verdict = judge(Gate("fve", limit), Measurement("fve@1", value))
    number = float(verdict.message.split()[1])
    assert limit.holds(number) == (verdict.status is Status.PASS) == limit.holds(value)


@pytest.mark.parametrize(
    ("measurement", "text"),
    [
        (Measurement("m@1", 0.8123456, 0.8119, 0.8128), "0.8123 [0.8119, 0.8128]"),
        (Measurement("m@1", 0.5, 0.1, 0.9), "0.500 [0.100, 0.900]"),
        (Measurement("m@1", 64.25, 64.25, 64.25), "64.2 [64.2, 64.2]"),
        (Measurement("m@1", 12345.6), "12346"),
        (Measurement("m@1", -0.0), "0.00"),
        (Measurement("m@1", 1.5e-7, 1e-7, 2e-7), "1.50e-07 [1.00e-07, 2.00e-07]"),
    ],
)
def test_a_value_shows_the_digits_its_interval_allows(measurement: Measurement, text: str) -> None:
    assert shown(measurement) == text


def test_a_gate_on_the_interval_judges_its_unfavourable_end() -> None:
    assert judge(gate(">= 0.81"), FVE).passed
    verdict = judge(gate(">= 0.81", confidence=True), FVE)
    assert verdict.status is Status.FAIL
    assert verdict.message.startswith(
        "the lower bound 0.806 of FVE 0.812 [0.806, 0.818] is below the gate >= 0.81"
    )
    assert judge(gate(">= 0.806", confidence=True), FVE).passed
    assert not judge(gate("<= 0.815", confidence=True), FVE).passed
    assert judge(gate("<= 0.818", confidence=True), FVE).passed


@pytest.mark.parametrize(
    ("limit", "end"), [("0.81..0.9", "lower"), ("0.7..0.815", "upper"), ("0.811..0.813", "lower")]
)
def test_a_limit_with_two_sides_needs_both_ends_of_the_interval(limit: str, end: str) -> None:
    verdict = judge(gate(limit, confidence=True), FVE)
    assert verdict.status is Status.FAIL
    assert verdict.message.startswith(f"the {end} bound")
    assert judge(gate("0.8..0.82", confidence=True), FVE).passed


def test_a_gate_on_an_interval_that_is_not_there_is_not_evaluable() -> None:
    verdict = judge(gate(">= 0.1", confidence=True), Measurement("fve@1", 0.8, high=0.9))
    assert verdict.status is Status.NOT_EVALUABLE
    assert "has no lower bound" in verdict.message
    assert judge(gate("<= 1", confidence=True), Measurement("fve@1", 0.8, high=0.9)).passed


def test_what_was_not_measured_fails_with_its_reason() -> None:
    missing = Measurement("fve@1", None, reason="all tokens\nare alike", n_tokens=1, n_sequences=1)
    verdict = judge(gate(">= 0.5"), missing)
    assert verdict.status is Status.NOT_EVALUABLE
    assert not verdict.passed
    assert verdict.message == (
        "FVE cannot be judged against the gate >= 0.5: all tokens are alike"
        "   (1 token, 1 sequence, fve@1)"
    )
    assert not judge(gate(">= 0.5"), Measurement("fve@1", math.nan)).passed
    absent = judge(gate(">= 0.5"), None)
    assert absent.status is Status.NOT_EVALUABLE
    assert "no such measurement" in absent.message


def test_a_waived_failure_passes_until_the_day_of_expiry_and_says_so() -> None:
    failing = gate(">= 0.85")
    verdict = judge(failing, FVE, name="topk-s0", waivers=[waiver(TODAY)], today=TODAY)
    assert (verdict.status, verdict.passed) == (Status.WAIVED, True)
    assert "is below the gate" in verdict.message
    assert verdict.message.endswith("; waived until 2026-06-01 (trained for a tenth of the tokens)")


def test_an_expired_waiver_is_a_failure_that_says_so() -> None:
    late = date(2026, 6, 2)
    verdict = judge(gate(">= 0.85"), FVE, name="topk-s0", waivers=[waiver(TODAY)], today=late)
    assert verdict.status is Status.FAIL
    assert "; its waiver expired on 2026-06-01" in verdict.message


def test_of_several_waivers_the_one_that_runs_longest_counts() -> None:
    waivers = [waiver(date(2026, 1, 1)), waiver(date(2027, 1, 1)), waiver(date(2025, 1, 1))]
    verdict = judge(gate(">= 0.85"), FVE, name="topk-s0", waivers=waivers, today=TODAY)
    assert verdict.waiver == waivers[1]


def test_a_pass_that_needs_its_waiver_no_longer_is_reported() -> None:
    verdict = judge(gate(">= 0.8"), FVE, name="topk-s0", waivers=[waiver(TODAY)], today=TODAY)
    assert verdict.status is Status.PASS
    assert verdict.waiver is not None
    assert "no longer needs the waiver" in verdict.message


@pytest.mark.parametrize(
    "other", [waiver(TODAY, sae="batchtopk-*"), waiver(TODAY, metric="l0"), waiver(TODAY, "TOPK-*")]
)
def test_a_waiver_is_for_its_checkpoints_and_its_metric_only(other: Waiver) -> None:
    verdict = judge(gate(">= 0.85"), FVE, name="topk-s0", waivers=[other], today=TODAY)
    assert verdict.status is Status.FAIL
    assert verdict.waiver is None


def test_what_could_not_be_measured_can_be_waived() -> None:
    verdict = judge(gate(">= 0.85"), None, name="topk-s0", waivers=[waiver(TODAY)], today=TODAY)
    assert verdict.status is Status.WAIVED
    assert "no such measurement" in verdict.message


def test_a_record_is_judged_gate_by_gate_in_order() -> None:
    record = Record("k", {"name": "topk-s0"}, {}, {}, {}, {"fve@1": FVE})
    verdicts = judge_record([gate(">= 0.9"), gate(">= 0"), gate("16", "l0")], record)
    assert [verdict.status.value for verdict in verdicts] == ["FAIL", "PASS", "NOT_EVALUABLE"]
    assert {verdict.name for verdict in verdicts} == {"topk-s0"}


def test_gates_print_as_text() -> None:
    assert str(gate(">= 0.80", confidence=True)) == "fve >= 0.8 (interval)"


def test_reading_limits_and_records_imports_no_torch() -> None:
    code = (
        "import sys, saebench.gates, saebench.config, saebench.record, saebench.store;"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
