"""Agreement and consensus against published tables, scikit-learn, and loops over texts."""

import random
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from saebench.errors import ConfigError, DataError
from saebench.labelling.agreement import agreement, cohen_kappa, fleiss_kappa
from saebench.labelling.consensus import consensus
from saebench.labelling.resampled import LabelTable

# Fleiss 1971, table 1: 30 patients, each put into one of five diagnoses by six psychiatrists.
DIAGNOSES = """
00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031
00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006
"""


def made(n=300, seed=0, judges=3, missing=0.2):
    """Labels of some judges who see the same truth, now and then something else, or nothing."""
    rng = random.Random(seed)
    truth = [rng.choice("aabc") for _ in range(n)]

    def one(label):
        if rng.random() < missing:
            return None
        return label if rng.random() < 0.7 else rng.choice("abc")

    return {f"j{i}": [one(label) for label in truth] for i in range(judges)}


def test_fleiss_kappa_is_that_of_the_paper():
    ratings = np.array([[int(digit) for digit in row] for row in DIAGNOSES.split()])
    assert ratings.sum(0).tolist() == [26, 26, 30, 55, 43]
    assert fleiss_kappa(ratings) == pytest.approx(0.430, abs=5e-4)


def test_fleiss_kappa_of_hand_made_tables():
    # two judges, two texts: equal once, and half of the labels of either class
    assert fleiss_kappa([[2, 0], [1, 1], [0, 2], [1, 1]]) == pytest.approx((0.5 - 0.5) / 0.5)
    assert fleiss_kappa([[3, 0], [0, 3]]) == 1.0
    assert fleiss_kappa([[3, 0], [3, 0]]) is None


def test_cohen_kappa_of_a_hand_made_table():
    # 0.7 are equal; by chance 0.5 · 0.6 + 0.5 · 0.4
    assert cohen_kappa([[20, 5], [10, 15]]) == pytest.approx((0.7 - 0.5) / 0.5)
    assert cohen_kappa([[7, 0], [0, 0]]) is None


def test_every_pair_has_the_kappa_of_sklearn_on_the_texts_that_both_label():
    judges = made()
    found = agreement(judges)
    assert [(pair.first, pair.second) for pair in found.pairs] == list(combinations(judges, 2))
    for pair in found.pairs:
        both = [
            (a, b) for a, b in zip(judges[pair.first], judges[pair.second], strict=True) if a and b
        ]
        first, second = zip(*both, strict=True)
        assert pair.kappa.n == pair.raw.n == len(both)
        assert pair.kappa.value == pytest.approx(cohen_kappa_score(first, second))
        assert pair.raw.value == pytest.approx(np.mean([a == b for a, b in both]))
        assert pair.kappa.low < pair.kappa.value < pair.kappa.high
        assert "bootstrap over texts" in pair.kappa.how


def test_fleiss_kappa_takes_the_texts_that_all_label():
    judges = made()
    complete = [row for row in zip(*judges.values(), strict=True) if None not in row]
    ratings = [[Counter(row)[name] for name in "abc"] for row in complete]
    found = agreement(judges)
    assert found.fleiss.n == len(complete) < found.n_texts == 300
    assert found.fleiss.value == pytest.approx(fleiss_kappa(ratings))
    equal = [np.mean([a == b for a, b in combinations(row, 2)]) for row in complete]
    assert found.raw.value == pytest.approx(np.mean(equal))
    assert found.labelled == {
        name: sum(label is not None for label in labels) for name, labels in judges.items()
    }


def test_texts_that_somebody_left_out_widen_no_interval():
    judges = made(missing=0.3)
    rows = [row for row in zip(*judges.values(), strict=True) if None not in row]
    complete = {
        name: list(labels) for name, labels in zip(judges, zip(*rows, strict=True), strict=True)
    }
    with_gaps, without = agreement(judges).fleiss, agreement(complete).fleiss
    assert with_gaps.value == pytest.approx(without.value)
    assert with_gaps.low == pytest.approx(without.low, abs=0.03)
    assert with_gaps.high == pytest.approx(without.high, abs=0.03)


def test_two_judges_of_equal_margins_have_one_kappa():
    judges = {"a": list("aabbab") * 5, "b": list("abbaab") * 5}
    found = agreement(judges)
    assert Counter(judges["a"]) == Counter(judges["b"])
    assert found.pairs[0].kappa.value == pytest.approx(found.fleiss.value)


def test_the_order_of_texts_changes_no_value():
    judges = made()
    order = list(range(300))
    random.Random(1).shuffle(order)
    shuffled = {name: [labels[i] for i in order] for name, labels in judges.items()}
    assert agreement(shuffled).to_json() == agreement(judges).to_json()


def test_the_interval_is_about_that_of_resampled_texts():
    judges = made(n=80, judges=2, missing=0)
    a, b = (np.array(labels) for labels in judges.values())
    rng = np.random.default_rng(5)
    draws = [rng.integers(0, 80, 80) for _ in range(1000)]
    low, high = np.quantile([cohen_kappa_score(a[i], b[i]) for i in draws], [0.025, 0.975])
    kappa = agreement(judges).pairs[0].kappa
    assert kappa.low == pytest.approx(low, abs=0.03)
    assert kappa.high == pytest.approx(high, abs=0.03)


def test_texts_of_a_document_are_resampled_together():
    judges = made(n=60, judges=2, missing=0)
    tenfold = {name: labels * 10 for name, labels in judges.items()}
    groups = [f"d{i}" for i in range(60)] * 10
    alone, copied = agreement(judges).pairs[0].kappa, agreement(tenfold, groups).pairs[0].kappa
    assert copied.value == pytest.approx(alone.value)
    assert "documents" in copied.how
    # ten copies of each text are no more evidence than one; taken as texts they would seem to be
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.1)
    naive = agreement(tenfold).pairs[0].kappa
    assert naive.high - naive.low < 0.5 * (alone.high - alone.low)


def test_resamples_draw_as_many_groups_as_there_are():
    table = LabelTable(made(n=50, judges=2))
    weights = np.concatenate(list(table._resamples()))
    assert weights.shape[0] == 2000
    assert (weights.sum(1) == 50).all()
    assert weights.mean(0) == pytest.approx(table.counts, rel=0.15)
    grouped = LabelTable(made(n=50, judges=2), groups=[i // 5 for i in range(50)])
    weights = np.concatenate(list(grouped._resamples()))
    assert (weights.sum(1) == 50).all()  # groups of five
    assert weights.mean(0) == pytest.approx(table.counts, rel=0.15)


def test_what_cannot_be_said_has_a_reason():
    same = agreement({"a": ["x"] * 5, "b": ["x"] * 5})
    assert same.fleiss.value is None
    assert "one class" in same.pairs[0].kappa.reason
    assert same.pairs[0].raw.value == 1.0
    apart = agreement({"a": ["x", None], "b": [None, "y"]})
    assert apart.pairs[0].kappa.value is None
    assert "no text" in apart.pairs[0].kappa.reason
    assert agreement({"a": ["x", "y"]}).fleiss.value is None
    assert agreement({"a": [], "b": []}).n_texts == 0


def test_judges_of_different_texts_are_refused():
    with pytest.raises(DataError, match="2 by 'a', 1 by 'b'"):
        agreement({"a": ["x", "y"], "b": ["x"]})
    with pytest.raises(DataError, match="the documents"):
        agreement({"a": ["x"], "b": ["x"]}, groups=["d", "e"])


@pytest.mark.parametrize(
    ("labels", "all_agree", "majority"),
    [
        (("a", "a", "a"), "a", "a"),
        (("a", "a", "b"), None, "a"),
        (("a", "b", None), None, None),  # a tie
        (("a", None, None), None, "a"),
        (("a", "a", None), None, "a"),
        (("a", "b", "c"), None, None),
        ((None, None, None), None, None),
        (("b", "a", "a"), None, "a"),
    ],
)
def test_consensus_needs_all_or_more_than_half(labels, all_agree, majority):
    judges = {str(i): [label] for i, label in enumerate(labels)}
    assert consensus(judges, "all") == [all_agree]
    assert consensus(judges, "majority") == [majority]


def test_two_of_four_with_two_others_are_no_majority():
    assert consensus({str(i): [label] for i, label in enumerate("aabc")}) == [None]
    with pytest.raises(ConfigError, match="all or majority"):
        consensus({"a": ["x"]}, "most")
