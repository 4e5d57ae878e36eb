"""Statistics of ids against plain loops and closed forms."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy

from saebench.errors import ConfigError, DataError
from saebench.generation import statistics
from saebench.generation.hashed import HashSample, sequence_hash, window_hashes
from saebench.generation.statistics import describe_ids, entropy, unigram_distances

VOCAB = 7
SEQUENCES = st.lists(
    st.lists(st.integers(0, VOCAB - 1), max_size=9).map(np.array), min_size=1, max_size=12
).filter(lambda rows: any(len(row) for row in rows))


def naive(rows, window, eos_id):
    """The same numbers by counting things one after another."""
    rows = [tuple(int(token) for token in row) for row in rows if len(row)]
    copies = Counter(rows)
    windows = [row[i : i + window] for row in rows for i in range(len(row) - window + 1)]
    tokens = [token for row in rows for token in row]
    return {
        "n_sequences": len(rows),
        "n_tokens": len(tokens),
        "mean_length": len(tokens) / len(rows),
        "eos_share": sum(row[-1] == eos_id for row in rows) / len(rows),
        "unique_share": len(copies) / len(rows),
        "duplicate_share": sum(copies[row] > 1 for row in rows) / len(rows),
        "n_windows": len(windows),
        "window_duplicate_share": 1 - len(set(windows)) / len(windows) if windows else None,
        "n_distinct": len(set(tokens)),
        "vocabulary_share": len(set(tokens)) / VOCAB,
        "entropy": scipy_entropy(list(Counter(tokens).values()), base=2),
        "first_entropy": scipy_entropy(list(Counter(r[0] for r in rows).values()), base=2),
        "first_distinct_share": len({row[0] for row in rows}) / len(rows),
    }


@settings(max_examples=60, deadline=None)
@given(SEQUENCES, st.integers(1, 5))
def test_every_statistic_is_that_of_counting_one_by_one(rows, window):
    found = describe_ids(rows, vocab_size=VOCAB, eos_id=1, window=window).to_json()
    for name, value in naive(rows, window, 1).items():
        assert found[name] == (None if value is None else pytest.approx(value, abs=1e-12)), name


def test_order_and_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 5, size=rng.integers(1, 30)) for _ in range(200)]
    whole = describe_ids(rows, vocab_size=5, window=4)
    monkeypatch.setattr(statistics, "_CHUNK_TOKENS", 50)
    assert describe_ids(iter(rows[::-1]), vocab_size=5, window=4) == whole


def test_a_text_twice_is_all_duplicates():
    rows = [np.arange(i, i + 20) for i in range(0, 200, 20)]
    once, twice = (describe_ids(text, vocab_size=200) for text in (rows, rows * 2))
    assert (once.unique_share, once.duplicate_share, once.window_duplicate_share) == (1, 0, 0)
    assert (twice.unique_share, twice.duplicate_share) == (0.5, 1)
    assert twice.window_duplicate_share == 0.5


def test_sequences_shorter_than_the_window_have_no_window():
    found = describe_ids([np.arange(12)] * 3, vocab_size=12)
    assert (found.n_windows, found.window_duplicate_share) == (0, None)
    found = describe_ids([np.arange(13)] * 3, vocab_size=13)
    assert (found.n_windows, found.window_duplicate_share) == (3, pytest.approx(2 / 3))


def test_without_an_eos_there_is_no_share_of_it():
    assert describe_ids([np.array([1])], vocab_size=2).eos_share is None


@pytest.mark.parametrize(
    ("rows", "error"),
    [([], DataError), ([np.array([])], DataError), ([np.array([7])], DataError)],
)
def test_no_text_and_foreign_ids_are_refused(rows, error):
    with pytest.raises(error):
        describe_ids(rows, vocab_size=VOCAB)


def test_a_window_of_nothing_is_refused():
    with pytest.raises(ConfigError):
        describe_ids([np.array([1])], vocab_size=2, window=0)


def test_distances_are_those_of_scipy():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 20, 50), rng.integers(0, 20, 50)
    a[:5] = b[3:8] = 0
    p, q = a / a.sum(), b / b.sum()
    found = unigram_distances(a, b)
    assert found.total_variation == pytest.approx(0.5 * np.abs(p - q).sum())
    assert found.jensen_shannon == pytest.approx(jensenshannon(p, q, base=2) ** 2)
    assert found.kl == pytest.approx(scipy_entropy(a + 1, b + 1, base=2))


def test_distances_of_equal_and_of_disjoint_texts():
    same = unigram_distances(np.array([2, 4]), np.array([2, 4]))
    assert (same.total_variation, same.jensen_shannon, same.kl) == (0, 0, 0)
    apart = unigram_distances(np.array([4, 0]), np.array([0, 4]))
    assert (apart.total_variation, apart.jensen_shannon) == (1, 1)
    assert apart.kl == pytest.approx(5 / 6 * math.log2(5) - 1 / 6 * math.log2(5))


def test_distances_ask_for_one_vocabulary_and_some_text():
    with pytest.raises(DataError):
        unigram_distances(np.array([1, 2]), np.array([1, 2, 3]))
    with pytest.raises(DataError):
        unigram_distances(np.array([0, 0]), np.array([1, 2]))


def test_entropy_of_one_token_is_zero_and_of_four_equal_ones_two_bits():
    assert entropy(np.array([5, 0])) == 0
    assert entropy(np.array([3, 3, 3, 3])) == 2


def test_above_its_limit_a_sample_estimates_the_same_shares():
    rng = np.random.default_rng(2)
    things = rng.integers(0, 2**64, size=20_000, dtype=np.uint64)
    drawn = rng.choice(things, size=100_000)
    exact, bounded = HashSample(), HashSample(limit=2_000)
    for part in np.array_split(drawn, 37):
        exact.add(part)
        bounded.add(part)
    assert exact.share == 1
    assert bounded.share < 1 / 16
    kept = bounded.counts()
    assert kept.sum() <= 2_000
    ratio = [len(counts) / counts.sum() for counts in (exact.counts(), kept)]
    assert ratio[1] == pytest.approx(ratio[0], rel=0.1)
    assert len(kept) / bounded.share == pytest.approx(len(exact.counts()), rel=0.25)


def test_a_bounded_description_says_of_what_share_it_is():
    rows = [np.array([i % 300, i % 7]) for i in range(3000)]
    found = describe_ids(rows, vocab_size=300, window=2, limit=500)
    assert found.hashed_share < 1
    assert found.window_hashed_share < 1


def test_hashes_tell_windows_and_sequences_apart():
    ids = np.array([1, 2, 1, 2, 1, 0, 1, 2])
    one = window_hashes(ids, np.zeros(8, dtype=int), 2)
    assert one[0] == one[2] == one[6]
    assert len(set(one.tolist())) == 4  # 12, 21, 10, 01
    two = window_hashes(ids, np.array([0, 0, 1, 1, 1, 1, 1, 1]), 2)
    assert two.tolist() == np.delete(one, 1).tolist()
    assert sequence_hash(np.array([1, 2])) == sequence_hash(np.array([1, 2], dtype=np.int32))
    assert sequence_hash(np.array([1, 2])) != sequence_hash(np.array([2, 1]))
