"""Difference SAEs side by side: the layer table, the k sweep, and checkpoints that make none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from saebench.metrics.definitions import definition
from saebench.record import Measurement, Record
from saebench.report.difference_sweep import overview, training_tokens

KS = (32, 64, 100, 128, 256)
FVES = {13: (0.51, 0.56, 0.60, 0.65, 0.70), 24: (0.43, 0.51, 0.56, 0.61, 0.67)}
TOTAL = np.random.default_rng(0).uniform(50, 150, 60)
BUDGET = 2_600_000


def record(layer=13, k=32, fve=0.5, tokens: Any = BUDGET, name="", **found: Any) -> Record:
    """A record of a difference SAE with this FVE in every group of sequences, but for a little."""
    noise = 1 + 0.002 * np.random.default_rng(k).normal(size=TOTAL.size)
    sse = (1 - fve) * TOTAL * noise
    sse *= (1 - fve) * TOTAL.sum() / sse.sum()
    stated = {} if tokens is None else {"saebench": {"tokens": tokens}}
    details = {
        "site": f"blocks.{layer}.hook_resid_post",
        "difference": "1-0",
        "d_model": 2304,
        "d_sae": 9216,
        "k": k,
        "n_tokens": 5000,
        "dead": {"n": 3, "of": 9216},
        "sums": {"all": {"tss": TOTAL.tolist(), "sse": sse.tolist()}},
    }
    values = {"diff_fve": fve, "diff_l0": k + 0.5, "diff_dead_fraction": 3 / 9216}
    measurements = {
        definition(key).metric: Measurement(definition(key).metric, value)
        for key, value in values.items()
    }
    checkpoint = {"name": name or f"l{layer}-k{k}", "provenance": stated}
    model = {"digest": "a", "others": [{"digest": "b"}]}
    return Record(
        "k",
        checkpoint,
        model,
        {"digest": "d"},
        {},
        measurements,
        details={"difference": details | found},
    )


def published() -> list[Record]:
    return [record(layer, k, fve) for layer in FVES for k, fve in zip(KS, FVES[layer], strict=True)]


def test_nothing_without_difference_saes():
    assert overview([]) == ""
    assert overview([Record("k", {"name": "a"}, {}, {}, {}, {})]) == ""


def test_the_layer_table_goes_by_layer_and_k_with_numbers_as_numbers():
    text = overview([record(24, 64), record(9, 128), record(9, 32), record(13, 32)])
    names = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| `l")]
    assert names[:4] == ["`l9-k32`", "`l9-k128`", "`l13-k32`", "`l24-k64`"]
    line = next(line for line in text.splitlines() if "`l9-k32`" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:8] == ["model 1 − 0", "2,304", "9,216", "4", "32", "2,600,000 tokens"]
    assert cells[8:] == ["0.500", "–", "32.5", "0.0 % (3)"]


def test_the_published_sweeps_have_no_elbow_and_a_point_that_stands_out():
    text = overview(published())
    assert text.count("**k sweep** at ") == 2
    assert text.count("No elbow: ") == 2
    assert text.count("The gain from k = 100 to 128 is larger than those before and after it") == 2
    assert text.count("there is one training run per k, so the variation from run to run") == 2
    assert text.count("hold the mean of δ at that of all tokens") == 2
    assert "0.1404 [" in text


def test_a_budget_is_asked_about_only_where_the_files_state_none():
    question = "was `l13-k128` trained with another budget?"
    points = list(zip(KS, FVES[13], strict=True))
    assert question not in overview([record(13, k, fve) for k, fve in points])
    assert question in overview([record(13, k, fve, tokens=None) for k, fve in points])


def test_an_elbow_is_named():
    ks, fves = (8, 16, 32, 64), (0.3, 0.5, 0.7, 0.72)
    text = overview([record(13, k, fve) for k, fve in zip(ks, fves, strict=True)])
    assert "Elbow at k = 32: " in text
    assert "there is one training run per k, so the variation from run to run" in text


def test_checkpoints_of_other_budgets_are_not_put_into_one_sweep():
    records = [record(13, k, 0.4 + k / 1000) for k in (32, 64, 100)]
    records.append(record(13, 128, 0.65, tokens=5_000_000))
    text = overview(records)
    assert "trained on different numbers of tokens: 2,600,000 tokens (k = 32, 64, 100)" in text
    assert "5,000,000 tokens (k = 128)" in text
    sweep = text.partition("**k sweep**")[2]
    assert "`l13-k100`" in sweep
    assert "`l13-k128`" not in sweep


def test_an_unstated_budget_is_said():
    text = overview([record(13, k, 0.4 + k / 1000, tokens=None) for k in (32, 64, 128)])
    assert "do not say how many tokens" in text


def test_two_points_are_no_sweep_to_read_an_elbow_from():
    text = overview([record(13, 32, 0.5), record(13, 64, 0.56)])
    assert "Two points have one gain" in text
    assert "No elbow" not in text


@pytest.mark.parametrize(
    "other",
    [
        {"d_sae": 512},
        {"difference": "0-1"},
        {"n_tokens": 4999},
        {"site": "blocks.14.hook_resid_post"},
    ],
)
def test_what_differs_in_more_than_k_is_no_sweep(other):
    assert "**k sweep**" not in overview([record(13, 32), record(13, 64, **other)])


def test_other_tokens_make_another_sweep_even_where_they_are_as_many():
    sums = {"all": {"tss": (2 * TOTAL).tolist(), "sse": TOTAL.tolist()}}
    assert "**k sweep**" not in overview([record(13, 32), record(13, 64, sums=sums)])


def test_one_k_twice_is_one_point():
    text = overview([record(13, 32), record(13, 32, name="again"), record(13, 64, 0.6)])
    assert text.partition("**k sweep**")[2].count("| 32 |") == 1


@pytest.mark.parametrize(
    "broken", [{"sums": {}}, {"sums": {"all": {"tss": [1.0], "sse": []}}}, {"sums": 3}]
)
def test_a_record_without_sums_is_left_out(broken):
    assert overview([record(13, 32, **broken)]) == ""


@pytest.mark.parametrize(("k", "words"), [(None, "–"), ("8", "–"), (0, "0")])
def test_a_checkpoint_without_a_k_is_in_the_layer_table_alone(k, words):
    one = record(13, 32)
    one.details["difference"]["k"] = k
    text = overview([one, record(13, 64)])
    assert "**k sweep**" not in text
    assert f"| 4 | {words} |" in text


def test_training_tokens_are_those_of_our_key_or_of_the_files():
    assert training_tokens(record(tokens=7)) == 7
    assert training_tokens(record(tokens=None)) is None
    assert training_tokens(record(tokens=True)) is None
    other = Record("k", {"name": "a", "provenance": {"training_tokens": 9}}, {}, {}, {}, {})
    assert training_tokens(other) == 9


def test_names_stay_text():
    text = overview([record(13, 32, name="<img>|x"), record(13, 64)])
    assert "| `<img>\\|x` |" in text
