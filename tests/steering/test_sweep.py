"""Tables of a sweep, effects beside those of controls, and the measurements they become."""

import json

import numpy as np
import pytest
from scipy import stats

from saebench.metrics.catalogue.steering import STEERING
from saebench.stats import wilson
from saebench.steering.directions import Cosine
from saebench.steering.dose_response import slope, spearman
from saebench.steering.intervals import of_share
from saebench.steering.results import Found, measurements
from saebench.steering.sweep import Against, Control, Outcomes, Sweep
from saebench.steering.undecided import Undecided

ALPHAS = (-2.0, -1.0, 0.0, 1.0, 2.0)
N = 12


def outcomes(columns, seed=0, trend=0.0, alphas=ALPHAS):
    rng = np.random.default_rng(seed)
    level = trend * np.asarray(alphas[:columns]) if columns == len(alphas) else np.zeros(columns)
    if columns == 2:
        level = trend * np.array([min(alphas), max(alphas)])
    label = (rng.random((N, columns)) < 0.5 + level / 5).astype(float)
    label[0, 0] = np.nan
    noise = rng.standard_normal((3, N, columns))
    return Outcomes(label, level + 0.1 * noise[0], np.abs(noise[1]) + level**2, 3 + noise[2] / 10)


def sweep(trend=1.0, n_random=20, **parts):
    controls = [Control(f"random {i}", "random", outcomes(2, seed=10 + i)) for i in range(n_random)]
    controls += [Control(f"latent {i}", "latent", outcomes(2, seed=50 + i)) for i in range(3)]
    known = {
        "alphas": ALPHAS,
        "steered": outcomes(len(ALPHAS), trend=trend),
        "unsteered": outcomes(1, seed=1),
        "controls": tuple(controls),
        "same_at_zero": True,
    }
    return Sweep(**{**known, **parts})


def test_each_row_counts_what_was_decided_and_what_was_dropped():
    found = sweep()
    rows = found.rows()
    assert [row["alpha"] for row in rows] == [None, *ALPHAS]
    for i, row in enumerate(rows[1:]):
        labels = found.steered.label[:, i]
        decided = labels[~np.isnan(labels)]
        assert row["n"] + row["n_dropped"] == N
        assert row["n"] == len(decided)
        assert row["rate"] == pytest.approx(decided.mean())
        bounds = wilson(int(decided.sum()), len(decided))
        assert (row["low"], row["high"]) == (bounds.low, bounds.high)
        assert row["ce"] == pytest.approx(found.steered.ce[:, i].mean())
    assert rows[1]["n_dropped"] == 1


def test_rows_leave_out_labels_that_were_not_read():
    rows = sweep(missing={"label": "no rules"}).rows()
    assert all("rate" not in row for row in rows)
    json.dumps(rows, allow_nan=False)


def test_an_effect_is_the_slope_between_the_means_at_both_ends():
    found = sweep()
    values = found.at_ends("label")
    assert np.array_equal(values, found.steered.label[:, [0, 4]], equal_nan=True)
    expected = (values[:, 1].mean() - values[1:, 0].mean()) / 4
    assert found.effect("label", values) == pytest.approx(expected)
    whole = found.at_ends("logit_difference")
    expected = slope((-2, 2), whole).value
    assert found.effect("logit_difference", whole) == pytest.approx(expected)
    assert found.effect("kl", found.at_ends("kl")) == pytest.approx(found.at_ends("kl").mean())
    assert found.effect("label", np.full((3, 2), np.nan)) is None


def test_the_ends_are_the_least_and_the_largest_whatever_the_order():
    order = [3, 0, 4, 1, 2]
    turned = sweep(alphas=tuple(ALPHAS[i] for i in order))
    assert turned.ends == (1, 2)


def test_the_rank_among_controls_counts_both_signs_and_itself():
    found = sweep(trend=1.0)
    against = Against.of(found, "logit_difference", "random")
    assert len(against.controls) == 20
    assert against.p == pytest.approx(1 / 21)
    rms = np.sqrt(np.mean(np.square(against.controls)))
    assert against.ratio == pytest.approx(abs(against.effect) / rms)
    opposite = Against.of(sweep(trend=-1.0), "logit_difference", "random")
    assert opposite.p == pytest.approx(1 / 21)
    none = Against.of(sweep(trend=0.0), "logit_difference", "random")
    far = sum(abs(c) >= abs(none.effect) for c in none.controls)
    assert none.p == pytest.approx((1 + far) / 21)
    assert Against.of(found, "logit_difference", "latent").p == pytest.approx(1 / 4)


def test_without_controls_there_is_no_rank():
    found = Against.of(sweep(controls=()), "label", "random")
    assert found.p is None
    assert found.reason == "no controls were run"
    assert found.effect is not None


def test_a_control_that_cannot_be_read_counts_as_one_that_does_as_much():
    broken = Control("random", "random", Outcomes.empty(N, 2))
    found = Against.of(sweep(controls=(*sweep().controls, broken)), "logit_difference", "random")
    assert found.p == pytest.approx(2 / 22)
    assert found.n_unread == 1
    assert found.n == 21
    assert found.smallest_p == pytest.approx(2 / 22)
    alone = Against.of(sweep(controls=(broken,)), "logit_difference", "random")
    assert alone.p is None
    assert alone.reason == "no control has the outcome at both ends"


@pytest.mark.parametrize(("n", "smallest"), [(5, 1 / 6), (18, 1 / 19), (19, 0.05)])
def test_a_rank_names_the_smallest_p_that_its_controls_allow(n, smallest):
    found = Found.of(sweep(n_random=n), draws=9)
    for outcome in ("label", "logit_difference", "kl"):
        stored = found.to_json()["controls"][f"{outcome}/random"]
        assert stored["smallest_p"] == pytest.approx(smallest)
        assert stored["n"] == n
    made = {m.name: m for m in measurements(found, Cosine(0.3, 16), n_tokens=1).values()}
    for name in ("p_random", "logit_p_random", "kl_p_random", "slope_over_random"):
        assert made[f"steer_{name}"].detail["smallest_p"] == pytest.approx(smallest)
    assert made["steer_p_latents"].detail["smallest_p"] == pytest.approx(1 / 4)
    none = Against.of(sweep(n_random=0), "label", "random")
    assert none.smallest_p is None


def test_what_every_prompt_says_alike_has_no_interval_without_width():
    labels = np.tile([1.0, 0.0, 1.0, 1.0, 1.0], (N, 1))
    values = outcomes(5)
    same = Outcomes(labels, values.logit_difference, np.full((N, 5), 0.5), values.ce)
    found = measured(sweep(steered=same))
    assert found["steer_drop_rate"].value == 0
    bounds = wilson(0, N)
    assert (found["steer_drop_rate"].low, found["steer_drop_rate"].high) == (0, bounds.high)
    assert f"Wilson, 95%, {N} prompts" in found["steer_drop_rate"].interval
    for name in ("steer_slope", "steer_kl_at_1"):
        assert found[name].low is None
        assert found[name].reason == f"no interval: it is the same in each of {N} prompts"


def test_a_share_that_all_prompts_have_in_full_or_alike_says_how_sure_that_is():
    every = of_share(np.ones(N))
    assert (every.low, every.high) == (wilson(N, N).low, 1)
    alike = of_share(np.full(N, 0.2))
    assert alike.low is None
    assert "the same in each" in alike.reason
    some = np.array([0.0, 0.0, 0.2, 0.4])
    low, high = stats.t.interval(0.95, 3, some.mean(), stats.sem(some))
    assert of_share(some).high == pytest.approx(high)
    assert low < 0
    assert of_share(some).low == 0


def test_undecided_completions_go_along_with_the_label():
    found = sweep()
    made, undecided = measured(found), Undecided.of(ALPHAS, found.steered.label, draws=99)
    assert made["steer_drop_rate"].detail["trend"] == undecided.trend.to_json()
    assert made["steer_spearman_p"].detail["undecided_trend_p"] == undecided.trend.p
    for filled in (0, 1):
        labels = np.nan_to_num(found.steered.label, nan=filled)
        rho, line = spearman(ALPHAS, labels, draws=9), slope(ALPHAS, labels)
        assert made["steer_spearman"].detail[f"if_undecided_{filled}"] == rho.value
        assert made["steer_slope"].detail[f"if_undecided_{filled}"] == line.value
        low = found.rows()[1]
        assert low[f"rate_if_undecided_{filled}"] == pytest.approx(labels[:, 0].mean())
    assert "undecided_trend_p" not in made["steer_logit_spearman_p"].detail


def measured(found):
    made = measurements(Found.of(found, draws=99), Cosine(0.3, 16), n_tokens=1)
    return {item.name: item for item in made.values()}


def test_effects_that_differ_by_rounding_are_ties():
    found = sweep()
    same = Control(
        "random", "random", Outcomes(*(value[:, [0, 4]] for value in vars(found.steered).values()))
    )
    against = Against.of(sweep(controls=(same,)), "logit_difference", "random")
    assert against.p == 1
    assert against.ratio == pytest.approx(1)


def test_every_definition_gets_a_measurement_with_a_value():
    found = measurements(Found.of(sweep(), draws=99), Cosine(0.3, 16), n_tokens=600)
    assert {item.name for item in found.values()} == {item.id for item in STEERING}
    for item in found.values():
        assert item.value is not None, item.reason
        assert item.n_sequences == N
    values = {item.name: item for item in found.values()}
    assert values["steer_logit_spearman"].value > 0.9
    assert values["steer_logit_spearman_p"].value <= 0.01
    assert values["steer_logit_slope"].value == pytest.approx(1, abs=0.1)
    assert values["steer_logit_slope"].low < 1 < values["steer_logit_slope"].high
    assert values["steer_cosine_mean_difference"].detail["sd_random"] == 0.25
    assert values["steer_drop_rate"].value == pytest.approx(1 / (N * 5))
    steered = sweep().steered
    worse = steered.ce[:, [0, 4]].mean() - sweep().unsteered.ce.mean()
    assert values["steer_ce_increase"].value == pytest.approx(worse)
    assert values["steer_kl_at_1"].value == pytest.approx(steered.kl[:, 3].mean())
    assert values["steer_neutral_at_zero"].value == 1


def test_what_was_not_read_has_the_reason_and_the_rest_stands():
    missing = {"label": "no rules", "logit_difference": "no words"}
    found = measurements(Found.of(sweep(missing=missing), draws=9), Cosine(None, 16), n_tokens=1)
    values = {item.name: item for item in found.values()}
    about_labels = {name for name in values if name.startswith("steer_") and "logit" not in name}
    about_labels -= {"steer_kl_at_1", "steer_kl_p_random", "steer_ce_increase"}
    about_labels -= {"steer_cosine_mean_difference", "steer_neutral_at_zero"}
    assert {values[name].reason for name in about_labels} == {"no rules"}
    assert values["steer_logit_p_latents"].reason == "no words"
    assert values["steer_kl_at_1"].value is not None
    assert values["steer_cosine_mean_difference"].value is None


def test_a_sweep_without_one_or_zero_says_so():
    alphas = (-2.0, -1.0, -0.5, 0.5, 2.0)
    found = measurements(
        Found.of(sweep(alphas=alphas, same_at_zero=None), draws=9), Cosine(0.1, 4), n_tokens=1
    )
    values = {item.name: item for item in found.values()}
    assert "α = 1 is not among" in values["steer_kl_at_1"].reason
    assert "adds nothing" in values["steer_neutral_at_zero"].reason


def test_tables_are_plain_json():
    json.dumps(Found.of(sweep(), draws=9).to_json(), allow_nan=False)
