import numpy as np
import pytest

from saebench.data import shuffled_stream, stream_from_ids
from saebench.errors import DataError
from tests.data.words import counted_of, rows_of

WITHIN = ["sequence", "corpus"]
ROWS = [[90, *range(10 * i, 10 * i + 9)] for i in range(8)]


def text(rows=ROWS, **more):
    return stream_from_ids(rows, mask="bos", bos_id=90, **more)


class TestShuffled:
    def test_within_sequences_each_keeps_its_own_tokens_in_another_order(self):
        rows = rows_of(shuffled_stream(text()))
        assert [sorted(row) for row in rows] == [sorted(row) for row in ROWS]
        assert all(row[1:] != before[1:] for row, before in zip(rows, ROWS, strict=True))
        orders = {tuple(np.argsort(row[1:])) for row in rows}
        assert len(orders) > 1  # every sequence has an order of its own

    def test_within_the_corpus_tokens_change_sequences_and_none_is_lost(self):
        rows = rows_of(shuffled_stream(text(), within="corpus"))
        assert sorted(np.concatenate(rows)) == sorted(np.concatenate(ROWS))
        assert any(sorted(row) != sorted(before) for row, before in zip(rows, ROWS, strict=True))

    @pytest.mark.parametrize("within", WITHIN)
    def test_uncounted_positions_stay_and_go_on_not_counting(self, within):
        rows = [[90, 1, 2, 90, 3, 4], [5, 90, 6, 7], [90, 8]]
        stream = shuffled_stream(text(rows), within=within, seed=2)
        shuffled = rows_of(stream)
        assert counted_of(stream) == counted_of(text(rows))
        for row, before in zip(shuffled, rows, strict=True):
            assert [x == 90 for x in row] == [x == 90 for x in before]

    @pytest.mark.parametrize("within", WITHIN)
    def test_a_separator_that_counts_may_move_and_counts_where_it_goes(self, within):
        # BOS that is also EOS counts past position 0, so it takes part
        counting = {"mask": "bos", "bos_id": 90}
        stream = stream_from_ids([[1, 2, 3, 90, 4, 5]] * 20, **counting)
        shuffled = shuffled_stream(stream, within=within)
        assert counted_of(shuffled) == counted_of(stream)

    @pytest.mark.parametrize("within", WITHIN)
    def test_every_reading_is_the_same_whatever_the_batch_size(self, within):
        stream = shuffled_stream(text(), within=within, seed=5)
        assert rows_of(stream, 1) == rows_of(stream, 3) == rows_of(stream, 100)
        assert stream.digest == shuffled_stream(text(), within=within, seed=5).digest
        assert stream.digest != shuffled_stream(text(), within=within, seed=6).digest

    def test_a_sequence_does_not_depend_on_how_many_follow(self):
        assert rows_of(shuffled_stream(text(n_sequences=3))) == rows_of(shuffled_stream(text()))[:3]

    def test_it_says_what_was_shuffled_and_how(self):
        described = shuffled_stream(text(spec="a.txt"), seed=3, within="corpus").describe()
        assert (described["random_seed"], described["within"]) == (3, "corpus")
        assert described["of"]["spec"] == "a.txt"
        assert described["mask"] == "bos"

    def test_an_unknown_scope_and_a_negative_seed_are_refused(self):
        with pytest.raises(DataError, match="sequence, corpus"):
            shuffled_stream(text(), within="document")
        with pytest.raises(DataError, match="seed -1"):
            shuffled_stream(text(), seed=-1)
