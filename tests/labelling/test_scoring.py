"""Precision, recall and F1 of labels against a judge, as scikit-learn has them."""

import json
import random

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from saebench.errors import DataError
from saebench.labelling.scoring import score
from saebench.stats import wilson


def made(n=400, seed=0):
    rng = random.Random(seed)
    judge = [rng.choice("ab") for _ in range(n)]
    labels = [rng.choice(["a", "b", None, label, label, label]) for label in judge]
    return labels, [label if rng.random() < 0.9 else None for label in judge]


def test_scores_are_those_of_sklearn_with_ambiguous_as_a_class_of_its_own():
    labels, judge = made()
    known = [(a or "?", b) for a, b in zip(labels, judge, strict=True) if b]
    mine, right = zip(*known, strict=True)
    precision, recall, f1, support = precision_recall_fscore_support(right, mine, labels=["a", "b"])
    found = score(labels, judge)
    assert found.n_texts == len(known)
    for i, name in enumerate("ab"):
        scores = found.by_class[name]
        assert scores.precision.value == pytest.approx(precision[i])
        assert scores.recall.value == pytest.approx(recall[i])
        assert scores.f1.value == pytest.approx(f1[i])
        assert scores.recall.n == support[i]
        assert scores.precision.n == mine.count(name)
        assert scores.f1.low < scores.f1.value < scores.f1.high
    assert np.array_equal(
        found.confusion, confusion_matrix(right, mine, labels=["a", "b", "?"])[:2]
    )
    assert found.decided.value == pytest.approx(1 - mine.count("?") / len(mine))


def test_shares_have_wilsons_interval():
    labels, judge = ["a"] * 8 + ["b"] * 4, ["a"] * 6 + ["b"] * 6
    scores = score(labels, judge).by_class["a"]
    expected = wilson(6, 8)
    assert (scores.precision.low, scores.precision.high) == (expected.low, expected.high)
    assert "Wilson" in scores.precision.how
    assert scores.recall.value == 1.0
    assert scores.f1.value == pytest.approx(12 / 14)


def test_documents_are_resampled_where_texts_are_of_some():
    labels, judge = made()
    found = score(labels * 4, judge * 4, groups=list(range(400)) * 4).by_class["a"]
    alone = score(labels, judge).by_class["a"]
    assert found.recall.value == alone.recall.value
    assert "documents" in found.recall.how
    width = alone.recall.high - alone.recall.low
    assert found.recall.high - found.recall.low == pytest.approx(width, rel=0.1)


def test_a_share_of_1_has_no_more_trials_than_documents():
    found = score(
        ["a"] * 40 + ["b"] * 40, ["a"] * 40 + ["b"] * 40, groups=[i // 10 for i in range(80)]
    )
    precision = found.by_class["a"].precision
    expected = wilson(4, 4)
    assert (precision.low, precision.high) == (expected.low, 1.0)
    assert precision.how == "Wilson, 95%, 4 documents"
    never = score(["a"] * 4, ["b"] * 4, groups=list("ddee")).by_class["b"].recall
    assert (never.value, never.low, never.high) == (0.0, 0.0, wilson(0, 2).high)
    # and what resampling cannot vary gets no bounds of no width
    many = score(list("ab") * 100, list("ab") * 100).by_class["a"].f1
    assert (many.value, many.low, many.high) == (1.0, None, None)
    assert "every resample gives the same" in many.how


def test_a_class_that_is_never_given_or_never_right_has_a_reason():
    found = score(["a", "a", None], ["a", "b", "b"])
    assert found.by_class["b"].precision.value is None
    assert "no text has this label" in found.by_class["b"].precision.reason
    assert found.by_class["b"].recall.value == 0.0
    assert found.by_class["b"].f1.value == 0.0
    assert found.confusion == ((1, 0, 0), (1, 0, 1))
    nobody = score(["a"], [None])
    assert nobody.n_texts == 0
    assert nobody.decided.value is None
    assert json.loads(json.dumps(found.to_json()))["confusion"]["label"] == ["a", "b", None]


def test_different_numbers_of_texts_are_refused():
    with pytest.raises(DataError, match="same texts"):
        score(["a"], ["a", "b"])
