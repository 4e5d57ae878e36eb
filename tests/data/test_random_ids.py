from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import chisquare

from saebench.data import random_stream, stream_from_ids, unigram_probabilities
from saebench.errors import DataError
from tests.data.words import counted_of, rows_of, word_tokenizer

VOCAB = 16  # two ids beyond the tokenizer's 14


def drawn(tokenizer, n_sequences=5, *, length=8, vocab_size=VOCAB, **more):
    return random_stream(
        tokenizer, vocab_size=vocab_size, length=length, n_sequences=n_sequences, **more
    )


def counted_ids(stream):
    return np.concatenate([batch.ids[batch.counted].numpy() for batch in stream.batches(64)])


class TestReproducible:
    @pytest.mark.parametrize("probabilities", [None, np.arange(VOCAB) / np.arange(VOCAB).sum()])
    def test_sequence_i_is_the_same_however_many_are_drawn_and_in_whatever_batches(
        self, full, probabilities
    ):
        few = rows_of(drawn(full, 3, probabilities=probabilities, seed=4))
        many = drawn(full, 150, probabilities=probabilities, seed=4)
        assert rows_of(many, 1) == rows_of(many, 7) == rows_of(many, 1000)
        assert rows_of(many)[:3] == few
        assert len({tuple(row) for row in rows_of(many)}) == 150  # blocks do not repeat

    def test_another_seed_draws_others(self, full):
        assert drawn(full, seed=0).digest == drawn(full, seed=0).digest
        assert drawn(full, seed=0).digest != drawn(full, seed=1).digest

    def test_tokens_bound_whole_sequences(self, full):
        stream = random_stream(full, vocab_size=VOCAB, length=8, n_tokens=17)
        assert (stream.tally().n_sequences, stream.n_tokens) == (3, 24)
        assert rows_of(stream) == rows_of(drawn(full, 3))

    def test_it_describes_what_is_needed_to_repeat_it(self, full):
        described = drawn(full, seed=3, special=False).describe()
        kept = ("ids", "random_seed", "special", "bos", "vocab_size", "context_size", "mask")
        assert [described[key] for key in kept] == (
            ["uniform", 3, False, True, VOCAB, 8, "all but position 0"]
        )
        assert described["limits"] == {"n_sequences": 5, "n_tokens": None}
        p = np.eye(VOCAB)[3]
        other = drawn(full, probabilities=np.eye(VOCAB)[4]).describe()["probabilities"]
        assert drawn(full, probabilities=p).describe()["probabilities"] not in (None, other)


class TestCounted:
    def test_bos_is_in_front_and_not_counted_and_all_others_count(self, full):
        stream = drawn(full, 200)
        rows = np.array(rows_of(stream))
        assert (rows[:, 0] == full.bos_token_id).all()
        assert np.isin(full.all_special_ids, rows[:, 1:]).all()  # special ones are drawn too
        assert counted_of(stream) == [[False] + [True] * 7] * 200

    def test_without_bos_every_position_counts(self, full):
        assert counted_of(drawn(full, 4, bos=False)) == [[True] * 8] * 4
        bare = drawn(word_tokenizer(), 4)
        assert counted_of(bare) == [[True] * 8] * 4
        assert bare.source["bos"] is False
        assert len(set(np.array(rows_of(drawn(full, 50, bos=False)))[:, 0])) > 2


class TestDistribution:
    def test_uniform_ids_are_uniform_over_the_size_given(self, full):
        ids = counted_ids(drawn(full, 2000, seed=1))
        counts = np.bincount(ids, minlength=VOCAB)
        assert len(counts) == VOCAB
        assert chisquare(counts).pvalue > 1e-4

    @pytest.mark.parametrize("probabilities", [None, np.full(VOCAB, 1 / VOCAB)])
    def test_special_ids_can_be_left_out(self, full, probabilities):
        ids = counted_ids(drawn(full, 2000, special=False, probabilities=probabilities))
        allowed = np.setdiff1d(np.arange(VOCAB), full.all_special_ids)
        assert set(ids) == set(allowed.tolist())
        assert chisquare(np.bincount(ids, minlength=VOCAB)[allowed]).pvalue > 1e-4

    def test_ids_follow_the_probabilities_and_those_of_none_are_never_drawn(self, full):
        p = np.array([0, 8, 0, 4, 2, 1, 1, *[0] * 9]) / 16
        counts = np.bincount(counted_ids(drawn(full, 2000, probabilities=p)), minlength=VOCAB)
        assert not counts[p == 0].any()
        assert chisquare(counts[p > 0], p[p > 0] * counts.sum()).pvalue > 1e-4

    def test_positions_of_a_sequence_are_independent(self, full):
        rows = np.array(rows_of(drawn(full, 3000)))[:, 1:]
        for first, second in pairwise(rows.T):
            assert abs(np.corrcoef(first, second)[0, 1]) < 0.1


class TestUnigramProbabilities:
    def test_are_the_shares_of_counted_tokens(self):
        stream = stream_from_ids([[9, 1, 1, 2], [9, 1, 3]], mask="special", special_ids=[9])
        assert unigram_probabilities(stream, 12).tolist() == [0, 3 / 5, 1 / 5, 1 / 5, *[0] * 8]

    def test_ids_beyond_the_vocabulary_are_left_out_of_the_count(self):
        # 2**40 as well: what is left out takes no memory
        stream = stream_from_ids([[1, 7, 2, 1], [2**40, 6]])
        assert unigram_probabilities(stream, 7).tolist() == [0, 2 / 4, 1 / 4, 0, 0, 0, 1 / 4]

    def test_a_text_of_padding_ids_alone_is_refused(self):
        with pytest.raises(DataError, match="ids below 7"):
            unigram_probabilities(stream_from_ids([[7, 8]]), 7)

    def test_a_text_of_which_nothing_counts_is_refused(self):
        stream = stream_from_ids([[9, 9]], mask="special", special_ids=[9])
        with pytest.raises(DataError, match="no token of it counts"):
            unigram_probabilities(stream, 12)


class TestBadInput:
    def test_no_end_is_refused(self, full):
        with pytest.raises(DataError, match="n_sequences nor n_tokens"):
            random_stream(full, vocab_size=VOCAB, length=8)

    @pytest.mark.parametrize(
        ("p", "said"),
        [
            (np.ones(3) / 3, "array \\[3\\]"),
            (np.full(VOCAB, -1.0), "least of it -1"),
            (np.full(VOCAB, np.nan), "least of it nan"),
            (np.full(VOCAB, 1.0), "sum of 16"),
        ],
    )
    def test_what_are_no_probabilities_is_refused(self, full, p, said):
        with pytest.raises(DataError, match=said):
            drawn(full, probabilities=p)

    def test_a_vocabulary_of_special_ids_only_is_refused(self, full):
        p = np.eye(VOCAB)[full.bos_token_id]
        with pytest.raises(DataError, match="none may be drawn"):
            drawn(full, probabilities=p, special=False)

    def test_a_negative_seed_and_a_length_of_one_are_refused(self, full):
        with pytest.raises(DataError, match="seed -1"):
            drawn(full, seed=-1)
        with pytest.raises(DataError, match="2 or more"):
            drawn(full, length=1)
