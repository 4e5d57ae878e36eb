"""What trades labels with what, and what is drawn or halved whole."""

import math

import numpy as np
import pytest

from saebench.concepts import Exchange
from tests.concepts.matrices import labels_of


def test_without_documents_texts_trade_labels():
    exchange = Exchange.of(labels_of(40, 15))
    drawn = exchange.permutations(200, seed=3)
    assert exchange.kind == "texts"
    assert drawn.shape == (40, 200)
    assert (drawn.sum(0) == 15).all()
    assert exchange.smallest_p(200) == 1 / 201


def test_documents_of_one_label_trade_whole():
    documents = np.repeat(np.arange(30), [1, 2, 3] * 10)
    labels = labels_of(30, 12)[documents]
    exchange = Exchange.of(labels, documents)
    drawn = exchange.permutations(100, seed=0)
    assert exchange.kind == "documents"
    by_document = np.array([drawn[documents == d].any(0) for d in range(30)])
    for d in range(30):
        assert (drawn[documents == d] == by_document[d]).all()
    assert (by_document.sum(0) == 12).all()


def test_texts_whose_labels_vary_within_documents_trade_there_alone():
    documents = np.random.default_rng(0).permutation(np.repeat(np.arange(12), 4))
    labels = labels_of(48, 20, seed=1)
    exchange = Exchange.of(labels, documents)
    drawn = exchange.permutations(100, seed=0)
    assert exchange.kind == "texts within documents"
    for d in range(12):
        assert (drawn[documents == d].sum(0) == labels[documents == d].sum()).all()
    assert (drawn != labels[:, None]).any()


def test_documents_of_one_text_each_are_texts():
    assert Exchange.of(labels_of(9, 4), np.arange(9)[::-1]).kind == "texts"


def test_few_arrangements_are_gone_through_all_but_the_actual_one():
    labels = labels_of(9, 4)
    exchange = Exchange.of(labels)
    every = exchange.permutations(1000, seed=0)
    assert exchange.is_exact
    assert every.shape[1] == math.comb(9, 4) - 1
    assert len({tuple(column) for column in every.T}) == every.shape[1]
    assert (every.sum(0) == 4).all()
    assert not (every == labels[:, None]).all(0).any()


def test_few_arrangements_within_documents_are_their_product():
    documents, labels = np.repeat([0, 1, 2], 3), np.tile([True, False, False], 3)
    exchange = Exchange.of(labels, documents)
    every = exchange.permutations(10, seed=0)
    assert every.shape[1] == 3**3 - 1
    assert (every.reshape(3, 3, -1).sum(1) == 1).all()


@pytest.mark.parametrize(
    ("n", "n1", "least"), [(4, 2, 1 / 3), (6, 3, 0.1), (8, 4, 1 / 35), (5, 2, 1 / 10)]
)
def test_the_smallest_p_of_few_texts_is_that_of_the_counted_arrangements(n, n1, least):
    assert Exchange.of(np.arange(n) < n1).smallest_p(1000) == pytest.approx(least)


def test_every_arrangement_is_as_likely():
    exchange = Exchange.of(labels_of(60, 20))
    drawn = exchange.permutations(3000, seed=1)
    share = drawn.mean(1)
    assert abs(share - 1 / 3).max() < 5 * math.sqrt(2 / 9 / 3000)


def test_resamples_keep_the_size_of_each_class_and_documents_whole():
    documents = np.repeat(np.arange(20), 2)
    labels = (np.arange(20) < 8)[documents]
    weights = np.concatenate(list(Exchange.of(labels, documents).resamples(600, seed=0)))
    assert weights.shape == (600, 40)
    assert (weights[:, ::2] == weights[:, 1::2]).all()
    assert (weights[:, labels].sum(1) == 16).all()
    assert (weights[:, ~labels].sum(1) == 24).all()


def test_halves_share_no_document_and_halve_each_class():
    documents = np.repeat(np.arange(21), 2)
    labels = (np.arange(21) < 9)[documents]
    exchange = Exchange.of(labels, documents)
    first = exchange.halves(np.repeat(labels[:, None], 300, axis=1), seed=0)
    assert (first[::2] == first[1::2]).all()
    positive = first[labels].sum(0) / 2
    assert set(positive.tolist()) == {4, 5}  # a coin for the odd one
    assert (first[~labels].sum(0) == 12).all()
    assert abs(first.mean(1) - 0.5).max() < 0.15


def test_halves_of_mixed_documents_keep_them_whole():
    documents = np.repeat(np.arange(10), 3)
    labels = np.tile([True, False, True], 10)
    exchange = Exchange.of(labels, documents)
    first = exchange.halves(np.repeat(labels[:, None], 50, axis=1), seed=0)
    assert (first.reshape(10, 3, -1).std(1) == 0).all()
    assert (first.sum(0) == 15).all()
