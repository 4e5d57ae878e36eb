"""Conditions of prompts: under any name, and what a latent says of prompts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from saebench.measure.difference import findings as findings_module
from saebench.measure.difference import job as job_module
from saebench.metrics.difference.detectors import JUDGING, Prompts
from saebench.metrics.difference.subsets import Subset
from tests.difference_runs import make_pair_world, measured, prepared, prompt_rows, write_prompts

NAMES = ("all", "fire", "top", "rest", "bottom", "matched", "fire_matched", "decision", "answer")
MORE = ("condition all", "other", "none", "", "mean", "name", "|pipe|", "all other conditions")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_pair_world(tmp_path_factory.mktemp("conditions") / "world")


def run_with(world, names, out):
    """The details of a run whose prompts go through ``names``, one after another."""
    rows = [
        row | {"condition": names[i % len(names)]}
        for i, row in enumerate(prompt_rows(4 * len(names)))
    ]
    rows = [
        row if row["condition"] else {k: v for k, v in row.items() if k != "condition"}
        for row in rows
    ]
    text = str(write_prompts(world.folder / f"{out}.jsonl", rows))
    record = measured(prepared(world, text=text, out=out))["diff"]
    assert json.dumps(record.to_json(), allow_nan=False)
    return record.details["difference"], rows


@pytest.mark.parametrize("names", [NAMES, MORE], ids=["subsets", "others"])
def test_a_condition_may_be_called_like_a_subset_or_anything_else(world, names):
    details, rows = run_with(world, names, f"named{len(names)}")
    found = {row["name"]: row for row in details["conditions"]}
    assert len(found) == len(details["conditions"]) == len(names)
    assert {row["n_sequences"] for row in found.values()} == {4}
    assert {row["n_tokens"] for row in found.values()} == {4 * 8}
    assert {name or "no condition given" for name in names} == set(found)
    table = {row["name"]: row for row in details["table"]}
    assert table["all"]["n_tokens"] == 8 * len(rows)
    assert table["fire"]["n_tokens"] == sum(bool(row["fire"]) for row in rows)
    shares = [row["tss_share"]["value"] for row in found.values()]
    assert sum(shares) == pytest.approx(1)


def test_a_condition_called_other_is_not_the_rest(world):
    names = ("other", "none", "", *(f"c{i:02}" for i in range(15)))
    details, _ = run_with(world, names, "many")
    found = {row["name"]: row["n_sequences"] for row in details["conditions"]}
    assert len(found) == len(details["conditions"]) == job_module.MOST_CONDITIONS
    assert found["all other conditions"] == 4 * 3


def test_other_and_none_stay_apart_from_the_rest_and_from_what_is_missing():
    given = ["other"] * 3 + ["none"] * 2 + [""] * 2 + [f"c{i}" for i in range(20)]
    names, number = job_module._conditions(given)
    of = dict(zip(given, (names[i] for i in number), strict=True))
    assert (of["other"], of["none"], of[""]) == ("other", "none", "no condition given")
    assert names[-1] == "all other conditions"
    assert (number == names.index("other")).sum() == 3


def test_names_that_are_all_taken_go_into_brackets():
    given = ["other", "all other conditions", *(f"c{i}" for i in range(20))]
    names, _ = job_module._conditions(given)
    assert names[-1] == "(all other conditions)"


def test_subsets_are_compared_as_objects():
    one, other = (Subset("all", np.ones(3, dtype=bool)) for _ in range(2))
    assert one in [one]
    assert one not in [other]


def test_a_prompt_counts_as_detected_where_a_code_is_above_zero():
    """Four prompts of two tokens; a latent fires in one with a fire token and in one without."""
    of_token = np.repeat(np.arange(5), 2)
    fire = np.array([0, 1, 0, 1, 0, 0, 0, 0, 0, 0], dtype=bool)
    prompts = Prompts(
        of_token,
        fire,
        np.zeros(10, dtype=bool),
        np.zeros(5, dtype=np.int64),
        ("c",),
        np.full(5, JUDGING),
    )
    codes = np.array([0, 2.0, 0, 0, 1.0, 0, 0, 0, 0, 0])
    found = findings_module._prompt_scores(codes, prompts, prompts.half == JUDGING)
    assert found == {"precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2}


def test_conditions_are_written_as_given(world):
    details, _ = run_with(world, ("fire", "all"), "given")
    rows = Path(world.folder / "given.jsonl").read_text().splitlines()
    latents = details["latents"]
    assert set(latents["prompts_of_condition"]) == {json.loads(row)["condition"] for row in rows}
