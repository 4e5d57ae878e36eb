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


def details(trend=1.0, of_controls=0.0, n_controls=20, steered=None, unread=0, **missing):
    ends = (-2.0, 2.0)
    controls = tuple(
        Control(f"random {i}", "random", outcomes(ends, of_controls, 10 + i))
        for i in range(n_controls)
    )
    controls += tuple(Control(f"unread {i}", "random", Outcomes.empty(N, 2)) for i in range(unread))
    if steered is None:
        steered = outcomes(ALPHAS, trend, 0)
        steered.label[:3, 0] = steered.label[3:6, 4] = np.nan  # as many at either end: no trend
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


@pytest.mark.parametrize(("n", "enough"), [(5, False), (18, False), (19, True)])
def test_too_few_controls_are_not_said_to_do_as_much(n, enough):
    for of_controls in (0.0, 1.0):
        said = verdict(details(n_controls=n, of_controls=of_controls))
        assert ("too few controls to tell" not in said) == enough
        assert ("random directions do as much" in said) == (enough and of_controls == 1.0)
    said = verdict(details(n_controls=5))
    assert said.count("(5 random directions; p = 0.167, at best 0.167)") == 2
    assert "0.167 (at best 0.167)" in text(details(n_controls=5))


def test_controls_that_could_not_be_read_are_among_those_that_p_counts():
    said = verdict(details(n_controls=59, unread=1))
    assert "p = 0.0328 among 60 random directions of equal norm, 1 of them unread" in said
    assert "(22 random directions, 2 of them unread; p = 0.130, at best 0.130)" in verdict(
        details(unread=2)
    )


def test_a_test_that_cannot_reach_the_level_is_no_evidence_of_no_effect():
    steered = outcomes(ALPHAS, 0.0, 0)
    steered.label[:] = 0
    steered.label[0, 4] = 1
    said = verdict(details(steered=steered))
    assert "Too few outcomes of the share of the positive class to tell a dose response" in said
    assert "p = 0.400, at best 0.400" in said


def test_no_dose_response_is_claimed_where_positives_go_undecided_with_the_strength():
    """The class depends on no α, but ever more of the positives are dropped."""
    claimed = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        steered = outcomes(ALPHAS, 0.0, seed)
        dropped = rng.random((N, 5)) < np.linspace(0, 0.8, 5)
        steered.label[dropped & (steered.label == 1)] = np.nan
        found = details(steered=steered)
        said = verdict(found)
        claimed += found["trends"]["label"]["p"] <= 0.05
        assert "The share of undecided completions rises with α (ρ = " in said
        assert "with all of them counted as another class" in said
        label = said.split("The share of undecided")[0]
        assert "no dose response can be claimed" in label or "No dose response" in label
        assert "random directions" not in label
    assert claimed >= 5  # by the p of the labels that are left alone
    assert "- Undecided completions: ρ = " in text(found)
    assert "Undecided as others / as positive" in text(found)


def test_the_tokens_that_are_set_apart_are_named():
    tokens = {"positive": [" yes", "yes", "`Y`"], "negative": [f"t{i}" for i in range(14)]}
    said = text({**details(), "tokens": tokens})
    assert "total probability of `yes`, `` `Y` `` less that of `t0`, " in said
    assert "`t11` and 2 more." in said
    one = text({**details(), "tokens": {"positive": [" yes"], "negative": "all other tokens"}})
    assert "less that of all other tokens." in one
    assert "total probability" not in text(details(logit_difference="no words"))


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
    assert "neither labels nor the logit difference could be read, only how far" in nothing
    assert "KL 4 nats per token at both ends, p = 0.0476 among 20 random directions" in nothing
    assert '`rules = "FILE"` in the `[[concept]]`' in nothing


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
