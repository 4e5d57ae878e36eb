"""Sources are compared cell by cell, by hand: means, differences, wins, and seeds dealt out again."""

from __future__ import annotations

import pytest
from scipy import stats

from saebench.comparison.document import compare
from saebench.comparison.quantities import FIXED, by_seed
from saebench.errors import ConfigError
from saebench.metrics.definitions import DEFINITIONS
from tests.comparison.studies import group, probed, record, report, small_study

SCORES = {  # accuracy of latents by task: two seeds of a, two of b
    "sst2": ((0.80, 0.82), (0.78, 0.80)),
    "cola": ((0.69, 0.69), (0.69, 0.69)),
    "news": ((0.90, 0.92), (0.93, 0.95)),
}


def row(rows, key):
    (found,) = [one for one in rows if one.quantity.key.startswith(key)]
    return found


def probing_study(**more):
    records = []
    for source in range(2):
        for seed in range(2):
            tasks = {
                task: {
                    "latents": {"accuracy": both[source][seed], "macro_f1": None},
                    "baseline": {"accuracy": 0.95},
                }
                for task, both in SCORES.items()
            }
            mean = sum(both[source][seed] for both in SCORES.values()) / 3
            records.append(probed(f"{'ab'[source]}{seed}", tasks, probe_accuracy_latents=mean))
    return report(records, [group("a", ["a0", "a1"]), group("b", ["b0", "b1"])])


def test_cells_are_model_by_block_and_hold_means_over_seeds():
    (found,) = compare({"run": small_study()}).pairings
    fve = row(found.headline, "fve")
    assert [(c.model, c.block, c.task) for c in fve.cells] == [("m", "k8", ""), ("m", "k16", "")]
    assert [c.mean_a for c in fve.cells] == pytest.approx([0.7005, 0.8005])
    assert [c.difference for c in fve.cells] == pytest.approx([-0.01, -0.01])
    assert fve.overall.sign.losses == 2
    assert fve.overall.mean_a == pytest.approx(0.7505)


def test_lower_is_better_where_the_definition_says_so():
    (found,) = compare({"run": small_study()}).pairings
    mse = row(found.rest, "mse")
    assert mse.overall.difference == pytest.approx(0.01)
    assert (mse.overall.sign.wins, mse.overall.sign.losses) == (0, 2)


def test_probes_are_compared_task_by_task_with_ties_dropped():
    comparison = compare({"run": probing_study()})
    (found,) = comparison.pairings
    latents = row(found.headline, "probing/latents/accuracy")
    assert [c.task for c in latents.cells] == ["sst2", "cola", "news"]
    cells = latents.overall.sign_test_cells
    assert (cells.wins, cells.ties, cells.losses, cells.p) == (1, 1, 1, 1.0)
    assert latents.overall.difference == pytest.approx(-0.01 / 3)


def test_one_place_has_neither_a_p_nor_an_interval_however_many_tasks_it_has():
    (found,) = compare({"run": probing_study()}).pairings
    overall = row(found.headline, "probing/latents/accuracy").overall
    assert (overall.n_cells, overall.n_places) == (3, 1)
    assert (overall.sign.losses, overall.sign.p, overall.sign.smallest_p) == (1, None, None)
    assert (overall.low, overall.high) == (None, None)
    assert overall.interval == "an interval needs at least two places"


def blocks_study(differences):
    """One seed of each source in each block; the difference of a and b by block and task."""
    records, groups = [], []
    for block, tasks in differences.items():
        for source in "ab":
            scores = {
                task: {"latents": {"accuracy": 0.5 + (difference if source == "a" else 0.0)}}
                for task, difference in tasks.items()
            }
            records.append(probed(f"{source}-{block}", scores))
            groups.append(
                group(f"{source}-{block}", [f"{source}-{block}"], source=source, block=block)
            )
    return report(records, groups)


def test_tasks_of_a_place_are_averaged_before_anything_is_tested():
    differences = {
        "k8": {"t1": 0.02, "t2": 0.03, "t3": 0.01, "t4": 0.05, "t5": 0.04},
        "k16": {"t1": 0.02, "t2": -0.01, "t3": 0.04, "t4": 0.06, "t5": 0.04},
        "k32": {"t1": 0.11},
    }
    (found,) = compare({"run": blocks_study(differences)}).pairings
    overall = row(found.headline, "probing/latents/accuracy").overall
    places = [0.03, 0.03, 0.11]
    assert (overall.n_cells, overall.n_places) == (11, 3)
    assert overall.difference == pytest.approx(sum(places) / 3)
    assert overall.mean_a - overall.mean_b == pytest.approx(overall.difference)
    low, high = stats.t.interval(0.95, 2, loc=sum(places) / 3, scale=stats.sem(places))
    assert (overall.low, overall.high) == pytest.approx((low, high))
    assert (overall.sign.wins, overall.sign.p) == (3, pytest.approx(0.25))
    assert overall.sign.smallest_p == pytest.approx(0.25)
    cells = overall.sign_test_cells
    assert (cells.wins, cells.losses) == (10, 1)
    assert cells.p == pytest.approx(stats.binomtest(10, 11).pvalue)


def test_a_task_that_one_seed_lacks_is_left_out_of_every_mean_and_named():
    easy, hard = {"latents": {"accuracy": 0.9}}, {"latents": {"accuracy": 0.5}}
    whole = {"easy": easy, "hard": hard}
    records = [probed(name, whole) for name in ("a0", "a1", "b0")] + [probed("b1", {"hard": hard})]
    study = report(records, [group("a", ["a0", "a1"]), group("b", ["b0", "b1"])])
    comparison = compare({"run": study})
    (found,) = comparison.pairings
    latents = row(found.headline, "probing/latents/accuracy")
    assert [one.task for one in latents.cells] == ["hard"]
    assert latents.overall.difference == pytest.approx(0.0)
    (seeds,) = found.seeds
    assert (seeds.mean_a, seeds.mean_b) == pytest.approx((0.5, 0.5))
    assert [one.over_seeds.mean for one in comparison.values] == pytest.approx([0.5, 0.5])
    words = "m: means over tasks leave out easy, which not every checkpoint there has"
    assert comparison.notes == found.notes == (words,)
    assert compare({"run": probing_study()}).notes == ()


def test_sources_without_a_common_task_have_no_mean_to_compare():
    records = [
        probed(n, {t: {"latents": {"accuracy": 0.5}}}, fve=0.5) for n, t in (("a", "x"), ("b", "y"))
    ]
    comparison = compare({"run": report(records, [group("g", "a"), group("h", "b")])})
    assert [one.quantity.key for one in comparison.pairings[0].headline] == ["fve@1"]
    probes = [one for one in comparison.values if one.quantity.by_task]
    assert [one.over_seeds.mean for one in probes] == [None, None]


def test_metrics_without_a_better_direction_are_in_no_family():
    records = [
        record(f"{source}{seed}", l0=8.0 + seed + 3 * rank, fve=0.5 + 0.01 * seed + 0.1 * rank)
        for rank, source in enumerate("ab")
        for seed in range(2)
    ]
    study = report(records, [group("a", ["a0", "a1"]), group("b", ["b0", "b1"])])
    (found,) = compare({"run": study}).pairings
    l0, fve = row(found.seeds, "l0"), row(found.seeds, "fve")
    assert (l0.p, l0.p_holm) == (pytest.approx(1 / 3), None)
    assert fve.p_holm == pytest.approx(1 / 3)  # not twice that


def test_what_no_seed_changes_is_one_measurement():
    assert set(FIXED) <= set(DEFINITIONS)
    records = [record(name, ce_clean=3.5, fve_pca=pca) for name, pca in (("a0", 0.7), ("a1", 0.8))]
    study = report(
        [*records, record("b", ce_clean=3.5)], [group("a", ["a0", "a1"]), group("b", "b")]
    )
    sizes = {
        (one.quantity.key, one.source): one.over_seeds.n for one in compare({"run": study}).values
    }
    assert sizes == {("ce_clean@1", "a"): 1, ("ce_clean@1", "b"): 1, ("fve_pca@1", "a"): 2}


def test_the_mean_over_tasks_is_not_compared_twice():
    comparison = compare({"run": probing_study()})
    keys = [quantity.key for quantity in comparison.measured.quantities]
    assert keys == ["probing/baseline/accuracy", "probing/latents/accuracy"]
    baseline = comparison.measured.quantities[0]
    assert (baseline.headline, baseline.beside) == (False, True)  # it does not depend on the SAE


def test_the_mean_over_tasks_stays_where_a_group_has_no_tasks():
    records = [record("c0", probe_accuracy_latents=0.5), record("c1", probe_accuracy_latents=0.6)]
    whole = report(
        [*probing_study().records, *records], [*probing_study().groups, group("c", ["c0", "c1"])]
    )
    comparison = compare({"run": whole})
    (kept,) = [q for q in comparison.measured.quantities if q.key == "probe_accuracy_latents@1"]
    sources = [one.source for one in comparison.values if one.quantity == kept]
    assert sources == ["c"]


def test_values_by_seed_are_means_over_the_tasks_that_all_seeds_have():
    values = {"x": {"s0": 0.2, "s1": 0.4}, "y": {"s0": 0.6, "s1": 0.8}, "z": {"s0": 9.0}}
    assert by_seed(values) == pytest.approx({"s0": 0.4, "s1": 0.6})


def test_seeds_dealt_out_have_the_p_of_scipy_and_the_smallest_there_is():
    (found,) = compare({"run": probing_study()}).pairings
    seeds = row(found.seeds, "probing/latents/accuracy")
    a = [sum(both[0][seed] for both in SCORES.values()) / 3 for seed in range(2)]
    b = [sum(both[1][seed] for both in SCORES.values()) / 3 for seed in range(2)]
    oracle = stats.permutation_test(
        (a, b), lambda x, y: x.mean() - y.mean(), n_resamples=1e6, vectorized=False
    )
    assert seeds.p == pytest.approx(oracle.pvalue)
    assert seeds.smallest_p == pytest.approx(1 / 3)
    assert seeds.difference == pytest.approx(sum(a) / 2 - sum(b) / 2)


def test_seeds_that_all_agree_or_stand_alone_are_not_tested():
    (found,) = compare({"run": small_study()}).pairings
    assert {one.reason for one in found.seeds if one.quantity.key == "l0@1"} == {
        "every seed has the same value"
    }
    alone = report([record("a", fve=0.5), record("b", fve=0.6)], [group("g", "a"), group("h", "b")])
    (one,) = compare({"run": alone}).pairings
    assert one.seeds[0].p is None
    assert one.seeds[0].reason == "one seed on each side"


def test_holm_covers_the_rows_of_one_table():
    (found,) = compare({"run": small_study()}).pairings
    tested = [one for one in found.headline if one.overall.sign.p is not None]
    assert [one.quantity.key for one in tested] == ["fve@1", "shared_decoder@1"]
    assert [one.p_holm for one in tested] == [1.0, 1.0]  # twice one half
    assert row(found.rest, "mse").p_holm == 0.5
    fve = [one for one in found.seeds if one.quantity.key == "fve@1"]
    assert [one.p_holm for one in fve] == pytest.approx([2 / 3, 2 / 3])


def test_models_are_summed_up_one_by_one():
    runs = {}
    for model, shift in (("m1", 0.1), ("m2", -0.3)):
        records = [record("a", model=model, fve=0.5 + shift), record("b", model=model, fve=0.5)]
        groups = [group("a", "a", model=model), group("b", "b", model=model)]
        runs[model] = report(records, groups)
    (found,) = compare(runs).pairings
    fve = row(found.headline, "fve")
    assert {m: s.difference for m, s in fve.by_model.items()} == pytest.approx(
        {"m1": 0.1, "m2": -0.3}
    )
    assert fve.overall.difference == pytest.approx(-0.1)
    assert fve.overall.n_cells == 2


def test_every_pair_or_all_against_the_reference():
    study = small_study(("x", "y", "z"))
    pairs = [(p.a, p.b) for p in compare({"run": study}).pairings]
    assert pairs == [("x", "y"), ("x", "z"), ("y", "z")]
    for reference in ("y", "y-k8"):
        against = compare({"run": study}, reference=reference).pairings
        assert [(p.a, p.b) for p in against] == [("x", "y"), ("z", "y")]
    with pytest.raises(ConfigError, match=r"There are: x, y, z\."):
        compare({"run": study}, reference="xx")


def test_sources_without_a_common_cell_are_refused_and_one_source_is_not():
    groups = [group("g", "a", block="k8"), group("h", "b", block="k16")]
    records = [record("a", fve=0.5), record("b", fve=0.6)]
    with pytest.raises(ConfigError, match="'g' in block 'k8' on m; 'h' in block 'k16' on m"):
        compare({"run": report(records, groups)})
    same = [group("g", "a", block="k8", source="s"), group("h", "b", block="k16", source="s")]
    assert compare({"run": report(records, same)}).pairings == ()


def test_sources_without_a_common_metric_are_refused():
    records = [record("a", fve=0.5), record("b", l0=3.0)]
    with pytest.raises(ConfigError, match="a metric in common"):
        compare({"run": report(records, [group("g", "a"), group("h", "b")])})


def test_versions_of_a_metric_are_not_mixed():
    records = [
        record("a", **{"fve@1": 0.5}),
        record("b", **{"fve@2": 0.9}),
        record("c", **{"fve@1": 0.7}),
    ]
    groups = [group("g", "a"), group("h", "b"), group("i", "c")]
    comparison = compare({"run": report(records, groups)})
    assert [len(p.headline) for p in comparison.pairings] == [0, 1, 0]


def test_what_was_not_measured_is_no_value():
    records = [record("a0", fve=0.5), record("a1", fve=None), record("b", fve=0.6)]
    comparison = compare({"run": report(records, [group("a", ["a0", "a1"]), group("b", "b")])})
    assert comparison.pairings[0].headline[0].cells[0].n_a == 1
    assert comparison.values[0].over_seeds.n == 1


@pytest.mark.parametrize(
    "details",
    [
        {"probing": None},
        {"probing": {"tasks": {"x": None}}},
        {"probing": {"tasks": {"x": {"arms": {"latents": {"accuracy": "high"}}}}}},
        {"probing": {"tasks": {"x": {"arms": {"latents": {"accuracy": float("nan")}}}}}},
        {"probing": {"tasks": {"x": {"arms": {"latents": {"accuracy": True}}}}}},
    ],
)
def test_damaged_details_are_left_out(details):
    records = [record(name, fve=0.5, part={"details": details}) for name in "ab"]
    comparison = compare({"run": report(records, [group("g", "a"), group("h", "b")])})
    assert [q.key for q in comparison.measured.quantities] == ["fve@1"]
