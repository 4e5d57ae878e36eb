"""One column on other texts: weighted statistics by repetition, coverage, direction, controls."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from saebench.concepts import (
    Columns,
    Exchange,
    behaviour_minus_control,
    hedges,
    judged,
    one_sided_p,
    standard_error,
)
from saebench.concepts.chosen import _resampled
from tests.concepts.matrices import labels_of, naive_d


def texts(n, effect, seed=0, sparse=False):
    rng = np.random.default_rng(seed)
    labels = labels_of(n, n // 2, seed)
    values = rng.normal(size=n) + effect * labels
    return (np.maximum(values, 0) if sparse else values), labels


def test_resamples_are_statistics_of_repeated_texts():
    values, labels = texts(30, 0.8, sparse=True)
    weights = np.concatenate(list(Exchange.of(labels).resamples(20, seed=0)))
    d, g, auroc = _resampled(values, labels, weights)
    for row, one_d, one_g, one_auroc in zip(weights.astype(int), d, g, auroc, strict=True):
        again, side = np.repeat(values, row), np.repeat(labels, row)
        assert one_d == pytest.approx(naive_d(again[:, None], side)[0])
        assert one_g == pytest.approx(hedges(one_d, 15, 15))
        assert one_auroc == pytest.approx(roc_auc_score(side, again))


def test_a_planted_effect_is_recovered_within_three_standard_errors():
    values, labels = texts(400, 1.0, seed=3)
    found = judged(values, Exchange.of(labels), labels)
    assert abs(found.d - 1.0) < 3 * found.error
    assert found.error == pytest.approx(standard_error(found.d, 200, 200))
    assert found.intervals["d"].low < 1.0 < found.intervals["d"].high
    assert found.intervals["auroc"].low < 0.760 < found.intervals["auroc"].high  # Φ(1/√2)
    assert "400 texts within classes" in found.intervals["d"].how


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    covered = 0
    for seed in range(150):
        values, labels = texts(80, 0.5, seed=seed)
        bounds = judged(values, Exchange.of(labels), labels, n_resamples=300, seed=seed)
        one = bounds.intervals["d"]
        covered += one.low < 0.5 < one.high
    assert 0.89 <= covered / 150 <= 0.99


def test_the_direction_of_the_choice_is_kept():
    values, labels = texts(60, -1.2)
    exchange = Exchange.of(labels)
    up, down = judged(values, exchange, labels), judged(values, exchange, labels, sign=-1)
    assert up.d == pytest.approx(-down.d)
    assert up.auroc == pytest.approx(1 - down.auroc)
    assert down.d > 0.5
    assert down.to_json()["sign"] == -1


def test_a_silent_column_tells_nothing_and_has_no_interval_and_a_p_of_1():
    labels = labels_of(40, 20)
    found = judged(np.full(40, 0.1), Exchange.of(labels), labels)
    assert (found.d, found.auroc, found.p) == (0, 0.5, 1)
    for bounds in found.intervals.values():
        assert (bounds.low, bounds.high) == (None, None)
        assert "the same in all resamples" in bounds.reason


def test_classes_that_do_not_overlap_have_no_interval_of_auroc_but_one_of_d():
    values, labels = texts(60, 20.0)
    found = judged(values, Exchange.of(labels), labels)
    assert found.auroc == 1
    assert found.intervals["auroc"].low is None
    assert found.intervals["d"].low < found.d < found.intervals["d"].high
    assert found.to_json()["auroc_interval"] == found.intervals["auroc"].reason


def test_a_class_of_one_document_has_no_interval_and_says_so():
    documents = np.array([0, 0, 0, 1, 1, 2, 2])
    labels = documents == 0
    found = judged(np.arange(7.0), Exchange.of(labels, documents), labels)
    assert found.intervals["d"].low is None
    assert "one document" in found.intervals["d"].reason


def test_one_document_that_holds_both_classes_has_no_interval():
    values, labels = texts(40, 1.0)
    found = judged(values, Exchange.of(labels, np.zeros(40)), labels)
    assert found.intervals["d"].low is None
    assert "one document" in found.intervals["d"].reason


@pytest.mark.parametrize(("n1", "there"), [(9, False), (10, True)])
@pytest.mark.parametrize("each", [1, 3])
def test_an_interval_needs_ten_documents_or_texts_of_each_class(n1, there, each):
    documents = np.repeat(np.arange(30), each)
    labels = labels_of(30, n1)[documents]
    values = np.random.default_rng(0).normal(size=30 * each)
    bounds = judged(values, Exchange.of(labels, documents), labels).intervals["d"]
    assert (bounds.low is not None) == there
    unit = "texts" if each == 1 else "documents"
    assert (f"30 {unit} within classes" if there else f"9 {unit}") in (bounds.how or bounds.reason)


def test_resamples_without_spread_are_left_out_and_counted_where_they_are_few():
    labels = np.arange(24) < 12
    values = np.zeros(24)
    values[:12] = 1
    values[[0, 1, 2, 12, 13]] = 0.5  # e^-5 of the resamples draw none of these
    found = judged(values, Exchange.of(labels), labels)
    missing = int((~np.isfinite(found.samples)).sum())
    assert 0 < missing < 0.05 * 2000
    bounds = found.intervals["d"]
    defined = found.samples[np.isfinite(found.samples)]
    assert [bounds.low, bounds.high] == pytest.approx(np.quantile(defined, [0.025, 0.975]))
    assert bounds.how.endswith(f"; {missing} of 2000 more were undefined")
    values[[1, 2, 12, 13]] = [1, 1, 0, 0]
    found = judged(values, Exchange.of(labels), labels)
    assert found.intervals["d"].low is None
    assert "undefined in" in found.intervals["d"].reason
    assert np.isfinite(found.d)


def naive_one_sided(values, labels):
    """p over all arrangements, by a loop."""
    d, reached, n = naive_d(values[:, None], labels)[0], 0, 0
    for chosen in combinations(range(len(labels)), int(labels.sum())):
        side = np.isin(np.arange(len(labels)), chosen)
        n += 1
        reached += naive_d(values[:, None], side)[0] >= d - 1e-9
    return reached / n


def test_p_of_the_chosen_column_is_one_sided_and_that_of_all_arrangements():
    labels = labels_of(9, 4)
    values = np.random.default_rng(1).normal(size=9).round(1) + labels
    exchange = Exchange.of(labels)
    up, down = (judged(values, exchange, labels, sign=sign) for sign in (1, -1))
    assert up.p == pytest.approx(naive_one_sided(values, labels))
    assert down.p == pytest.approx(naive_one_sided(-values, labels))
    assert up.p < 0.2 < 0.8 < down.p
    assert up.smallest_p == pytest.approx(1 / 126)
    assert up.to_json()["p"] == up.p


def test_p_of_the_chosen_column_compares_documents_of_different_sizes_by_d():
    of_document, sizes = labels_of(8, 3), np.array([1, 2, 3, 4, 1, 2, 3, 4])
    documents = np.repeat(np.arange(8), sizes)
    labels = of_document[documents]
    values = np.random.default_rng(3).normal(size=20) + 0.7 * labels
    d = [
        naive_d(values[:, None], np.isin(documents, chosen))[0]
        for chosen in combinations(range(8), 3)
    ]
    own = naive_d(values[:, None], labels)[0]
    found = judged(values, Exchange.of(labels, documents), labels)
    assert found.p == pytest.approx(np.mean(np.array(d) >= own - 1e-9))


def test_a_column_without_spread_in_either_class_has_the_smallest_p_and_not_less():
    labels = np.array([True] * 3 + [False] * 3)
    found = judged(labels * 1.0, Exchange.of(labels), labels)
    assert np.isinf(found.d)
    assert found.p == found.smallest_p == pytest.approx(1 / 20)
    assert judged(labels * 1.0, Exchange.of(labels), labels, sign=-1).p == 1


def test_p_of_random_arrangements_is_uniform_without_an_effect():
    rng, p = np.random.default_rng(7), []
    labels = labels_of(24, 12)
    for seed in range(300):
        columns = Columns.of(rng.normal(size=(24, 1)))
        p.append(one_sided_p(columns, Exchange.of(labels), 99, seed))
    assert p[0][1] == 1 / 100
    found = np.array(p)[:, 0]
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert np.mean(found <= 0.05) < 0.09


def test_the_standard_error_of_independent_texts_is_withheld_where_documents_group_them():
    values, labels = texts(80, 1.0)
    of_documents = np.repeat(labels_of(40, 20), 2)
    grouped = judged(values, Exchange.of(of_documents, np.repeat(np.arange(40), 2)), of_documents)
    within = judged(values, Exchange.of(labels, np.arange(80) // 40), labels)
    for found in (grouped, within):
        assert found.error is None
        assert found.to_json()["standard_error"] is None
    assert judged(values, Exchange.of(labels), labels).to_json()["standard_error"] > 0


def test_documents_widen_the_interval_of_texts_that_resemble_each_other():
    rng = np.random.default_rng(0)
    documents = np.repeat(np.arange(20), 10)
    values = rng.normal(size=20)[documents] + 0.1 * rng.normal(size=200)
    labels = labels_of(20, 10)[documents]
    whole = judged(values, Exchange.of(labels, documents), labels).intervals["d"]
    alone = judged(values, Exchange.of(labels), labels).intervals["d"]
    assert whole.high - whole.low > 2 * (alone.high - alone.low)
    assert "20 documents" in whole.how


def test_behaviour_minus_control_takes_the_size_of_the_one_from_the_direction_of_the_other():
    values, labels = texts(200, 1.5)
    behaviour = judged(values, Exchange.of(labels), labels)
    other, sides = texts(200, -0.6, seed=1)
    control = judged(other, Exchange.of(sides), sides, seed=1)
    value, bounds = behaviour_minus_control(behaviour, control)
    assert value == pytest.approx(behaviour.d - abs(control.d))
    assert bounds.low < value < bounds.high
    assert value < behaviour.d


def test_the_interval_of_the_difference_keeps_the_sign_of_controls_in_every_resample():
    values, labels = texts(200, 1.5)
    behaviour = judged(values, Exchange.of(labels), labels)
    documents = np.repeat(np.arange(60), 2)
    sides = labels_of(60, 30, 4)[documents]
    other = np.random.default_rng(4).normal(size=120)
    control = judged(other, Exchange.of(sides, documents), sides, seed=1)
    sign = -1 if control.d < 0 else 1
    assert (sign * control.samples < -0.1).mean() > 0.02  # d on controls is near 0
    _, bounds = behaviour_minus_control(behaviour, control)
    expected = np.quantile(behaviour.samples - sign * control.samples, [0.025, 0.975])
    assert [bounds.low, bounds.high] == pytest.approx(expected)
    assert "200 texts within classes and 60 documents within classes, apart" in bounds.how


def test_the_difference_has_no_interval_where_controls_have_none():
    values, labels = texts(60, 1.0)
    behaviour = judged(values, Exchange.of(labels), labels)
    few = labels_of(12, 6)
    control = judged(values[:12], Exchange.of(few), few)
    value, bounds = behaviour_minus_control(behaviour, control)
    assert np.isfinite(value)
    assert bounds.low is None
    assert bounds.reason.startswith("d on controls: a class has texts of 6 texts")
