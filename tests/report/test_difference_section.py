"""The difference section of a card: every subset and baseline, reasons in words, nothing let through."""

from __future__ import annotations

from typing import Any

import pytest

from saebench.record import Record
from saebench.report.difference import section, shown


def record(**found: Any) -> Record:
    return Record("k", {"name": "a/b"}, {}, {}, {}, {}, details={"difference": found})


def figure(value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value} if low is None else {"value": value, "interval": [low, high]}


def row(name: str, n: int = 100, **more: Any) -> dict[str, Any]:
    figures = {"tss_share": figure(0.25, 0.2, 0.3), "fve": figure(0.5), "fve_global": figure(0.75)}
    sizes = {"n_tokens": n, "n_sequences": 10, "mean_norm": 1.5}
    return {"name": name, **sizes, **figures, "l0": figure(12.0), **more}


def table(**more: Any) -> dict[str, Any]:
    return {
        "protocol": {"top": 0.01, "bottom": 0.5, "max_tokens": 1000},
        "text": {"own": False, "data": {"n_sequences": 40}},
        "n_tokens": 1234,
        "dead": {"n": 3, "of": 64},
        "table": [row("all"), row("fire", 7), row("top", 12)],
    } | more


def cells(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_nothing_without_the_part():
    assert section(Record("k", {"name": "a"}, {}, {}, {}, {})) == ""


def test_a_checkpoint_that_could_not_be_measured_says_why():
    assert section(record(reason="it reads one model")) == "Not measured: it reads one model"


def test_every_subset_has_its_sizes_and_both_forms():
    text = section(record(**table()))
    assert "1,234 tokens of 40 labelled prompts; 3 of 64 latents fire on none" in text
    assert cells(text, "Fire tokens") == [
        *("Fire tokens", "7", "10", "1.50", "0.250 [0.200, 0.300]", "0.500", "0.750", "12")
    ]
    assert cells(text, "Largest ‖δ‖, 1 %")[1] == "12"


def test_the_own_text_is_called_so():
    assert "of the run's own text" in section(record(**table(text={"own": True})))


def test_reasons_are_said_once_for_all_that_have_them():
    empty = {"n_tokens": 0, "fve": {"value": None}}
    rows = [
        row("all"),
        row("fire", reason="cut off") | empty,
        row("matched", reason="cut off") | empty,
    ]
    text = section(record(**table(table=rows)))
    assert "Fire tokens, Their counterparts: cut off." in text
    alike = row("top") | {"fve": {"value": None, "reason": "all alike"}}
    assert "Largest ‖δ‖, 1 %: all alike." in section(record(**table(table=[alike])))


def test_fire_tokens_without_a_counterpart_are_counted_and_said():
    rows = [row("all"), row("fire", 120), row("fire_matched", 60), row("matched", 60)]
    text = section(record(**table(table=rows)))
    assert cells(text, "Fire tokens with a counterpart")[1] == "60"
    assert cells(text, "Their counterparts")[1:4] == ["60", "10", "1.50"]
    assert "60 of 120 fire tokens have no counterpart: no other token without a label" in text
    rows = [row("fire", 60), row("fire_matched", 60), row("matched", 60)]
    assert "have no counterpart" not in section(record(**table(table=rows)))


@pytest.mark.parametrize(("n", "few"), [(29, True), (30, False)])
def test_few_documents_have_narrow_intervals(n, few):
    text = section(record(**table(text={"own": False, "data": {}, "n_documents": n})))
    assert f"of which there are {n}" in text
    assert ("percentile intervals are too narrow" in text) is few


def test_a_base_sae_elsewhere_is_named_without_the_folders_it_lies_in():
    found = {"base_sae": {"sae": "/home/me/saes/base-l2", "l0": 3.0, "all": figure(0.1)}}
    text = section(record(**table(baselines=found)))
    assert "`base-l2`" in text
    assert "/home/me" not in text


def test_lost_spans_and_left_out_prompts_are_named():
    facts = {"own": False, "data": {}, "n_left_out": 5}
    facts |= {"n_lost": {"fire": 2, "answer": 0}, "n_spans": {"fire": 9, "answer": 4}}
    text = section(record(**table(text=facts)))
    assert "5 prompts beyond 1,000 tokens were left out" in text
    assert "2 of 9 fire." in text
    assert "answer" not in text


def test_baselines_stand_beside_one_another():
    found = {
        "mean": {"all": figure(0.0), "fire": figure(-0.2)},
        "pca": {"k": 12, "all": figure(0.61, 0.6, 0.62), "fire": figure(0.4)},
        "base_sae": {"sae": "x", "l0": 30.0, "notes": ["guessed"], "all": figure(0.1)},
        "random": {"k": 12, "all": figure(0.3), "sample": {"n_tokens": 4096}},
    }
    text = section(record(**table(baselines=found)))
    assert cells(text, "PCA, k = 12")[1:3] == ["0.610 [0.600, 0.620]", "0.400"]
    assert cells(text, "Mean of δ")[1:3] == ["0.000", "-0.200"]
    assert "`x`, 30 latents" in text
    assert "guessed." in text
    assert "4,096 tokens" in text


def test_latents_are_listed_with_the_prompts_that_they_fire_on():
    found = {
        "best": {"precision": figure(0.9, 0.8, 1.0), "recall": figure(0.7), "f1": figure(0.79)},
        "rows": [
            {
                "latent": 17,
                "choosing": {"f1": 0.81},
                "judging": {"f1": 0.79, "precision": 0.9, "recall": 0.7, "prompt_auroc": 0.95},
                "prompts_by_condition": {"poison": 8, "single": 1},
            }
        ],
        "n_prompts": {"choosing": 20, "judging": 21},
        "prompts_of_condition": {"poison": 10, "single": 11},
    }
    text = section(record(**table(latents=found)))
    assert cells(text, "17") == ["17", "0.810", "0.790", "0.900", "0.700", "0.950", "8", "1"]
    assert "| poison (10) | single (11) |" in text
    assert "precision 0.900 [0.800, 1.000]" in text
    assert "by F1 on 20 prompts and judged on 21 prompts, where" in text
    named = found | {"n_documents": {"choosing": 13, "judging": 16}}
    text = section(record(**table(latents=named)))
    assert "20 prompts of 13 documents and judged on 21 prompts of 16 documents, where" in text
    missing = section(record(**table(latents={"reason": "no fire"})))
    assert "not measured, no fire." in missing


def test_conditions_have_a_table_of_their_own():
    text = section(record(**table(conditions=[row("poison", 55)])))
    assert cells(text, "poison")[1] == "55"


HOSTILE = "<img src=x>|[a](http://b)\x1b[31m"


@pytest.mark.parametrize("place", ["table", "conditions", "latents", "base", "reason"])
def test_what_was_written_by_others_stays_text(place):
    found = {
        "table": table(table=[row(HOSTILE, reason=HOSTILE)]),
        "conditions": table(conditions=[row(HOSTILE)]),
        "latents": table(latents={"rows": [{"latent": 1}], "prompts_of_condition": {HOSTILE: 3}}),
        "base": table(baselines={"base_sae": {"sae": HOSTILE, "notes": [HOSTILE]}}),
        "reason": {"reason": HOSTILE},
    }[place]
    text = section(record(**found))
    assert "\x1b" not in text
    outside = [part for number, part in enumerate(text.split("`")) if number % 2 == 0]
    assert "<img" not in "".join(outside).replace("\\<img", "")
    assert "[a](" not in "".join(outside).replace("\\[a\\]", "")


@pytest.mark.parametrize("broken", [None, [], "x", {"table": 3}, {"table": [{"name": "all"}]}])
def test_a_damaged_record_does_not_break_the_card(broken):
    one = Record("k", {"name": "a"}, {}, {}, {}, {}, details={"difference": broken})
    assert isinstance(section(one), str)


def test_bounds_that_say_nothing_are_left_out():
    assert shown(figure(1.0, 1.0, 1.0)) == "1.000"
    assert shown({"value": None}) == "–"
    assert shown({"value": 0.5, "interval": ["a", 1]}) == "0.500"
