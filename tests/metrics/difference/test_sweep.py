"""The k sweep: gains per doubling, elbows, and points that stand out."""

from __future__ import annotations

import numpy as np
import pytest

from saebench.metrics.difference.sweep import Point, sweep

KS = (32, 64, 100, 128, 256)
L13, L24 = (0.51, 0.56, 0.60, 0.65, 0.70), (0.43, 0.51, 0.56, 0.61, 0.67)


def points(fves, ks=KS, noise: float = 0.002, n_groups: int = 80):
    """Points with these FVE in all and nearly so in each of the groups of sequences."""
    rng = np.random.default_rng(0)
    total = rng.uniform(50, 150, n_groups)
    shared = rng.normal(size=n_groups) * 5 * noise  # what sequences have in common cancels in pairs
    found = []
    for k, fve in zip(ks, fves, strict=True):
        share = 1 - fve + shared + noise * rng.normal(size=n_groups)
        sse = share * total
        found.append(Point(f"k{k}", k, sse * ((1 - fve) * total.sum() / sse.sum())))
    return found, total


@pytest.mark.parametrize(
    ("fves", "gains"),
    [(L13, (0.05, 0.062, 0.140, 0.05)), (L24, (0.08, 0.078, 0.140, 0.06))],
)
def test_the_published_sweep_has_no_elbow_but_a_point_that_stands_out(fves, gains):
    found = sweep(*points(fves))
    assert found.fve == pytest.approx(fves)
    assert [step.gain for step in found.steps] == pytest.approx(gains, abs=6e-4)
    assert found.elbows == ()
    assert [step.after.k for step in found.steps if step.stands_out] == [128]


def test_points_are_ordered_by_k():
    given, total = points(L13)
    assert [point.k for point in sweep(given[::-1], total).points] == list(KS)


def test_a_gain_that_halves_for_sure_is_an_elbow():
    found = sweep(*points((0.3, 0.5, 0.7, 0.74, 0.78), (8, 16, 32, 64, 128)))
    assert found.elbows == (32,)
    assert not any(step.stands_out for step in found.steps)


def test_a_gain_that_halves_within_the_noise_is_none():
    found = sweep(*points((0.3, 0.5, 0.598), (8, 16, 32), noise=0.05))
    assert found.steps[1].gain < found.steps[0].gain / 2
    assert found.elbows == ()


def test_even_gains_have_neither():
    found = sweep(*points((0.2, 0.3, 0.4, 0.5, 0.6), (2, 4, 8, 16, 32)))
    assert found.elbows == ()
    assert not any(step.stands_out for step in found.steps)


def test_a_loss_before_is_no_elbow():
    assert sweep(*points((0.5, 0.4, 0.2), (2, 4, 8))).elbows == ()


def test_the_interval_of_a_gain_is_paired_over_groups():
    from saebench.stats import bootstrap_weights

    given, total = points((0.4, 0.5), (4, 16))
    step = sweep(given, total, n_resamples=500, seed=2).steps[0]
    values = []
    for row in bootstrap_weights(total.size, 500, 2):
        fves = [1 - (row @ point.sse) / (row @ total) for point in given]
        values.append((fves[1] - fves[0]) / 2)  # two doublings
    low, high = np.quantile(values, [0.025, 0.975])
    assert (step.bounds.low, step.bounds.high) == pytest.approx((low, high))


def test_one_group_has_gains_but_no_interval_and_no_elbow():
    found = sweep(*points((0.3, 0.5, 0.52), (8, 16, 32), n_groups=1))
    assert found.steps[0].bounds.reason
    assert found.elbows == ()
