"""Summaries by class, gaps, columns and measurements, from shifts made by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest

from saebench.causal import summary
from saebench.causal.equivalence import Equivalence
from saebench.causal.measurements import of_pair, of_single
from saebench.causal.results import Effects, Latents, PairResult, rounded, summaries
from saebench.causal.single import SingleResult
from saebench.metrics.catalogue import CAUSAL
from tests.causal.shift_tables import independent, probes_of, table_of, with_arm

N = 12
NAMES = np.array(["shared"] * 8 + ["other"] * 3 + ["base_only"])
COSINE = np.array([0.9, 0.9, 0.8, 0.75, 0.6, 0.2, 0.95, 0.99, 0.9, 0.1, 0.0, np.nan])


@pytest.fixture
def result():
    probes = probes_of([40, 40, 35, 30, 40, 40, 40, 5, 40, 40, 40, 30])
    table = table_of(probes, independent(probes), N)
    norms = np.ones((N, 2))
    norms[11, 1] = 0
    kl = table.kl["latent"]
    kl[1][0] = kl[0][0]  # latent 0 does the same in both models
    for latent in (2, 3, 5):  # the effects of these have less in common
        kl[1][latent, 1:30] = kl[1][latent, 29:0:-1] * np.linspace(9, 0.1, 29)
    kl[1][11] = np.where(table.there[11], 0.0, np.nan)
    found = Equivalence.of(table, norms, min_probes=20, n_resamples=50, seed=0)
    latents = Latents(np.arange(N), NAMES, norms, COSINE, np.arange(N)[::-1], table.n_probes)
    return PairResult(latents, found, 20, 0.7, 0.5, 50, 0)


def test_a_class_is_summed_up_by_the_median_and_quartiles_of_its_latents(result):
    r = result.found.forward.values["pearson"][:8]
    r = r[np.isfinite(r)]
    found = result.classes["shared"]["pearson"]
    assert found.n == len(r) == 7
    assert found.value == pytest.approx(np.median(r))
    assert found.quartiles == pytest.approx(np.quantile(r, [0.25, 0.75]))
    assert found.bounds.low <= found.value <= found.bounds.high
    assert found.bounds.how == "bootstrap over latents, 95% percentile, 50 resamples"
    assert result.classes["shared"]["above_0.5"].value == pytest.approx((r > 0.5).mean())


def test_differences_from_nulls_are_taken_latent_by_latent(result):
    found = result.found
    own = found.forward.values["partial_log"] - found.nulls["random"].values["partial_log"]
    expected = np.nanmedian(own[:8])
    assert result.classes["shared"]["partial_log_over_random"].value == pytest.approx(expected)


def test_gaps_are_shared_latents_of_high_cosine_and_low_correlation(result):
    result = replace(result, gap_equivalence=0.75)
    r = result.found.forward.values["pearson"]
    expected = [j for j in range(8) if COSINE[j] > 0.7 and r[j] < 0.75]
    highs = [result.found.bounds[name][1] for name in ("pearson", "spearman")]
    sure = [j for j in expected if all(high[j] < 0.75 for high in highs)]
    found = result.gaps()
    assert found["latents"] == sorted(expected, key=lambda j: (j not in sure, r[j]))
    assert found["sure"] == sorted(sure, key=lambda j: r[j])
    assert 0 < len(sure) < len(expected)
    assert found["n_known"] == 7
    assert found["n_candidates"] == 5
    assert result.gap_share.value == pytest.approx(len(sure) / 7)
    assert result.gap_share_point.value == pytest.approx(len(expected) / 7)
    values = of_pair(result, n_tokens=420, n_sequences=99)
    random = result.found.nulls["random"].values["pearson"]
    assert found["n_random_below"] == sum(random[j] < 0.75 for j in expected) > 0
    assert found["n_random_known"] == len(expected)
    assert values["causal_gap_share@1"].value == result.gap_share.value
    assert values["causal_gap_share_point@1"].value == result.gap_share_point.value


def test_gaps_without_a_null_are_not_said_to_be_of_any_direction(result):
    nulls = dict(result.found.nulls)
    (first, *rest) = result.gaps()["latents"]
    random = nulls["random"].values["pearson"].copy()
    random[rest] = 0.9
    for value, expected in ((0.1, (1, 1 + len(rest))), (np.nan, (0, len(rest)))):
        random[first] = value
        values = {**nulls["random"].values, "pearson": random}
        changed = {**nulls, "random": replace(nulls["random"], values=values)}
        found = replace(result, found=replace(result.found, nulls=changed)).gaps()
        assert (found["n_random_below"], found["n_random_known"]) == expected
    found = replace(result, found=replace(result.found, nulls={})).gaps()
    assert (found["n_random_below"], found["n_random_known"]) == (0, 0)


def test_the_effect_in_each_model_is_of_its_own_shifts(result):
    shared = slice(0, 7)  # latent 7 has too few probes
    base, chat = (np.median(result.found.effect["latent"][model][shared]) for model in (0, 1))
    assert abs(base - chat) > 1e-3
    values = of_pair(result, n_tokens=420, n_sequences=99)
    assert values["causal_effect@1"].value == pytest.approx(base)
    assert values["causal_effect_chat@1"].value == pytest.approx(chat)


def test_sure_gaps_are_listed_before_those_of_lower_correlation(result):
    bounds = {key: (low, top.copy()) for key, (low, top) in result.found.bounds.items()}
    bounds["spearman"][1][2] = 0.9
    for name in ("pearson", "spearman"):
        bounds[name][1][1] = 0.7
    found = replace(result, gap_equivalence=0.75, found=replace(result.found, bounds=bounds)).gaps()
    assert (found["latents"], found["sure"]) == ([1, 2], [1])


def test_a_sure_gap_needs_both_intervals_below_and_no_undefined_one(result):
    (first, *_) = result.gaps()["sure"]
    for name, high in (("pearson", 0.51), ("spearman", 0.51), ("pearson", np.nan)):
        bounds = {key: (low, top.copy()) for key, (low, top) in result.found.bounds.items()}
        bounds[name][1][first] = high
        other = replace(result, found=replace(result.found, bounds=bounds))
        assert first not in other.gaps()["sure"]
        assert first in other.gaps()["latents"]
        assert other.gap_share.n == result.gap_share.n
        assert other.gap_share.value < result.gap_share.value


def test_noise_makes_few_sure_gaps_of_latents_that_are_none():
    from scipy import stats

    n, probes, generator = 400, probes_of([40] * 400), np.random.default_rng(3)
    x = generator.standard_normal(len(probes))
    y = 0.6 * x + 0.8 * generator.standard_normal(len(probes))
    a, b = (stats.gamma(2).ppf(stats.norm.cdf(side)) for side in (x, y))
    shifts = with_arm(with_arm(independent(probes), "latent", 0, a), "latent", 1, b)
    table = table_of(probes, shifts, n)
    found = Equivalence.of(table, np.ones((n, 2)), min_probes=20, n_resamples=200, seed=0)
    who = Latents(
        np.arange(n),
        np.full(n, "shared"),
        np.ones((n, 2)),
        np.ones(n),
        np.arange(n),
        table.n_probes,
    )
    result = PairResult(who, found, 20, 0.7, 0.5, 50, 0)
    assert result.gap_share_point.value > 0.1
    assert result.gap_share.value < 0.01


def test_a_share_of_none_or_all_has_an_interval_with_a_width():
    assert summary.share(np.zeros(20)).bounds.high > 0.1
    assert summary.share(np.ones(20)).bounds.low < 0.9


def test_the_median_of_resamples_is_that_of_a_loop():
    x = np.random.default_rng(0).standard_normal(9)
    for values in (x, x[:8]):
        draws = np.random.default_rng([4, 2]).integers(0, len(values), size=(300, len(values)))
        expected = np.quantile(np.median(values[draws], axis=1), [0.025, 0.975])
        found = summary.median(values, n_resamples=300, seed=4).bounds
        # the same draws, of ordered places in place of latents
        ordered = np.quantile(np.median(np.sort(values)[draws], axis=1), [0.025, 0.975])
        assert [found.low, found.high] == pytest.approx(ordered)
        assert np.abs(ordered - expected).max() < 0.8


def test_one_latent_has_no_interval_and_none_has_no_median():
    one = summary.median(np.array([0.5, np.nan]), n_resamples=20, seed=0)
    assert (one.value, one.n, one.bounds.low) == (0.5, 1, None)
    assert summary.median(np.array([np.nan]), n_resamples=20, seed=0).value is None


def test_the_rank_correlation_over_latents_leaves_out_what_is_undefined():
    from scipy import stats

    x, y = np.random.default_rng(1).standard_normal((2, 30))
    y[3] = x[8] = np.nan
    keep = np.isfinite(x) & np.isfinite(y)
    found = summary.rank_correlation(x, y, n_resamples=50, seed=0)
    assert found.value == pytest.approx(stats.spearmanr(x[keep], y[keep]).statistic)
    assert found.n == 28
    assert summary.rank_correlation(x, np.ones(30), n_resamples=9, seed=0).value is None


def test_columns_are_plain_json_of_equal_length_with_none_where_undefined(result):
    columns = json.loads(json.dumps(result.columns, allow_nan=False))
    assert {len(values) for values in columns.values()} == {N}
    assert columns["pearson"][0] == 1.0
    assert columns["pearson"][7] is None
    assert columns["reason"][7] == "fewer than 20 probes"
    assert columns["reason"][11] == "chat decoder row is 0: no shift"
    assert columns["cosine"][11] is None
    assert columns["n_probes"][:4] == [40, 40, 35, 30]
    assert not any("fisher" in name for name in columns)
    assert all(
        len(f"{abs(v):.12g}".replace(".", "").strip("0").split("e")[0]) <= 6
        for v in columns["log"]
        if v
    )
    json.dumps({name: summaries(found) for name, found in result.classes.items()}, allow_nan=False)


def test_numbers_keep_six_significant_digits():
    assert rounded(np.array([0.123456789, np.nan, 123456.789, np.inf])) == [
        0.123457,
        None,
        123457.0,
        None,
    ]
    assert rounded(np.array([3, 4])) == [3, 4]


def test_every_metric_is_measured_or_says_why_not(result):
    found = of_pair(result, n_tokens=420, n_sequences=99)
    assert set(found) == {item.metric for item in CAUSAL}
    for item in found.values():
        assert item.value is not None or item.reason
        if item.value is not None:
            assert (item.n_tokens, item.n_sequences) == (420, 99)
    assert found["causal_equivalence@1"].value == result.classes["shared"]["pearson"].value
    assert found["causal_tested@1"].value == 7
    assert found["causal_tested@1"].detail["n_few_probes"] == 1
    assert found["causal_undefined@1"].value == 0
    assert found["causal_equivalence_base_only@1"].value is None
    assert "chat_only" not in result.classes
    assert found["causal_equivalence_chat_only@1"].reason == "no chat-only latent has a correlation"


def test_a_class_without_any_correlation_says_the_reason_of_most(result):
    nothing = PairResult(
        Latents(
            np.arange(N), np.full(N, "shared"), np.ones((N, 2)), COSINE, np.arange(N), np.arange(N)
        ),
        Equivalence.of(
            table_of(p := probes_of([3] * N), independent(p), N),
            np.ones((N, 2)),
            min_probes=20,
            n_resamples=9,
            seed=0,
        ),
        *(20, 0.7, 0.5, 9, 0),
    )
    found = of_pair(nothing, n_tokens=36, n_sequences=9)
    assert found["causal_equivalence@1"].value is None
    assert "fewer than 20 probes" in found["causal_equivalence@1"].reason
    assert found["causal_tested@1"].value == 0
    assert found["causal_undefined@1"].value is None


def test_the_share_of_undefined_latents_leaves_out_those_with_few_probes():
    probes = probes_of([30, 30, 30, 5])
    table = table_of(probes, independent(probes), 4)
    norms = np.ones((4, 2))
    norms[2, 0] = 0
    table.kl["latent"][0][2] = np.where(table.there[2], 0.0, np.nan)
    who = Latents(
        np.arange(4), np.full(4, "shared"), norms, COSINE[:4], np.arange(4), table.n_probes
    )
    found = Equivalence.of(table, norms, min_probes=20, n_resamples=9, seed=0)
    values = of_pair(PairResult(who, found, 20, 0.7, 0.5, 9, 0), n_tokens=95, n_sequences=9)
    assert values["causal_undefined@1"].value == pytest.approx(1 / 3)
    assert values["causal_tested@1"].value == 2


def test_effects_without_a_random_shift_have_no_ratio():
    found = Effects(np.array([1.0, 2.0, np.nan]), np.array([0.0, 4.0, 1.0]))
    np.testing.assert_array_equal(found.ratio, [np.nan, 0.5, np.nan])
    np.testing.assert_array_equal(found.above, [1, 0, np.nan])
    assert np.isnan(Effects(np.ones(2), None).above).all()


def test_one_model_has_effects_beside_random_directions_and_no_equivalence():
    probes = probes_of([40, 30, 5])
    shifts = independent(probes)
    table = table_of(probes, shifts, 3)
    norms = np.array([[1.0], [0.0], [1.0]])
    who = Latents(
        np.arange(3), np.full(3, "all"), norms, np.full(3, np.nan), np.full(3, -1), table.n_probes
    )
    found = SingleResult(who, table, 1, 20, 50, 0)
    mine = probes.latent == 0
    own, random = (shifts.kl[arm][1][mine] for arm in ("latent", "random"))
    columns = json.loads(json.dumps(found.columns, allow_nan=False))
    assert columns["effect"][0] == pytest.approx(own.mean(), rel=1e-5)
    assert columns["over_random"][0] == pytest.approx((own - random).mean(), rel=1e-4)
    assert (
        columns["over_random_low"][0] < columns["over_random"][0] < columns["over_random_high"][0]
    )
    assert columns["effect"][2] is None
    assert columns["reason"] == ["", "decoder row is 0: no shift", "fewer than 20 probes"]
    values = of_single(found, n_tokens=75, n_sequences=60)
    assert set(values) == {item.metric for item in CAUSAL}
    defined = {item.name for item in values.values() if item.value is not None}
    assert defined == {"causal_effect", "causal_effect_ratio", "causal_effect_over_random"}
    assert "reads one model" in values["causal_equivalence@1"].reason
