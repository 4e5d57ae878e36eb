"""One column on other texts: weighted statistics by repetition, coverage, direction, controls."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from saebench.concepts import Exchange, behaviour_minus_control, hedges, judged, standard_error
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


def test_a_silent_column_tells_nothing_and_has_an_interval_of_nothing():
    labels = labels_of(20, 8)
    found = judged(np.full(20, 0.1), Exchange.of(labels), labels)
    assert (found.d, found.auroc) == (0, 0.5)
    assert (found.intervals["d"].low, found.intervals["d"].high) == (0, 0)


def test_a_class_of_one_document_has_no_interval_and_says_so():
    documents = np.array([0, 0, 0, 1, 1, 2, 2])
    labels = documents == 0
    found = judged(np.arange(7.0), Exchange.of(labels, documents), labels)
    assert found.intervals["d"].low is None
    assert "one document" in found.intervals["d"].reason


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
