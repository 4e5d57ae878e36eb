"""Halves of the texts: naive statistics of each, chance overlap without an effect, a planted winner."""

import tracemalloc

import numpy as np
import pytest
from scipy import sparse

from saebench.concepts import Columns, Exchange, halves, stability
from saebench.concepts.halves import _in_halves
from tests.concepts.matrices import both_kinds, labels_of, naive_d, sparse_rows


def halved(x, labels, k=5, n_splits=60, seed=0, documents=None):
    exchange = Exchange.of(labels, documents)
    return stability(Columns.of(x), exchange, labels, k=k, n_splits=n_splits, seed=seed)


def test_d_in_each_half_is_that_of_its_texts_alone():
    x, labels = sparse_rows(50, 20, 0.5), labels_of(50, 20)
    first = Exchange.of(labels).halves(np.repeat(labels[:, None], 4, axis=1), seed=0)
    for rows in both_kinds(x):
        d = _in_halves(Columns.of(rows), first, np.repeat(labels[:, None], 4, axis=1))
        for split in range(4):
            for half, found in (
                (first[:, split], d[:, split]),
                (~first[:, split], d[:, 4 + split]),
            ):
                np.testing.assert_allclose(found, naive_d(x[half], labels[half]), atol=1e-5)


def test_permuted_labels_are_halved_by_themselves():
    x, labels = sparse_rows(40, 10, 0.6), labels_of(40, 16)
    exchange = Exchange.of(labels)
    drawn = exchange.permutations(3, seed=1)
    first = exchange.halves(drawn, seed=0)
    d = _in_halves(Columns.of(x), first, drawn)
    for split in range(3):
        half, side = ~first[:, split], drawn[:, split]
        np.testing.assert_allclose(d[:, 3 + split], naive_d(x[half], side[half]), atol=1e-5)


def test_without_an_effect_the_overlap_is_that_of_chance():
    overlaps, shuffled = [], []
    for seed in range(20):
        x = np.random.default_rng(seed).normal(size=(60, 100))
        found = halved(x, labels_of(60, 30, seed), k=10, seed=seed)
        assert found.chance == 0.1
        overlaps.append(found.overlap.mean())
        shuffled.append(found.shuffled_overlap.mean())
    assert np.mean(shuffled) == pytest.approx(0.1, abs=0.02)
    assert np.mean(overlaps) == pytest.approx(0.1, abs=0.05)


def test_planted_columns_come_back_in_both_halves_and_the_strongest_wins():
    x, labels = sparse_rows(120, 60, 0.4), labels_of(120, 60)
    x[:, 3] += 3 * labels
    x[:, 11] -= 1.5 * labels
    found = halved(sparse.csr_array(x), labels, k=2)
    assert found.overlap.mean() > 0.9
    assert found.agreement == found.wins(3) == 1.0
    assert found.to_json()["winners"][0] == {"column": 3, "share": 1.0}
    assert found.shuffled_overlap.mean() < 0.2


def test_the_winner_of_a_half_shrinks_on_the_other_where_nothing_is_there():
    x = np.random.default_rng(0).normal(size=(60, 200))
    found = halved(x, labels_of(60, 30))
    assert found.d_max.mean() > 1
    assert abs(found.transferred.mean()) < 0.3


def test_the_direction_of_a_half_is_kept_on_the_other():
    x, labels = sparse_rows(80, 20, 0.5), labels_of(80, 40)
    x[:, 4] -= 3 * labels
    found = halved(x, labels)
    assert found.transferred.mean() > 1


def test_splits_taken_in_blocks_give_what_all_at_once_give(monkeypatch):
    x, labels = sparse_rows(60, 40, 0.5), labels_of(60, 30)
    whole = halved(sparse.csr_array(x), labels, n_splits=7)
    monkeypatch.setattr(halves, "AT_ONCE", 2 * 40 * 3)
    parts = halved(sparse.csr_array(x), labels, n_splits=7)
    for name in ("overlap", "d_max", "winner", "transferred", "shuffled_overlap", "shuffled_d_max"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name), err_msg=name)


def test_memory_does_not_grow_with_latents_times_splits(monkeypatch):
    x = sparse.random_array((40, 2000), density=0.2, rng=np.random.default_rng(0), format="csr")
    columns, labels = Columns.of(x), labels_of(40, 20)
    monkeypatch.setattr(halves, "AT_ONCE", 2**15, raising=False)
    exchange = Exchange.of(labels)
    tracemalloc.start()
    stability(columns, exchange, labels, k=5, n_splits=600, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2000 * 2 * 600 * 4  # what d of all splits alone would take


def test_too_few_texts_of_a_class_cannot_be_halved():
    assert halved(sparse_rows(20, 8, 0.6), labels_of(20, 3)) is None
    assert halved(sparse_rows(20, 8, 0.6), labels_of(20, 4)) is not None


def test_more_asked_for_than_there_are_columns_takes_them_all():
    found = halved(sparse_rows(20, 4, 0.9), labels_of(20, 8), k=50)
    assert (found.k, found.chance, found.overlap.min()) == (4, 1.0, 1.0)
