"""FVE of token subsets: the published figures, naive loops, and what adds up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saebench.metrics.difference.arms import ALIKE, Arm, Figure, figures
from saebench.metrics.difference.subsets import Subset
from saebench.metrics.difference.sums import DifferenceSums, Groups, weights_of

N, D = 12, 5


def v6() -> tuple[np.ndarray, np.ndarray]:
    """Twelve tokens and their reconstruction: ``x[12, 5]``, ``x̂``."""
    i, j = np.mgrid[0:N, 0:D]
    x = ((7 * i + 13 * j) % 11 - 5 + 3 * (j == 0)).astype(np.float64)
    return x, x + ((3 * i + 5 * j) % 7 - 3) / 4


def some(n: int = 300, d: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens far from zero, their reconstruction, and the group of each."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * rng.uniform(0.1, 3, n)[:, None] + 40
    return x, x + 0.5 * rng.normal(size=(n, d)) + 0.1, np.sort(rng.integers(0, 23, n))


def measured(x, x_hat, group_ids, chosen, *, n_resamples=0, seed=0, chunk=5):
    """The figures of each subset."""
    groups = Groups.of(group_ids)
    weights = weights_of(groups, n_resamples, seed)
    sums = DifferenceSums(groups, chosen, x.shape[1], float((x**2).sum(1).mean()))
    y = torch.from_numpy(x - x.mean(0))
    for first in range(0, len(x), chunk):
        sums.update(first, y[first : first + chunk])
    l0 = np.arange(len(x), dtype=float)
    arm = Arm(((x - x_hat) ** 2).sum(1), l0)
    return figures(arm, chosen, groups, sums.spreads(weights), weights), groups, weights


def split(keep: np.ndarray) -> list[Subset]:
    return [
        Subset("all", np.ones_like(keep)),
        Subset("inside", keep),
        Subset("rest", ~keep),
    ]


def naive(x: np.ndarray, x_hat: np.ndarray, rows: np.ndarray, mean: np.ndarray) -> float:
    error = sum(((x[i] - x_hat[i]) ** 2).sum() for i in rows)
    return 1 - error / sum(((x[i] - mean) ** 2).sum() for i in rows)


def test_the_published_figures_of_the_three_largest_rows():
    x, x_hat = v6()
    keep = np.zeros(N, dtype=bool)
    keep[np.argsort(-np.linalg.norm(x, axis=1), kind="stable")[:3]] = True
    assert np.flatnonzero(keep).tolist() == [3, 6, 9]
    found, *_ = measured(x, x_hat, np.arange(N), split(keep))
    value = {name: {key: one.value for key, one in row.items()} for name, row in found.items()}
    assert value["all"]["fve"] == pytest.approx(0.974524, abs=5e-7)
    assert value["inside"]["fve"] == pytest.approx(0.948119, abs=5e-7)
    assert value["inside"]["fve_global"] == pytest.approx(0.977933, abs=5e-7)
    assert value["rest"]["fve"] == pytest.approx(0.971170, abs=5e-7)
    assert value["rest"]["fve_global"] == pytest.approx(0.973244, abs=5e-7)
    assert value["inside"]["tss_share"] == pytest.approx(0.273044, abs=5e-7)


def test_only_the_global_form_adds_up_over_a_partition():
    x, x_hat, group_ids = some()
    keep = np.linalg.norm(x, axis=1) > 106
    found, *_ = measured(x, x_hat, group_ids, split(keep))

    def total(form: str) -> float:
        return sum(found[s]["tss_share"].value * found[s][form].value for s in ("inside", "rest"))

    assert found["inside"]["tss_share"].value + found["rest"]["tss_share"].value == pytest.approx(1)
    assert total("fve_global") == pytest.approx(found["all"]["fve"].value, rel=1e-12)
    assert total("fve") != pytest.approx(found["all"]["fve"].value, rel=1e-3)


def test_both_forms_and_l0_are_those_of_naive_loops():
    x, x_hat, group_ids = some()
    keep = np.random.default_rng(1).random(len(x)) < 0.2
    found, *_ = measured(x, x_hat, group_ids, split(keep))
    for name, mask in (("inside", keep), ("rest", ~keep), ("all", keep | True)):
        rows = np.flatnonzero(mask)
        assert found[name]["fve"].value == pytest.approx(
            naive(x, x_hat, rows, x[mask].mean(0)), rel=1e-9
        )
        assert found[name]["fve_global"].value == pytest.approx(
            naive(x, x_hat, rows, x.mean(0)), rel=1e-9
        )
        assert found[name]["l0"].value == pytest.approx(rows.mean())


def test_a_resample_is_the_figure_of_the_tokens_that_it_draws():
    x, _, group_ids = some(120)
    keep = np.random.default_rng(2).random(len(x)) < 0.5
    chosen = split(keep)
    groups = Groups.of(group_ids)
    weights = weights_of(groups, 6, 3)
    sums = DifferenceSums(groups, chosen, x.shape[1], 1.0)
    sums.update(0, torch.from_numpy(x - x.mean(0)))
    spread = sums.spreads(weights)["inside"]
    for number, row in enumerate(weights.astype(int), start=1):
        drawn = np.repeat(np.arange(len(x)), row[groups.of_token])
        inside = drawn[keep[drawn]]
        own = ((x[inside] - x[inside].mean(0)) ** 2).sum()
        overall = ((x[inside] - x[drawn].mean(0)) ** 2).sum()
        assert spread.n[number] == inside.size
        assert spread.own[number] == pytest.approx(own, rel=1e-9)
        assert spread.overall[number] == pytest.approx(overall, rel=1e-9)


def test_the_interval_is_that_of_whole_groups_drawn_together():
    x, x_hat, group_ids = some()
    keep = np.random.default_rng(1).random(len(x)) < 0.4
    found, groups, weights = measured(x, x_hat, group_ids, split(keep), n_resamples=400)
    sse = ((x - x_hat) ** 2).sum(1)
    shares = []
    for row in weights.astype(int):
        drawn = np.repeat(np.arange(len(x)), row[groups.of_token])
        inside = drawn[keep[drawn]]
        total = ((x[inside] - x[inside].mean(0)) ** 2).sum()
        shares.append(1 - sse[inside].sum() / total)
    low, high = np.quantile(shares, [0.025, 0.975])
    bounds = found["inside"]["fve"].bounds
    assert (bounds.low, bounds.high) == pytest.approx((low, high), rel=1e-9)


@pytest.mark.parametrize("chunk", [1, 7, 300])
def test_figures_do_not_depend_on_chunks(chunk):
    x, x_hat, group_ids = some()
    keep = x[:, 0] > 40
    one, *_ = measured(x, x_hat, group_ids, split(keep), n_resamples=20)
    other, *_ = measured(x, x_hat, group_ids, split(keep), n_resamples=20, chunk=chunk)
    for name, row in one.items():
        for key, figure in row.items():
            assert other[name][key].value == pytest.approx(figure.value, rel=1e-10)
            assert other[name][key].bounds.low == pytest.approx(figure.bounds.low, rel=1e-10)


def test_one_token_has_no_variance_of_its_own_but_one_about_the_global_mean():
    x, x_hat, group_ids = some()
    keep = np.zeros(len(x), dtype=bool)
    keep[17] = True
    found, *_ = measured(x, x_hat, group_ids, split(keep))
    assert found["inside"]["fve"].value is None
    assert found["inside"]["fve"].reason == ALIKE
    expected = naive(x, x_hat, np.array([17]), x.mean(0))
    assert found["inside"]["fve_global"].value == pytest.approx(expected, rel=1e-9)


def test_an_empty_subset_has_no_value_and_its_own_reason():
    x, x_hat, group_ids = some()
    chosen = [*split(np.ones(len(x), dtype=bool))[:2], Subset("none", np.zeros(len(x), bool), "no")]
    found, *_ = measured(x, x_hat, group_ids, chosen, n_resamples=50)
    for figure in found["none"].values():
        assert (figure.value, figure.reason) == (None, "no")
        assert figure.bounds.low is None


def test_tokens_that_are_all_alike_have_nothing_to_explain():
    x = np.full((40, 3), 0.1)
    found, *_ = measured(x, x, np.arange(40), split(np.arange(40) < 9), n_resamples=9)
    assert all(
        one["fve"].value is None and one["fve_global"].value is None for one in found.values()
    )


def test_one_sequence_gives_a_value_without_an_interval():
    x, x_hat, _ = some()
    found, *_ = measured(x, x_hat, np.zeros(len(x), int), split(x[:, 0] > 40), n_resamples=50)
    assert found["inside"]["fve"].value is not None
    assert "two sequences" in found["inside"]["fve"].bounds.reason


def test_a_figure_keeps_its_reason_in_json_and_as_a_measurement():
    figure = Figure.of(np.array([np.nan, 1.0]), "why")
    assert figure.to_json() == {"value": None, "reason": "why"}
    measured = figure.measured("diff_fve", 3, 2)
    assert (measured.value, measured.reason, measured.n_tokens) == (None, "why", 3)
    known = Figure.of(np.array([9.0, 0.4, 0.6, 0.5, 0.5])).to_json()
    assert known["value"] == 9.0
    assert known["interval"] == pytest.approx([0.4075, 0.5925])
