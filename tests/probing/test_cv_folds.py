"""Folds that keep documents whole, and the shuffles of labels that leave folds as likely as they were."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from saebench.errors import DataError
from saebench.probing.cv_folds import Folds, draw_folds

HALF = np.arange(40) % 2 == 0


def folds_of(labels, documents=None, n_folds=5, n_repeats=3, seed=0) -> Folds:
    return draw_folds(
        np.asarray(labels), documents, n_folds=n_folds, n_repeats=n_repeats, seed=seed
    )


def test_every_text_is_tested_once_in_each_repeat_and_never_trained_on_there():
    folds = folds_of(HALF)
    for repeat in range(3):
        tested = [test for _, test in folds.splits(repeat)]
        assert sorted(np.concatenate(tested)) == list(range(40))
        for train, test in folds.splits(repeat):
            assert sorted([*train, *test]) == list(range(40))


def test_every_fold_has_its_share_of_both_classes():
    labels = np.arange(53) % 3 == 0
    for _, test in folds_of(labels).splits(0):
        assert abs(labels[test].sum() - labels.sum() / 5) < 1
        assert abs((~labels[test]).sum() - (~labels).sum() / 5) < 1


def test_folds_are_those_of_scikit_learn_on_texts_sorted_by_class():
    labels = np.sort(np.arange(23) % 3 == 0)
    folds = folds_of(labels, seed=4)
    seeds = np.random.SeedSequence(4).generate_state(3)
    for repeat, seed in enumerate(seeds.tolist()):
        dividing = StratifiedKFold(5, shuffle=True, random_state=seed)
        for ours, theirs in zip(folds.splits(repeat), dividing.split(labels, labels), strict=True):
            np.testing.assert_array_equal(ours[1], theirs[1])


def test_repeats_and_seeds_divide_differently_and_the_same_seed_alike():
    folds = folds_of(HALF)
    assert not np.array_equal(folds.of_text[0], folds.of_text[1])
    assert not np.array_equal(folds.of_text[0], folds_of(HALF, seed=1).of_text[0])
    np.testing.assert_array_equal(folds.of_text, folds_of(HALF).of_text)


@pytest.mark.parametrize("mixed", [False, True])
def test_no_document_is_on_both_sides(mixed):
    documents = np.repeat(np.arange(20), 3)[np.random.default_rng(0).permutation(60)]
    labels = documents % 2 == 0
    if mixed:
        labels = np.random.default_rng(1).random(60) < 0.5
    folds = folds_of(labels, documents)
    assert folds.mixed is mixed
    for repeat in range(3):
        for train, test in folds.splits(repeat):
            assert not set(documents[train]) & set(documents[test])


def test_documents_of_both_classes_are_divided_as_scikit_learn_does():
    rng = np.random.default_rng(3)
    documents, labels = rng.integers(0, 15, 60), rng.random(60) < 0.4
    seed = int(np.random.SeedSequence(0).generate_state(3)[0])
    dividing = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    splits = dividing.split(labels, labels, documents)
    for ours, theirs in zip(folds_of(labels, documents).splits(0), splits, strict=True):
        np.testing.assert_array_equal(ours[1], theirs[1])


def test_which_class_comes_first_does_not_decide_the_sizes_of_folds():
    labels = np.array([True] * 8 + [False] * 11)
    found = [
        Counter(map(int, folds_of(one, n_repeats=1).of_text[0][one]))
        for one in (labels, labels[::-1])
    ]
    assert found[0] == found[1]


def test_shuffles_keep_the_classes_of_every_fold():
    labels = np.arange(53) % 3 == 0
    folds = folds_of(labels)
    shuffled = folds.shuffled(50)
    assert shuffled.shape == (50, 53)
    for _, test in folds.splits(0):
        np.testing.assert_array_equal(shuffled[:, test].sum(axis=1), labels[test].sum())
    assert len(np.unique(shuffled, axis=0)) == 50


def test_the_first_shuffles_do_not_depend_on_how_many_there_are():
    rng = np.random.default_rng(0)
    documents = rng.integers(0, 20, 60)
    for labels in (documents % 2 == 0, rng.random(60) < 0.5):
        folds = folds_of(labels, documents)
        np.testing.assert_array_equal(folds.shuffled(30)[:7], folds.shuffled(7))


def test_documents_of_one_class_move_as_one():
    documents = np.random.default_rng(0).integers(0, 20, 60)
    labels = documents % 2 == 0
    folds = folds_of(labels, documents)
    for shuffled in folds.shuffled(50):
        classes = {number: set(shuffled[documents == number]) for number in set(documents)}
        assert all(len(found) == 1 for found in classes.values())
        for _, test in folds.splits(0):
            units, firsts = np.unique(documents[test], return_index=True)
            assert len(units) == len(firsts)
            assert shuffled[test][firsts].sum() == labels[test][firsts].sum()


def test_labels_move_within_documents_of_both_classes_and_between_those_of_one_size():
    documents = np.repeat(np.arange(12), [2] * 6 + [3] * 6)
    labels = np.random.default_rng(5).random(30) < 0.5
    folds = folds_of(labels, documents, n_folds=3)
    assert folds.mixed
    moved = set()
    for shuffled in folds.shuffled(200):
        for _, test in folds.splits(0):
            for size in (2, 3):
                here = [d for d in set(documents[test]) if (documents == d).sum() == size]
                counts = [
                    sorted(int(one[documents == d].sum()) for d in here)
                    for one in (labels, shuffled)
                ]
                assert counts[0] == counts[1]
        moved |= {
            d for d in range(12) if shuffled[documents == d].sum() != labels[documents == d].sum()
        }
    assert moved  # a document may have another number of positive texts than it had


@pytest.mark.parametrize("mixed", [False, True])
def test_shuffles_reach_every_arrangement_equally_often(mixed):
    documents = np.repeat(np.arange(4), 2) if mixed else None
    labels = np.array([1, 0, 1, 1, 0, 0, 1, 0] if mixed else [1, 0, 1, 0, 1, 0, 0, 0], dtype=bool)
    folds = folds_of(labels, documents, n_folds=2, n_repeats=1)
    counts = Counter(map(bytes, folds.shuffled(6000)))
    assert len(counts) == round(folds.n_arrangements)
    expected = 6000 / len(counts)
    chi = sum((n - expected) ** 2 / expected for n in counts.values())
    assert chi < len(counts) + 5 * np.sqrt(2 * len(counts))


def test_one_class_only_is_refused_with_what_to_check():
    with pytest.raises(DataError, match=r"two classes.*all of 9 texts are of one.*label ="):
        folds_of(np.ones(9, dtype=bool))


def test_fewer_texts_of_a_class_than_folds_are_refused_with_the_number_that_fits():
    labels = np.arange(30) < 3
    with pytest.raises(DataError, match=r"5 folds: 3 texts of the rarer class\. Set folds = 3"):
        folds_of(labels)
    assert folds_of(labels, n_folds=3).n_folds == 3


def test_documents_count_where_they_are_what_is_divided():
    documents = np.repeat(np.arange(8), 10)
    labels = documents < 3
    with pytest.raises(DataError, match="3 documents of the rarer class"):
        folds_of(labels, documents)


def test_a_document_that_holds_all_texts_of_a_class_is_refused():
    documents = np.array([0] * 6 + list(range(1, 15)))
    labels = np.array([True] * 5 + [False] * 15)
    with pytest.raises(DataError, match="both classes among the texts outside"):
        folds_of(labels, documents)
