"""What a card says of steering: verdicts in words, the table over α, controls, and what was not read."""

from dataclasses import replace

import numpy as np
import pytest
from markdown_it import MarkdownIt

from saebench.report.steering import section, verdict
from saebench.steering.directions import Cosine
from saebench.steering.results import Found
from saebench.steering.sweep import Control, Outcomes, Sweep
from tests.report.records import make_record

ALPHAS = (-2.0, -1.0, 0.0, 1.0, 2.0)
N = 40


def outcomes(alphas, trend, seed):
    rng = np.random.default_rng(seed)
    level = np.asarray(alphas) * trend
    label = (rng.random((N, len(alphas))) < 0.5 + level / 6).astype(float)
    noise = rng.standard_normal((3, N, len(alphas)))
    return Outcomes(label, level + 0.1 * noise[0], level**2 + 0 * noise[1], 3 + 0 * noise[2])


def details(trend=1.0, of_controls=0.0, **missing):
    ends = (-2.0, 2.0)
    controls = tuple(
        Control(f"random {i}", "random", outcomes(ends, of_controls, 10 + i)) for i in range(20)
    )
    steered = outcomes(ALPHAS, trend, 0)
    steered.label[:3, 0] = np.nan
    sweep = Sweep(ALPHAS, steered, outcomes((0.0,), 0, 1), controls, missing, True)
    return {
        "protocol": {"mode": "add", "positions": "all"},
        "site": "blocks.1.hook_resid_post",
        "positive": "high|er",
        "direction": {"of": "latent", "latent": 1234, "separation": 2.345},
        "scale": {"value": 4.5, "is": "the latent's largest code"},
        "cosines": {"mean_difference": Cosine(0.31, 128).to_json()},
        "prompts": {"n": N},
        "examples": [{"prompt": "a <b>", "completions": [{"alpha": None, "text": "x | y `z`"}]}],
        **Found.of(sweep, draws=199).to_json(),
    }


def text(found):
    return section(replace(make_record(), details={"steering": found}))


def test_a_direction_that_steers_is_said_to():
    said = verdict(details())
    assert "The share of the positive class rises with α (ρ = 0." in said
    assert "more than with random directions (p = 0.0476 among 20 random directions" in said
    assert "falls with α" in verdict(details(trend=-1.0))


def test_no_dose_response_is_said_in_plain_words():
    said = verdict(details(trend=0.0))
    assert "No dose response of the share of the positive class: ρ = " in said
    assert "No dose response of the logit difference" in said
    assert "rises" not in said


def test_what_random_directions_do_as_well_is_nothing_of_its_own():
    said = verdict(details(of_controls=1.0))
    assert said.count("but random directions do as much") == 2
    assert "nothing of this direction's own" in said


def test_the_table_has_a_row_for_each_strength_with_n_and_dropped():
    lines = text(details()).splitlines()
    (header,) = [line for line in lines if line.startswith("| α | n")]
    assert [cell.strip() for cell in header.strip("|").split("|")[:3]] == ["α", "n", "Undecided"]
    (low,) = [line for line in lines if line.startswith("| -2 |")]
    assert [cell.strip() for cell in low.split("|")[2:4]] == ["37", "3"]
    assert any(line.startswith("| unsteered | 40 | 0 |") for line in lines)
    assert "high\\|er" in header


def test_cosine_rates_and_alpha_zero_are_listed():
    said = text(details())
    assert (
        "Cosine with the difference of mean activations: 0.310 (random directions: sd 0.0884"
        in said
    )
    assert "χ² = " in said
    assert "those of the unsteered run, to the bit" in said
    assert "**Where nothing is added the run differs" in text({**details(), "same_at_zero": False})
    assert "α = 0" not in text({**details(), "same_at_zero": None})
    assert "latent (1,234, Cohen's d 2.35 on training texts)" in said


def test_what_was_not_read_has_no_column_and_a_reason():
    said = text(details(label="no rules"))
    assert "Rate of" not in said
    assert "Not read: the share of the positive class (no rules)." in said
    assert "share of the positive class rises" not in said
    nothing = verdict(details(label="no rules", logit_difference="no words"))
    assert nothing == "**Verdict.** No outcome could be read."


def test_a_case_that_was_not_measured_says_why():
    assert text({"reason": "one <class> only"}) == "Not measured: one \\<class\\> only"


def test_without_the_part_there_is_nothing():
    assert section(make_record()) == ""


def test_values_of_others_stay_in_their_cells():
    html = MarkdownIt().enable("table").render(text(details()))
    assert "<code>x | y `z`</code>" in html
    assert "<b>" not in html


@pytest.mark.parametrize(
    "damaged", [{"rows": 3}, {"controls": []}, {"trends": None}, {"rows": [1]}]
)
def test_a_damaged_record_does_not_break_the_card(damaged):
    assert "**Verdict.**" in text({**details(), **damaged})
