"""Equivalence of two models per latent: known causes, exact ends, reasons, and what has no influence."""

import numpy as np
import pytest
from scipy import stats

from saebench.causal.equivalence import FEW, Correlated, Equivalence
from saebench.causal.probes import Probes, Shifts
from saebench.causal.table import Table, means
from tests.causal.shift_tables import independent, probes_of, table_of, with_arm

OPTIONS = {"min_probes": 20, "n_resamples": 50, "seed": 0}


def found_of(table, norms=None, **options):
    norms = np.ones((len(table.latent), 2)) if norms is None else norms
    return Equivalence.of(table, norms, **{**OPTIONS, **options})


def test_a_table_holds_each_probe_in_the_row_of_its_latent():
    probes = probes_of([3, 0, 5])
    table = table_of(probes, independent(probes), 3)
    assert table.n_probes.tolist() == [3, 0, 5]
    for latent in range(3):
        mine = probes.latent == latent
        order = np.argsort(probes.sequence[mine])
        expected = probes.code[mine][order]
        np.testing.assert_array_equal(table.code[latent, : mine.sum()], expected)
    assert np.isnan(table.code[~table.there]).all()


def test_means_leave_out_what_is_not_there():
    probes = probes_of([4, 0])
    shifts = independent(probes)
    table = table_of(probes, shifts, 2)
    found = means(table.kl["latent"][0], table.there)
    assert found[0] == pytest.approx(shifts.kl["latent"][0].mean())
    assert np.isnan(found[1])


def test_identical_shifts_are_exactly_equivalent_in_every_statistic():
    probes = probes_of([64, 30, 41])
    shifts = independent(probes)
    shifts = with_arm(shifts, "latent", 1, shifts.kl["latent"][0].copy())
    found = found_of(table_of(probes, shifts, 3))
    for name, values in found.forward.values.items():
        assert (values == 1).all(), name
    for name in ("pearson", "spearman", "partial_log"):
        assert (np.array(found.bounds[name]) == 1).all(), name
    assert found.reasons == ("", "", "")


def test_statistics_are_those_of_scipy_on_each_latents_probes():
    probes = probes_of([50, 35])
    shifts = independent(probes)
    found = found_of(table_of(probes, shifts, 2))
    for latent in range(2):
        mine = probes.latent == latent
        a, b, f = (x[mine] for x in (shifts.kl["latent"][0], shifts.kl["latent"][1], probes.code))
        expected = {
            "pearson": stats.pearsonr(a, b).statistic,
            "spearman": stats.spearmanr(a, b).statistic,
            "log": stats.pearsonr(np.log(a), np.log(b)).statistic,
            "partial_log": _partial(np.log(a), np.log(b), np.log(f)),
            "partial_pearson": _partial(a, b, f, degree=2),
            "partial_spearman": _partial(*map(stats.rankdata, (a, b, f))),
        }
        for name, value in expected.items():
            assert found.forward.values[name][latent] == pytest.approx(value), name
        back = (shifts.kl_reverse["latent"][m][mine] for m in (0, 1))
        assert found.reverse.values["pearson"][latent] == pytest.approx(
            stats.pearsonr(*back).statistic
        )
        assert found.effect["latent"][1][latent] == pytest.approx(b.mean())


def _partial(x, y, z, degree=1):
    left = [side - np.polyval(np.polyfit(z, side, degree), z) for side in (x, y)]
    return stats.pearsonr(*left).statistic


def test_the_mismatched_null_is_the_mean_of_both_ways_round():
    probes = probes_of([40])
    shifts = independent(probes)
    found = found_of(table_of(probes, shifts, 1))
    own, other, random = (shifts.kl[arm] for arm in ("latent", "mismatched", "random"))
    ways = [stats.pearsonr(own[0], other[1]).statistic, stats.pearsonr(other[0], own[1]).statistic]
    assert found.nulls["mismatched"].values["pearson"][0] == pytest.approx(np.mean(ways))
    expected = stats.spearmanr(random[0], random[1]).statistic
    assert found.nulls["random"].values["spearman"][0] == pytest.approx(expected)


def test_a_latent_without_partner_has_no_mismatched_null():
    probes = probes_of([40, 40])
    found = found_of(table_of(probes, independent(probes), 2), partners=np.array([True, False]))
    assert np.isfinite(found.nulls["mismatched"].values["pearson"]).tolist() == [True, False]


def test_unrelated_models_correlate_by_magnitude_alone_and_not_once_it_is_fixed():
    probes = probes_of([64] * 400, seed=4)
    found = found_of(table_of(probes, independent(probes, seed=4), 400), n_resamples=2)
    medians = {name: np.median(values) for name, values in found.forward.values.items()}
    assert medians["log"] > 0.5
    assert medians["spearman"] > 0.4
    mean, n = found.forward.values["partial_log"].mean(), 400
    assert abs(mean) < 3 / np.sqrt(n * 60)
    inside = np.abs(np.arctanh(found.forward.values["partial_log"])) < 1.96 / np.sqrt(64 - 4)
    assert 0.92 < inside.mean() < 0.98


def test_a_common_cause_beside_magnitude_is_left_when_magnitude_is_fixed():
    probes = probes_of([64] * 50, seed=5)
    shifts = independent(probes, seed=5)
    common = np.random.default_rng(9).lognormal(0, 1, len(probes))
    for model in (0, 1):
        shifts = with_arm(shifts, "latent", model, shifts.kl["latent"][model] * common)
    found = found_of(table_of(probes, shifts, 50), n_resamples=2)
    # equal variances of the common and of each model's own part, in logs
    assert np.median(found.forward.values["partial_log"]) == pytest.approx(0.5, abs=0.05)
    assert np.abs(np.median(found.nulls["random"].values["partial_log"])) < 0.1


def test_the_order_of_the_probes_has_no_influence():
    probes = probes_of([40, 25, 33])
    shifts = independent(probes)
    order = np.random.default_rng(1).permutation(len(probes))
    shuffled = Probes(*(getattr(probes, name)[order] for name in vars(probes)))
    moved = Shifts(
        *(
            {arm: {m: v[order] for m, v in models.items()} for arm, models in by_arm.items()}
            for by_arm in (shifts.kl, shifts.kl_reverse)
        ),
        {arm: None if v is None else v[order] for arm, v in shifts.logit_cosine.items()},
    )
    a, b = (found_of(Table.of(range(3), *x)) for x in ((probes, shifts), (shuffled, moved)))
    for name in a.forward.values:
        np.testing.assert_array_equal(a.forward.values[name], b.forward.values[name])
    np.testing.assert_array_equal(a.bounds["spearman"], b.bounds["spearman"])


def test_below_the_least_number_of_probes_there_is_no_statistic_and_the_reason_says_so():
    probes = probes_of([19, 20, 0])
    found = found_of(table_of(probes, independent(probes), 3))
    assert np.isfinite(found.forward.values["pearson"]).tolist() == [False, True, False]
    assert np.isfinite(found.bounds["pearson"][0]).tolist() == [False, True, False]
    assert np.isfinite(found.effect["latent"][0]).tolist() == [False, True, False]
    assert found.reasons == (FEW.format(n=20), "", FEW.format(n=20))


def test_a_decoder_row_of_zero_is_undefined_and_never_zero():
    probes = probes_of([30, 30])
    shifts = independent(probes)
    none = np.where(probes.latent == 1, 0.0, shifts.kl["latent"][0])
    found = found_of(
        table_of(probes, with_arm(shifts, "latent", 0, none), 2), np.array([[1, 1], [0, 1.0]])
    )
    for name, values in found.forward.values.items():
        assert np.isfinite(values[0]), name
        assert np.isnan(values[1]), name
    assert found.reasons == ("", "base decoder row is 0: no shift")
    assert found.effect["latent"][0][1] == 0


def test_a_shift_that_does_not_vary_is_undefined_in_the_model_that_the_reason_names():
    probes = probes_of([30])
    flat = np.full(len(probes), 0.25)
    found = found_of(table_of(probes, with_arm(independent(probes), "latent", 1, flat), 1))
    assert np.isnan(found.forward.values["spearman"][0])
    assert found.reasons == ("the chat shift does not vary over the probes",)


def test_a_shift_that_is_not_a_number_is_told():
    probes = probes_of([30])
    shifts = independent(probes)
    values = shifts.kl["latent"][0].copy()
    values[3] = np.nan
    found = found_of(table_of(probes, with_arm(shifts, "latent", 0, values), 1))
    assert np.isnan(found.forward.values["pearson"][0])
    assert found.reasons == ("a shift is not a number",)


@pytest.mark.parametrize("model", [0, 1])
def test_probes_without_a_shift_are_left_out_of_the_logs_alone_and_counted(model):
    probes = probes_of([40])
    shifts = independent(probes)
    values = shifts.kl["latent"][model].copy()
    values[[0, 7, 9]] = 0.0
    found = found_of(table_of(probes, with_arm(shifts, "latent", model, values), 1))
    keep = values > 0
    a, b = values, shifts.kl["latent"][1 - model]
    assert found.forward.n_log.tolist() == [37]
    expected = stats.pearsonr(np.log(a[keep]), np.log(b[keep])).statistic
    assert found.forward.values["log"][0] == pytest.approx(expected)
    assert found.forward.values["pearson"][0] == pytest.approx(stats.pearsonr(a, b).statistic)


def test_too_few_probes_with_a_logarithm_leave_the_others_defined():
    there = np.ones((1, 30), dtype=bool)
    generator = np.random.default_rng(0)
    a, b, f = generator.lognormal(0, 1, (3, 1, 30))
    a[0, :15] = 0
    found = Correlated.of(a, b, f, there, 20)
    assert np.isnan(found.values["log"][0])
    assert np.isnan(found.values["partial_log"][0])
    assert np.isfinite(found.values["spearman"][0])


def test_probes_whose_logits_do_not_change_are_left_out_of_the_cosine():
    probes = probes_of([30])
    shifts = independent(probes)
    cosine = shifts.logit_cosine["latent"].copy()
    cosine[:4] = np.nan
    shifts = Shifts(shifts.kl, shifts.kl_reverse, {"latent": cosine})
    found = found_of(table_of(probes, shifts, 1))
    assert found.logit_cosine["latent"][0] == pytest.approx(np.nanmean(cosine))
