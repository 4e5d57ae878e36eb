"""What a card says of a checkpoint under a variant: seven rows, two verdicts, and why there are none."""

from dataclasses import replace

import pytest

from saebench.metrics.definitions import definition
from saebench.record import Measurement, Record
from saebench.report.portability import overview, section, verdict
from tests.report.variants import DETAILS, RULE, TESTED, cells, made


def test_seven_rows_hold_expectation_both_models_shift_and_verdict():
    text = section(made())
    table = [line for line in text.splitlines() if line.startswith("| ")][:9]
    assert len(table) == 9
    assert cells(text, "FVE") == [
        *("FVE", "falls by at most 20 % of itself", "0.800", "0.760"),
        *("−5.00 % [−6.00, −4.00]", "within"),
    ]
    alive = cells(text, "Alive")
    assert alive[2:] == ["1,000", "900", "−10.00 % [−15.00, −5.00]", "within"]
    assert cells(text, "L0")[1] == "k = 16 fixes it"
    assert cells(text, "L0")[-1] == "says nothing"
    assert "less: its error is 2.50 times the drift" in cells(text, "Activation drift")[-1]
    assert cells(text, "Surviving")[-1] == "480 of 800 followed"
    assert cells(text, "Top-10")[4].startswith("0.900")
    assert cells(text, "CE")[2:4] == ["3.00", "3.10"]


def test_both_verdicts_are_sentences_with_their_limits_and_intervals():
    text = verdict(made())
    assert "allows an FVE drop of 20 % and an alive shift of 50 %: **portable**." in text
    assert "Equivalence is **shown**. The 90 % intervals" in text
    assert "FVE drop [+4.20 %, +5.80 %] against ± 20 % (equivalent)" in text
    assert "alive shift [−14.00 %, −6.00 %] against ± 50 % (equivalent)" in text


def test_what_is_over_the_limit_is_named_and_marked():
    rule = {**RULE, "verdict": "retrain", "exceeded": ["fve_drop"]}
    tested = {**TESTED, "verdict": "different", "parts": {"fve_drop": "different"}}
    text = section(made(rule=rule, tested=tested))
    assert "**retrain**, as the FVE drop is larger." in text
    assert "Equivalence is **refuted**" in text
    assert cells(text, "FVE")[-1] == "**over**"
    assert cells(text, "Alive")[-1] == "within"


def test_a_doubt_is_neither_and_says_so():
    tested = {**TESTED, "verdict": "inconclusive"}
    details = {
        **DETAILS,
        "equivalence_intervals": {"fve_drop": {"reason": "at least two sequences"}},
    }
    text = verdict(made(details=details, tested=tested))
    assert "**not shown**: the data do not decide" in text
    assert "without one (at least two sequences)" in text


@pytest.mark.parametrize(
    ("details", "words"),
    [
        (
            {"not_portable": "not portable: 2560 against 1536. The checkpoint has width 2560"},
            "**Not portable.** 2560 against 1536. The checkpoint has width 2560.",
        ),
        (
            {"failed": "the variant int8 <b> is not here"},
            "**Not measured.** the variant int8 \\<b\\>",
        ),
    ],
)
def test_a_case_without_numbers_is_a_sentence(details, words):
    text = section(made(details={**details, "protocol": {}}, values={}, rule=None, tested=None))
    assert text.startswith(words)
    assert "|" not in text.replace("\\|", "")


def test_a_case_without_a_verdict_says_why():
    record = made(rule=None, tested=None)
    reason = "the FVE under the reference is not positive"
    metric = definition("port_portable").metric
    measured = {**record.measurements, metric: Measurement(metric, None, reason=reason)}
    text = section(
        Record.from_json(
            {**record.to_json(), "measurements": {k: v.to_json() for k, v in measured.items()}}
        )
    )
    assert f"No verdict: {reason}." in text
    assert cells(text, "FVE")[-1] == "–"


def test_regimes_are_named_and_nothing_foreign_gets_through():
    regime = {"regime": "fp16", "backend": "torch", "emulated": True, "why": "no native <fp16>"}
    text = section(made(details={**DETAILS, "regime": regime}))
    assert "Reference `tiny` in float32; variant `tiny|nf4` in fp16" in text
    assert "(emulated: no native \\<fp16\\>)" in text


def test_latents_by_peak_are_folded_away():
    text = section(made())
    folded = text[text.index("<details>") :]
    assert (
        "800 latents that fire on at least 10 tokens of the reference; 3 of them are silent"
        in folded
    )
    assert "| 0.100 to 2 | 400 | 0.400 | 0.850 |" in folded


def test_concepts_have_a_table_of_their_own():
    concepts = [
        {"concept": "mood", "n_held_out": 40, "latent": 7, "d_max_reference": 2.0, "d_max": 1.5}
        | {"d_best_reference": 1.9, "d_best": 1.25},
        {"concept": "none", "reason": "one class only"},
    ]
    text = section(made(details={**DETAILS, "concepts": concepts}))
    assert cells(text, "`mood`")[1:7] == ["40", "7", "2", "1.50", "1.90", "1.25"]
    assert cells(text, "`none`")[-1] == "one class only"


def test_the_overview_has_a_row_for_every_variant_whatever_came_of_it():
    wide = made(
        details={"not_portable": "not portable: 16 against 8"}, values={}, rule=None, tested=None
    )
    text = overview([made(), wide])
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == 2
    assert cells(text, "`nf4` | nf4 | reference")[3:] == [
        *("0.760", "+5.00 %", "−10.00 %", "0.600", "0.0400", "portable", "equivalent")
    ]
    assert "**not portable** | 16 against 8" in rows[1]
    assert overview([]) == ""


def test_a_record_without_the_part_has_no_section():
    record = made()
    assert section(replace(record, details={})) == ""


@pytest.mark.parametrize(
    "damaged", [{"protocol": 3}, {"latents": [1], "concepts": "x", "regime": 4}]
)
def test_a_damaged_record_is_still_written(damaged):
    assert section(made(details={**DETAILS, **damaged}))
