"""What a card sets beside published figures, transfer, and variants that are the reference itself."""

from dataclasses import replace

import pytest

from saebench.metrics.definitions import definition
from saebench.report import escape
from saebench.report.portability import overview, section
from tests.report.variants import DETAILS, NO_FIGURE, REFERENCE, VALUES, cells, made


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
