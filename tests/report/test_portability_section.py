"""What a card says of a checkpoint under a variant: seven rows, two verdicts, and why there are none."""

import json
from dataclasses import replace

import pytest

from saebench.metrics.definitions import definition
from saebench.record import Measurement, Record
from saebench.report import escape
from saebench.report.portability import overview, section, verdict

VALUES = {
    "fve_reference": (0.8, 0.79, 0.81),
    "fve_variant": (0.76, 0.75, 0.77),
    "fve_drop": (0.05, 0.04, 0.06),
    "l0_reference": (16.0, None, None),
    "l0_variant": (16.0, None, None),
    "l0_ratio": (1.0, 1.0, 1.0),
    "alive_reference": (1000.0, None, None),
    "alive_variant": (900.0, None, None),
    "alive_shift": (-0.1, -0.15, -0.05),
    "drift": (0.2, 0.19, 0.21),
    "error_over_drift": (2.5, 2.4, 2.6),
    "survival": (0.6, 0.5, 0.7),
    "sample_correlation": (0.97, 0.96, 0.98),
    "top_k_agreement": (0.9, 0.89, 0.91),
    "ce_reference": (3.0, 2.9, 3.1),
    "ce_variant": (3.1, 3.0, 3.2),
    "ce_shift": (0.1, 0.09, 0.11),
    "kl": (0.04, 0.03, 0.05),
}
DETAILS = {
    "protocol": {"fve_drop": 0.2, "alive_shift": 0.5, "survival": 0.9, "top_k": 10},
    "variant": {"name": "nf4", "precision": "nf4"},
    "regime": {"regime": "nf4", "backend": "reference", "emulated": False},
    "latents": {
        "eligible": 800,
        "surviving": 480,
        "min_firings": 10,
        "silent_on_variant": 3,
        "alive_on_both": 890,
        "alive_on_reference_only": 110,
        "alive_on_variant_only": 10,
        "correlation_quantiles": {"0.5": 0.93},
        "by_peak": [
            {"n": 400, "peak_from": 0.1, "peak_to": 2.0, "survival": 0.4, "median": 0.85},
            {"n": 400, "peak_from": 2.0, "peak_to": 9.0, "survival": 0.8, "median": 0.95},
        ],
    },
    "equivalence_intervals": {
        "fve_drop": {"low": 0.042, "high": 0.058},
        "alive_shift": {"low": -0.14, "high": -0.06},
    },
}
RULE = {
    "verdict": "portable",
    "exceeded": [],
    "limits": {"fve_drop": 0.2, "alive_shift": 0.5},
}
TESTED = {
    "verdict": "equivalent",
    "parts": {"fve_drop": "equivalent", "alive_shift": "equivalent"},
    "margins": {"fve_drop": 0.2, "alive_shift": 0.5},
    "level": 0.9,
}


REFERENCE = {
    "id": "tiny",
    "digest": "d" * 64,
    "precision": {"regime": "float32", "backend": "torch"},
}
NO_FIGURE = "no published figure for this regime"


def made(
    details=DETAILS,
    values=VALUES,
    rule=RULE,
    tested=TESTED,
    k=16,
    regime="nf4",
    backend="reference",
    reference=REFERENCE,
    reasons=None,
):
    found = [
        Measurement(
            definition(f"port_{name}").metric,
            *numbers,
            detail={"fixed_by_k": k} if name == "l0_ratio" else {},
        )
        for name, numbers in values.items()
    ]
    found += [
        Measurement(
            definition(f"port_{name}").metric, float(not detail.get("exceeded")), detail=detail
        )
        for name, detail in (("portable", rule), ("equivalent", tested))
        if detail
    ]
    found += [
        Measurement(definition(f"port_{name}").metric, None, reason=reason)
        for name, reason in (reasons or {}).items()
    ]
    record = Record(
        "k" * 64,
        {"name": "topk@nf4", "of": "topk", "case": "nf4"},
        {
            "id": "tiny|nf4",
            "digest": "d" * 64,
            "precision": {"regime": regime, "backend": backend},
            "reference": reference,
        },
        {},
        {},
        {one.metric: one for one in found},
        part="portability",
        details={"portability": details},
    )
    return Record.from_json(json.loads(json.dumps(record.to_json())))


def cells(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


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


@pytest.mark.parametrize(
    ("ratio", "word"),
    [(1.0, "within"), (1.1, "within"), (0.9, "within"), (1.11, "**moved**"), (0.89, "**moved**")],
)
def test_an_l0_that_thresholds_decide_is_judged_by_the_limit_that_the_row_names(ratio, word):
    row = cells(section(made(k=None, values={**VALUES, "l0_ratio": (ratio, None, None)})), "L0")
    assert row[1] == "thresholds decide it: moves by at most 10 %"
    assert row[-1] == word


def test_an_l0_that_was_not_measured_is_not_judged():
    values = {name: numbers for name, numbers in VALUES.items() if name != "l0_ratio"}
    assert cells(section(made(values=values)), "L0")[-1] == "–"


@pytest.mark.parametrize(
    ("shift", "percent", "word"),
    [
        (0.1, "+3.33 %", "**above** what is published; KL"),
        (0.075, "+2.50 %", "within what is published; KL"),
        (0.03, "+1.00 %", "below what is published; KL"),
        (-0.03, "−1.00 %", "below what is published; KL"),
    ],
)
def test_the_rise_of_the_ce_is_a_share_of_the_reference_as_the_published_one_is(
    shift, percent, word
):
    row = cells(section(made(values={**VALUES, "ce_shift": (shift, None, None)})), "CE")
    assert row[1] == "published for 4-bit models: a rise of 2 to 3 %"
    assert row[4].endswith(f" nats, {percent}")
    assert row[5].startswith(word)


@pytest.mark.parametrize(
    ("regime", "ce", "survival", "top_k"),
    [
        ("nf4+double+float16", True, False, True),
        ("fp4", True, False, True),
        ("rtn4", True, False, True),
        ("rtn6+bfloat16", False, True, False),
        ("rtn3", False, False, False),
        ("int8", False, False, False),
        ("fp8+act", False, False, False),
        ("bfloat16", False, False, False),
        ("float32", False, False, False),
    ],
)
def test_a_figure_is_quoted_only_for_the_bits_it_was_published_for(regime, ce, survival, top_k):
    text = section(made(regime=regime))
    for start, quoted in (("CE", ce), ("Surviving", survival), ("Top-10", top_k)):
        row = cells(text, start)
        assert row[1].startswith("published") is quoted
        assert row[1].startswith(f"{NO_FIGURE}; unchanged is ") is not quoted
        assert ("what is published" in row[5]) is quoted
    assert cells(text, "CE")[4] == "0.100 [0.090, 0.110] nats, +3.33 %"


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ({**REFERENCE, "precision": {"regime": "nf4"}}, "from this reference"),
        ({**REFERENCE, "digest": "e" * 64}, "for other weights"),
    ],
)
def test_no_figure_is_quoted_for_more_than_a_loss_of_bits(reference, words):
    text = section(made(reference=reference))
    for start in ("CE", "Surviving", "Top-10"):
        assert "what is published" not in cells(text, start)[5]
    assert cells(text, "CE")[1].startswith(f"no published figure {words}")


@pytest.mark.parametrize(
    ("value", "word"), [(0.6, "within"), (0.51, "within"), (0.5, "**below**"), (0.7, "above")]
)
def test_survival_under_six_bits_is_set_against_what_is_published(value, word):
    values = {**VALUES, "survival": (value, None, None)}
    row = cells(section(made(values=values, regime="rtn6")), "Surviving")
    assert row[1] == "published for 6-bit rounding: 0.51 to 0.62"
    assert row[5] == f"{word} what is published; 480 of 800 followed"


@pytest.mark.parametrize(
    ("value", "word"), [(0.89, "within"), (0.886, "within"), (0.88, "**below**"), (0.9, "above")]
)
def test_top_k_agreement_is_set_against_what_is_published_for_that_k(value, word):
    values = {**VALUES, "top_k_agreement": (value, None, None)}
    row = cells(section(made(values=values)), "Top-10")
    assert row[5] == f"{word} what is published; r of codes per token 0.970 [0.960, 0.980]"
    other = {**DETAILS, "protocol": {**DETAILS["protocol"], "top_k": 5}}
    row = cells(section(made(details=other, values=values)), "Top-5")
    assert row[1] == "no published figure for this k; unchanged is 1"
    assert row[5] == "r of codes per token 0.970 [0.960, 0.980]"


NAMED = {**DETAILS, "variant": {**DETAILS["variant"], "sae": "there|`<b>"}}


def test_a_checkpoint_trained_on_the_variant_is_told_of_after_the_verdicts():
    values = {"fve_native": (0.85, 0.84, 0.86), "transfer_gap": (-0.09, -0.1, -0.08)}
    text = section(made(details=NAMED, values={**VALUES, **values}))
    assert "has an FVE of 0.850 [0.840, 0.860] there" in text
    assert "FVE of this one less FVE of that one, is -0.0900 [-0.1000, -0.0800]." in text
    assert text.index("Equivalence is") < text.index("The SAE trained on") < text.index("<details>")
    assert escape.code_span("there|`<b>") in text


def test_a_checkpoint_trained_on_the_variant_that_gives_nothing_says_why():
    reason = "the checkpoint trained on the variant cannot be read: <x>"
    text = section(made(details=NAMED, reasons={"fve_native": reason, "transfer_gap": reason}))
    said = "the checkpoint trained on the variant cannot be read: \\<x\\>."
    assert f"\n\nNo transfer gap: {said}\n\n" in text


def test_nothing_is_said_of_transfer_where_no_checkpoint_was_named():
    text = section(made(reasons={"fve_native": "no checkpoint trained on the variant is named"}))
    assert "trained on the variant" not in text
    assert "ransfer" not in text


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({}, True),
        ({"regime": "float16"}, False),
        ({"backend": "bitsandbytes"}, False),
        ({"reference": {**REFERENCE, "digest": "e" * 64}}, False),
        ({"reference": {**REFERENCE, "digest": ""}}, False),
    ],
)
def test_a_variant_that_is_the_reference_over_again_is_flagged(other, same):
    record = made(**{"regime": "float32", "backend": "torch", **other})
    assert ("**identical to the reference**, so that its zeros" in section(record)) is same
    cell = cells(overview([record]), "`nf4`")[8]
    assert cell == ("portable (identical to the reference)" if same else "portable")


def test_models_of_unknown_weights_are_not_called_identical():
    record = made(regime="float32", backend="torch")
    unknown = {**record.model, "digest": "", "reference": {**REFERENCE, "digest": ""}}
    assert "identical" not in section(replace(record, model=unknown))


def test_the_separation_of_concepts_names_the_effect_size_as_its_source():
    for name in ("d_max_reference", "d_max", "d_best_reference", "d_best"):
        source = definition(f"port_{name}").source
        assert "Cohen" in source
        assert "pooled" in source
        assert "ddof 1" in source
        assert "retrain" not in source


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
