"""The probe tables of a card: what they show, what they leave out, and that they let nothing through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

from saebench.probing.cv_arms import Comparison, HeldOut
from saebench.probing.cv_folds import draw_folds
from saebench.probing.cv_results import CaseProbes
from saebench.protocols import CrossValidation
from saebench.record import Record
from saebench.report.cv_probing import section

N = 40
LABELS = np.arange(N) % 2 == 0


def record(**found: Any) -> Record:
    return Record("k", {"name": "a/b"}, {}, {}, {}, {}, details={"cv_probing": found})


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    asked = CrossValidation(repeats=2, n_permutations=99, ks=(1, 5), n_path=2)
    rng = np.random.default_rng(0)
    folds = draw_folds(LABELS, None, n_folds=5, n_repeats=2, seed=0)
    comparison = Comparison(folds, asked, HeldOut.of(LABELS, None, 0))
    raw = rng.normal(size=(N, 8)) + LABELS[:, None]
    codes = sparse.csr_array(np.maximum(rng.normal(size=(N, 30)) + 0.4 * LABELS[:, None], 0))
    latents = comparison.arm(codes, codes, k_sparse=True, path=True)
    broken = comparison.arm(np.full((N, 3), np.nan))
    arms = {
        "raw": comparison.arm(raw, raw, k_sparse=True),
        "latents": latents,
        "other": broken,
        "reconstruction": comparison.arm(raw[:, :4], raw[:, :4]),
        "random": comparison.arm(codes[:, :9], codes[:, :9], k_sparse=True),
    }
    return CaseProbes(folds, arms, 300, {"other": None}).to_json()


def cells(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def shown(scores: dict[str, Any], name: str) -> str:
    low, high = scores[f"{name}_interval"]
    return f"{scores[name]:.3f} [{low:.3f}, {high:.3f}]"


def test_every_arm_has_its_scores_intervals_and_p(tables):
    text = section(record(**tables))
    for title, arm in (
        ("Activations", "raw"),
        ("This SAE", "latents"),
        ("Untrained SAE", "random"),
    ):
        found = tables["arms"][arm]
        row = cells(text, title)
        assert row[1:3] == [shown(found, "balanced_accuracy"), shown(found, "auroc")]
        assert float(row[3]) == pytest.approx(found["shuffled_labels"]["auroc"]["p"], abs=5e-4)


def test_differences_are_this_sae_less_each_arm(tables):
    row = cells(section(record(**tables)), "Activations")
    assert row[4] == shown(tables["latents_minus"]["raw"], "auroc")


def test_chance_stands_beside_the_arms(tables):
    text = section(record(**tables))
    assert cells(text, "Guessing")[1] == "0.500 [0.345, 0.655]"
    null = tables["arms"]["latents"]["shuffled_labels"]["auroc"]
    low, high = null["range"]
    expected = f"{null['mean']:.3f} [{low:.3f}, {high:.3f}]"
    assert cells(text, "This SAE, shuffled labels")[2] == expected
    assert "a standard deviation of 0.0791 in balanced accuracy" in text
    assert "p of the AUROC from 99 shuffles between texts" in text
    assert "at best 0.0100" in text


def test_an_arm_without_scores_says_why(tables):
    text = section(record(**tables))
    assert cells(text, "Another SAE")[1:] == ["–"] * 4
    assert "Another SAE: finite values in features: 40 of 40 rows are infinite" in text


def test_few_latents_stand_beside_as_many_dimensions(tables):
    text = section(record(**tables))
    row = cells(text, "5")
    assert row[2] == shown(tables["arms"]["latents"]["k_sparse"]["5"], "auroc")
    assert row[3] == shown(tables["arms"]["raw"]["k_sparse"]["5"], "auroc")
    assert "of each fold. For the single best latent, p is " in text
    assert "fold:" not in text


def test_transfer_and_the_folded_path_follow(tables):
    text = section(record(**tables))
    assert "judged on the held-out ones" in text
    assert text.rstrip().endswith("</details>")
    assert text.index("<details>") > text.index("held-out ones")


def test_what_was_not_measured_says_why_and_a_foreign_record_says_nothing():
    text = section(record(reason="two classes: all | of one <b>"))
    assert text == r"Not measured: two classes: all \| of one \<b\>"
    assert section(record()) == ""
    assert section(Record("k", {"name": "a"}, {}, {}, {}, {})) == ""


def test_names_from_outside_are_escaped(tables):
    found = {**tables, "other": "x|y`<img>", "shuffling": "<script>", "unit": "a|b"}
    found["arms"] = {**found["arms"], "other": found["arms"]["raw"]}
    text = section(record(**found))
    assert "<script>" not in text
    assert "\\|y" in text
    table = text[text.index("| Probe on") :].partition("\n\n")[0]
    assert {line.replace("\\|", "").count("|") for line in table.splitlines()} == {6}


def test_damaged_tables_do_not_break_the_card():
    odd = {"arms": {"raw": 3, "latents": {"auroc": "high", "k_sparse": {"x": 1}, "l1_path": 7}}}
    assert "Guessing" in section(record(**odd))
