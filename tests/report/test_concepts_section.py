"""What a card says of latents on a concept: figures from the record, nothing of it live markup."""

import json

import pytest
from markdown_it import MarkdownIt

from saebench.record import Measurement, Record
from saebench.report.concepts import marked, section

NULL = {"median": 1.04, "low": 0.84, "high": 1.32, "mean": 1.05, "sd": 0.15}
COUNT = {"observed": 7, "p": 0.02, "null": {**NULL, "median": 1, "low": 0, "high": 3}}
SIDE = {
    "n1": 19,
    "n0": 21,
    "unit": "texts",
    "n_units": 40,
    "exchanged": "texts",
    "n_latents": 181,
    "n_silent": 4,
    "n_eligible": 150,
    "n_infinite": 0,
    "best": 53,
    "d_best": -1.545,
    "discoveries": {"rate": 0.05, "n": 3, "n_needed": None, "level": 0.05, "n_corrected": 2},
    "exact": False,
    "n_permutations": 1000,
    "smallest_p": 1 / 1001,
    "d_max": {"observed": 1.545, "p": 0.004, "null": NULL},
    "auroc_max": {"observed": 0.31, "p": 0.01, "null": NULL},
    "n_over_1": COUNT,
}
CHOSEN = {"sign": -1, "n1": 10, "n0": 10, "d": 0.9, "d_low": 0.2, "d_high": 1.8}
CHOSEN |= {"g": 0.88, "g_low": 0.19, "g_high": 1.7, "auroc": 0.74, "auroc_low": 0.55}
CHOSEN |= {"auroc_high": 0.9, "standard_error": 0.4, "p": 0.03, "smallest_p": 0.001}
CHOSEN |= {"d_interval": "bootstrap over 20 texts within classes"}
LATENTS = {
    "splits": {"train": SIDE, "held_out": SIDE, "control": {**SIDE, "best": 9}},
    "chosen": {"held_out": CHOSEN, "control": {**CHOSEN, "d": 0.1}},
    "reasons": {},
}
SPREAD = {"mean": 0.4, "median": 0.4, "low": 0.2, "high": 0.6}
EXAMPLE = {"text": 3, "position": 4, "code": 2.5, "before": "a ", "token": "b", "after": " c"}
FOUND = {
    "protocol": {"pooling": "mean", "min_firings": 5},
    "concept": {"name": "honest", "positive": "honest", "classes": ["other", "honest"]},
    "latents": LATENTS,
    "activations": {
        "dimensions": {**LATENTS, "splits": {"train": {**SIDE, "best": 12}}},
        "mean_difference": {"held_out": CHOSEN},
        "reason": "",
    },
    "halves": {
        "n_splits": 200,
        "k": 20,
        "overlap": SPREAD,
        "overlap_by_chance": 0.133,
        "overlap_of_shuffled": {**SPREAD, "mean": 0.15},
        "d_max": SPREAD,
        "d_max_of_shuffled": SPREAD,
        "d_on_other_half": SPREAD,
        "same_winner": 0.35,
        "winners": [{"latent": 53, "share": 0.5}],
    },
    "top": [
        {
            "latent": 53,
            "d": -1.545,
            "auroc": 0.19,
            "p_corrected": 0.004,
            "p_alone": 0.001,
            "rate1": 0.1,
            "rate0": 0.8,
            "best_in_halves": 0.5,
            "cosine": None,
            "d_held_out": -0.9,
            "auroc_held_out": 0.26,
            "examples": {"honest": [], "other": [EXAMPLE]},
        }
    ],
    "examples_of": "held_out",
}


def record_of(found, gap=(0.8, 0.1, 1.7)):
    metric = "concept_behaviour_minus_control@1"
    measured = {metric: Measurement(metric, *gap)} if gap else {}
    return Record("k" * 64, {"name": "a/honest"}, {}, {}, {}, measured, details={"concepts": found})


@pytest.fixture
def found():
    return json.loads(json.dumps(FOUND))


FIGURE = {"value": 0.71, "n": 90, "low": 0.55, "high": 0.83, "how": "", "reason": None}
FACTS = {
    "labels": {"kind": "judges", "columns": ["x", "<b>y"], "consensus": "majority"},
    "data": {
        "data": {
            "n_drawn": 120,
            "n_ambiguous": 12,
            "ambiguous_share": {"value": 0.1, "low": 0.06, "high": 0.17},
            "written_by": {"model": {"id": "/home/me/models/writer"}, "settings": {}},
        },
        "control": {"n_drawn": 40, "n_ambiguous": 0},
    },
    "agreement": {"fleiss": FIGURE, "raw": {**FIGURE, "value": 0.9, "low": None}},
    "rules_scores": {
        "against": {"judges": ["x", "<b>y"]},
        "n_texts": 110,
        "by_class": {
            "honest|": {"precision": FIGURE, "recall": {**FIGURE, "value": 0.6}},
            "other": {"precision": {"value": None, "reason": "none"}, "recall": FIGURE},
        },
    },
}


def test_where_labels_come_from_stands_beside_how_far_they_can_be_trusted(found):
    found["concept"]["facts"] = FACTS
    text = section(record_of(found))
    assert "Labels: by consensus (majority) of the judges `x`, `<b>y`." in text
    assert "Of 120 drawn texts 12 were ambiguous and dropped (10.0 % [6.0, 17.0])." in text
    assert "Of 40 drawn texts (control texts) 0 were ambiguous and dropped" in text
    assert "Fleiss' κ 0.71 [0.55, 0.83] on the 90 texts" in text
    assert "(raw agreement 0.90)" in text
    assert "The completions were written by `writer`." in text
    assert "/home/me" not in text
    assert "The rules against the judges `x`, `<b>y`, on the 110 texts" in text
    assert "| 0.71 [0.55, 0.83] | 0.60 [0.55, 0.83] |" in text
    assert "| `other` | – | 0.71 [0.55, 0.83] |" in text
    html = MarkdownIt("commonmark").enable("table").render(text)
    assert "<b>y" not in html


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            {"kind": "rules", "file": "/etc/a`b.toml"},
            "Labels: by the keyword rules of ``a`b.toml``.",
        ),
        ({"kind": "column", "column": "label"}, "Labels: those of the column `label`."),
    ],
)
def test_rules_are_named_by_their_file_and_columns_by_their_name(found, source, said):
    found["concept"]["facts"] = {"labels": source}
    assert said in section(record_of(found))


def test_judges_without_kappa_say_why(found):
    none = {"value": None, "n": 4, "reason": "every label is of one class"}
    found["concept"]["facts"] = {**FACTS, "agreement": {"fleiss": none, "raw": FIGURE}}
    assert "no κ: every label is of one class." in section(record_of(found))


def test_a_record_without_facts_has_no_paragraph_of_labels(found):
    assert "Labels:" not in section(record_of(found))


def test_the_largest_d_stands_beside_what_chance_gives(found):
    text = section(record_of(found))
    assert "| Training | 19 + 21 | 150 | 1.54 (53) | 1.04 (0.84 – 1.32) | 0.00400 | 0.81 |" in text
    assert "| Control | 19 + 21 | 150 | 1.54 (9) |" in text
    assert "7 latents have |d| > 1, by chance 1 (0 – 3) (p = 0.0200)" in text
    assert "false discovery rate of 5 % 3 differ" in text
    assert "2 differ between the classes with a p of 5 % or less corrected for the maximum" in text


@pytest.mark.parametrize(
    ("needed", "why"),
    [
        (122_880, "1,000 permutations are too few, about 122,880 would do."),
        (None, "the texts have too few arrangements."),
    ],
)
def test_a_count_that_permutations_cannot_resolve_is_not_called_none(found, needed, why):
    found["latents"]["splits"]["train"]["discoveries"] |= {"n": None, "n_needed": needed}
    text = section(record_of(found))
    assert f"at a false discovery rate of 5 % cannot be resolved: {why}" in text
    assert "2 differ between the classes with a p of 5 % or less" in text


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["other", "honest"], "between `honest` and `other`; "),
        (["a", "b", "honest"], "between `honest` and the other class; "),
        (None, "between `honest` and the other class; "),
    ],
)
def test_the_other_class_is_named_where_it_has_a_name(found, classes, said):
    found["concept"]["classes"] = classes
    assert said in section(record_of(found))


def test_the_chosen_latent_stands_beside_a_dimension_and_the_mean_difference(found):
    text = section(record_of(found))
    assert (
        "| Latent 53 | 1.54 | 0.90 [0.20, 1.80] | 0.88 [0.19, 1.70] | 0.74 [0.55, 0.90] | 0.10 "
        in text
    )
    assert "| Dimension 12 of x | 1.54 |" in text
    assert "| Difference of mean x | – | 0.90 [0.20, 1.80] |" in text


@pytest.mark.parametrize(
    ("p", "held", "said"),
    [
        (0.3, {}, "No latent tells the classes apart better than chance"),
        (
            0.004,
            {"d_low": -0.1},
            "and the best one does so on held-out texts (d = 0.90 [-0.10, 1.80], p = 0.0300).",
        ),
        (
            0.004,
            {"p": 0.06},
            "but the best one does not do so for sure on held-out texts (d = 0.90 [0.20, 1.80], p = 0.0600).",
        ),
        (
            0.004,
            {"d_low": None, "d_high": None},
            "and the best one does so on held-out texts (d = 0.90, p = 0.0300).",
        ),
        (
            0.004,
            {"d": None},
            "and the best one does so on held-out texts (d infinite, p = 0.0300).",
        ),
        (0.004, {"p": 0.1, "smallest_p": 0.1}, "too few for a p below 0.100 (d = 0.90"),
        (0.004, {"p": None}, "the best one has d = 0.90 [0.20, 1.80], whose p was not measured."),
        (0.004, None, "whether the best one holds on other texts was not measured."),
    ],
)
def test_the_verdict_follows_from_p_and_that_of_the_chosen_latent_held_out(found, p, held, said):
    found["latents"]["splits"]["train"]["d_max"]["p"] = p
    chosen = found["latents"]["chosen"]
    chosen["held_out"] = held if held is None else chosen["held_out"] | held
    assert said in section(record_of(found)).splitlines()[0]


def test_a_card_says_how_the_held_out_interval_was_made_or_why_there_is_none(found):
    text = section(record_of(found))
    assert "Intervals of the latent's d held out: bootstrap over 20 texts within classes." in text
    found["latents"]["chosen"]["held_out"] |= {"d_low": None, "d_interval": "9 | texts"}
    text = section(record_of(found))
    assert "The latent's d held out has no interval: 9 \\| texts." in text


def test_too_few_texts_for_any_p_are_not_called_chance(found):
    found["latents"]["splits"]["train"] |= {"smallest_p": 0.1}
    assert "too few texts for p to fall below 0.100" in section(record_of(found))


@pytest.mark.parametrize(
    ("gap", "said"),
    [
        ((0.8, 0.1, 1.7), "0.80 [0.10, 1.70]: it follows the behaviour."),
        ((-0.8, -1.7, -0.1), ": it follows the input."),
        ((0.1, -0.5, 0.7), ": it follows neither for sure."),
    ],
)
def test_the_behaviour_is_set_against_the_input(found, gap, said):
    assert said in section(record_of(found, gap))


def test_stability_is_a_line_with_its_chance(found):
    text = section(record_of(found))
    assert (
        "in 200 random splits of the training texts into halves, 0.40 of the top 20 latents" in text
    )
    assert "by chance 0.13 (0.15 with permuted labels)" in text
    assert "latent 53 is the best in 0.50 of the halves" in text


def test_top_latents_have_rates_by_class_and_examples_with_their_token(found):
    text = section(record_of(found))
    assert "| 53 | -1.54 | 0.00400 | -0.90 | 0.26 | – | 10 % / 80 % | 0.50 | – |" in text
    assert "| 53 | `other` | 2.50 | a <b>b</b> c |" in text


def test_infinite_latents_and_missing_splits_are_said(found):
    found["latents"]["splits"]["train"]["n_infinite"] = 2
    del found["latents"]["splits"]["control"]
    found["latents"]["reasons"]["control"] = "the concept names no control texts"
    text = section(record_of(found, None))
    assert "2 latents are constant in each class" in text
    assert "Control: the concept names no control texts." in text
    assert "| Control |" not in text
    assert "behaviour or the input" not in text


def test_what_was_not_measured_says_why_and_other_records_are_empty():
    assert section(record_of({"reason": "one | class"})) == "Not measured: one \\| class"
    assert section(record_of({})) == ""


EVIL = "</b></details> <img src=x onerror=1> | `a` **b** \x1b[31m[x](http://e) \n# h"


def test_texts_from_outside_break_out_of_nothing(found):
    found["concept"]["positive"] = EVIL
    found["top"][0]["examples"] = {
        EVIL: [{**EXAMPLE, "before": EVIL, "token": EVIL, "after": EVIL}]
    }
    found["latents"]["reasons"]["held_out"] = EVIL
    found["activations"]["reason"] = EVIL
    found["latents"]["chosen"]["held_out"]["d_interval"] = EVIL
    found["concept"]["classes"] = [EVIL + "x", EVIL]
    found["protocol"]["pooling"] = EVIL
    text = section(record_of(found))
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert "<img" not in html
    assert "<h1" not in html
    assert "href" not in html
    assert "\x1b" not in text
    assert html.count("<details>") == html.count("</details>") == 1
    assert html.count("<b>") == html.count("</b>") == 1
    rows = [line for line in text.splitlines() if "<b>" in line]
    assert len(rows) == 1


def test_a_stored_record_of_another_shape_gives_text_all_the_same(found):
    for key in ("latents", "activations", "halves", "top"):
        assert isinstance(section(record_of({**found, key: [{}, 3, "x"]})), str)
        assert isinstance(section(record_of({**found, key: {"splits": 3, "chosen": []}})), str)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("the", " cat", " sat"), "the <b>cat</b> sat"),
        (("the ", "cat", ""), "the <b>cat</b>"),
        (("un", "believ", "able"), "un<b>believ</b>able"),
        (("a", " ", "b"), "a <b>␣</b> b"),
        (("", "x", " y"), "<b>x</b> y"),
    ],
)
def test_spaces_about_the_token_stay_outside_of_the_bold(parts, expected):
    assert marked(*parts) == expected
