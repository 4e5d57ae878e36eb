import json
import tracemalloc

import pytest
import torch

from saebench.data import open_stream, stream_from_ids
from saebench.errors import DataError
from tests.data.words import PAD, counted_of, rows_of, word_tokenizer


class TestPacking:
    def test_documents_are_joined_by_eos_and_each_sequence_starts_with_bos(self, full, texts):
        spec = texts("one two three", "four five", "six seven eight")
        stream = open_stream(spec, full, context_size=4)
        # the stream 1 2 3 E 4 5 E 6 7 8, in threes; the last 8 is dropped
        assert rows_of(stream) == [[10, 1, 2, 3], [10, 11, 4, 5], [10, 11, 6, 7]]

    def test_without_bos_or_eos_in_the_tokenizer_none_is_put_in(self, texts):
        stream = open_stream(
            texts("one two three", "four five"), word_tokenizer(pad_token=PAD), context_size=2
        )
        assert rows_of(stream) == [[1, 2], [3, 4]]
        assert stream.source["bos"] is stream.source["eos_between_documents"] is False

    def test_bos_can_be_left_out_and_that_is_recorded(self, full, texts):
        stream = open_stream(texts("one two three four"), full, context_size=2, prepend_bos=False)
        assert rows_of(stream) == [[1, 2], [3, 4]]
        assert stream.source["bos"] is False

    def test_the_incomplete_rest_is_kept_where_it_is_all_there_is(self, full, texts):
        assert rows_of(open_stream(texts("one two"), full, context_size=9)) == [[10, 1, 2]]

    def test_empty_documents_leave_no_trace(self, full, texts):
        with_empty = open_stream(texts("one two", "", "three"), full, context_size=3)
        without = open_stream(texts("one two", "three", name="b.jsonl"), full, context_size=3)
        assert rows_of(with_empty) == rows_of(without)

    def test_token_ids_in_a_column_are_taken_as_they_are(self, full, texts):
        spec = texts([10, 1, 2, 11], [10, 3, 4], column="input_ids")
        assert rows_of(open_stream(spec, full, context_size=3)) == [[10, 1, 2], [10, 11, 3]]

    def test_blocks_of_one_long_text_are_not_separated(self, full, tmp_path, monkeypatch):
        monkeypatch.setattr("saebench.data.documents.BLOCK_CHARS", 20)
        (tmp_path / "a.txt").write_text("one two three four\nfive six seven eight\nnine zero\n")
        assert rows_of(open_stream(str(tmp_path), full, context_size=6)) == [
            [10, 1, 2, 3, 4, 5],
            [10, 6, 7, 8, 9, 0],
        ]


class TestOnePerDocument:
    def test_documents_are_cut_and_padding_is_known_by_the_mask_alone(self, gpt2_like, texts):
        spec = texts("one two three four", "five", "six <eos>")
        stream = open_stream(spec, gpt2_like, context_size=4, pack=False, mask="none")
        (batch,) = stream.batches(8)
        assert batch.ids.tolist() == [[11, 1, 2, 3], [11, 5, 11, 11], [11, 6, 11, 11]]
        assert batch.attention_mask.tolist() == [
            [True] * 4,
            [True, True, False, False],
            [True] * 3 + [False],
        ]
        assert torch.equal(batch.counted, batch.attention_mask)

    def test_sequences_with_fewer_than_two_tokens_are_dropped_and_counted(self, full, texts):
        stream = open_stream(
            texts("one", "", "two three"), full, context_size=4, pack=False, prepend_bos=False
        )
        assert rows_of(stream) == [[2, 3]]
        assert stream.tally().n_short == 2


class TestCounted:
    def test_special_leaves_out_every_special_token(self, full, texts):
        stream = open_stream(texts("one", "oops three"), full, context_size=5, mask="special")
        assert rows_of(stream) == [[10, 1, 11, 13, 3]]
        assert counted_of(stream) == [[False, True, False, False, True]]

    def test_bos_leaves_out_bos_only(self, full, texts):
        stream = open_stream(texts("one", "two three"), full, context_size=5, mask="bos")
        assert counted_of(stream) == [[False, True, True, True, True]]

    def test_bos_that_is_also_eos_is_left_out_at_the_first_position_only(self, gpt2_like, texts):
        stream = open_stream(texts("one", "two three"), gpt2_like, context_size=5, mask="bos")
        assert rows_of(stream) == [[11, 1, 11, 2, 3]]
        assert counted_of(stream) == [[False, True, True, True, True]]

    def test_none_counts_every_token(self, full, texts):
        stream = open_stream(texts("one", "two three"), full, context_size=5, mask="none")
        assert counted_of(stream) == [[True] * 5]

    @pytest.mark.parametrize("mask", ["special", "bos", "none"])
    def test_padding_never_counts(self, full, texts, mask):
        stream = open_stream(
            texts("one two three", "four"), full, context_size=5, mask=mask, pack=False
        )
        for batch in stream.batches(2):
            assert not (batch.counted & ~batch.attention_mask).any()

    def test_an_unknown_policy_is_refused(self, full, texts):
        with pytest.raises(DataError, match="special, bos, none"):
            open_stream(texts("one two"), full, context_size=5, mask="pad")


class TestReading:
    def test_every_reading_is_the_same_whatever_the_batch_size(self, full, texts):
        stream = open_stream(texts(*["one two three four five"] * 7), full, context_size=5)
        assert rows_of(stream, 1) == rows_of(stream, 2) == rows_of(stream, 100)
        ids = torch.cat([batch.sequence_ids for batch in stream.batches(2)])
        assert ids.tolist() == list(range(stream.n_sequences))

    def test_counts_are_unknown_before_and_known_after_one_whole_reading(self, full, texts):
        stream = open_stream(texts("one two three", "four five six"), full, context_size=3)
        assert stream.n_sequences is stream.n_tokens is None
        next(stream.batches(1))
        assert stream.n_sequences is None  # not read to its end
        list(stream.batches(2))
        assert (stream.n_sequences, stream.n_tokens) == (3, 9)

    def test_limits_stop_after_whole_sequences(self, full, texts):
        spec = texts("one two three four five six seven eight")
        assert len(rows_of(open_stream(spec, full, context_size=3, n_sequences=2))) == 2
        # nine tokens in three sequences of three; the third is the first to reach seven
        assert len(rows_of(open_stream(spec, full, context_size=3, n_tokens=7))) == 3
        assert len(rows_of(open_stream(spec, full, context_size=3, n_tokens=6))) == 2

    def test_memory_does_not_grow_with_the_text(self, full, texts):
        def peak(stream):
            tracemalloc.start()
            for _ in stream.batches(4):
                pass
            used = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return used

        short = open_stream(texts(*["one two three"] * 500, name="a.jsonl"), full, context_size=8)
        long = open_stream(texts(*["one two three"] * 5000, name="b.jsonl"), full, context_size=8)
        peak(short)
        assert peak(long) < 1.5 * peak(short)


class TestDigest:
    def test_is_sha256_over_policy_lengths_ids_and_counted_positions(self, full, texts):
        import hashlib
        import struct

        stream = open_stream(texts("one two"), full, context_size=3)
        expected = hashlib.sha256(
            b"special\0" + struct.pack("<4q", 3, 10, 1, 2) + bytes([False, True, True])
        )
        assert stream.digest == expected.hexdigest()

    def test_is_the_same_for_the_same_tokens_from_another_file(self, full, texts):
        a = open_stream(texts("one two three", name="a.jsonl"), full, context_size=4)
        b = open_stream(texts("one  two\nthree", name="b.jsonl"), full, context_size=4)
        assert a.digest == b.digest

    def test_differs_by_policy_and_by_token(self, full, texts):
        spec = texts("one two three")
        other = texts("one two four", name="b.jsonl")
        digests = {
            open_stream(spec, full, context_size=4).digest,
            open_stream(spec, full, context_size=4, mask="none").digest,
            open_stream(other, full, context_size=4).digest,
        }
        assert len(digests) == 3

    def test_describe_is_plain_json(self, full, texts):
        stream = open_stream(
            texts("one two three", "four five"), full, context_size=3, model="tiny"
        )
        described = json.loads(json.dumps(stream.describe()))
        assert described["n_sequences"] == 3
        assert described["n_tokens"] == 9
        assert described["n_counted"] == 5  # BOS thrice and EOS once do not count
        assert described["mask"] == "special"
        assert described["digest"] == stream.digest

    @pytest.mark.parametrize("pack", [True, False])
    def test_the_documents_behind_the_sequences_are_counted(self, full, texts, pack):
        spec = texts("one two three four", "", "five six", "seven eight nine")
        assert open_stream(spec, full, context_size=4, pack=pack).tally().n_documents == 3
        first = open_stream(spec, full, context_size=4, pack=pack, n_sequences=1)
        assert first.tally().n_documents == 1


class TestBadData:
    @pytest.mark.parametrize("context_size", [-1, 0, 1])
    def test_a_context_without_predictions_is_refused(self, full, texts, context_size):
        with pytest.raises(DataError, match="2 or more"):
            open_stream(texts("one two"), full, context_size=context_size)

    def test_data_without_a_sequence_are_refused_when_opened(self, full, texts):
        with pytest.raises(DataError, match="no text in it at all"):
            open_stream(texts("", ""), full, context_size=4)
        with pytest.raises(DataError, match="2 shorter ones"):
            open_stream(texts("one", "two"), full, context_size=4, pack=False, prepend_bos=False)

    def test_an_empty_file_is_refused(self, full, tmp_path):
        (tmp_path / "a.jsonl").write_text("")
        with pytest.raises(DataError, match="no text in it at all"):
            open_stream(str(tmp_path / "a.jsonl"), full, context_size=4)

    def test_a_model_without_a_tokenizer_is_refused(self, texts):
        with pytest.raises(DataError, match="without a tokenizer"):
            open_stream(texts("one two"), None, context_size=4, model="bare")

    def test_a_missing_column_is_found_when_opened(self, full, texts):
        with pytest.raises(DataError, match="'text'"):
            open_stream(texts("one") + "#body", full, context_size=4)

    def test_an_id_beyond_the_vocabulary_names_tokenizer_and_model(self, texts):
        tokenizer = word_tokenizer(pad_token=PAD)
        tokenizer.name_or_path = "words"
        tokenizer.add_tokens(["late"])  # id 14, which no text need hold
        open_stream(texts("one nine"), tokenizer, context_size=2, vocab_size=14, model="tiny")
        with pytest.raises(DataError, match=r"token id 14.*belongs to the model") as caught:
            open_stream(texts("one late"), tokenizer, context_size=2, vocab_size=14, model="tiny")
        assert "'words'" in str(caught.value)
        assert "'tiny'" in str(caught.value)

    def test_a_vocabulary_beyond_the_model_is_refused_before_any_text_is_read(self, texts):
        tokenizer = word_tokenizer(pad_token=PAD)
        tokenizer.name_or_path = "words"
        with pytest.raises(DataError, match=r"14 token ids.*13.*belongs to the model") as caught:
            open_stream("absent.txt", tokenizer, context_size=2, vocab_size=13, model="tiny")
        assert "'words'" in str(caught.value)
        assert "'tiny'" in str(caught.value)
        padded = open_stream(texts("one two"), tokenizer, context_size=2, vocab_size=64)
        assert rows_of(padded) == [[1, 2]]

    @pytest.mark.parametrize("limit", ["n_sequences", "n_tokens"])
    def test_a_limit_of_nothing_is_refused(self, full, texts, limit):
        with pytest.raises(DataError, match=limit):
            open_stream(texts("one two"), full, context_size=4, **{limit: 0})


class TestIdsInMemory:
    def test_rows_are_given_back_with_their_padding_cut_off(self):
        ids = torch.tensor([[1, 2, 3], [4, 5, 0], [6, 0, 0]])
        mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]])
        stream = stream_from_ids(ids, attention_mask=mask)
        assert rows_of(stream) == [[1, 2, 3], [4, 5]]
        assert stream.tally().n_short == 1

    def test_lists_of_different_lengths_are_padded_in_the_batch(self):
        (batch,) = stream_from_ids([[1, 2, 3], [4, 5]]).batches(2)
        assert batch.ids.shape == (2, 3)
        assert batch.attention_mask.sum(1).tolist() == [3, 2]

    def test_special_ids_and_bos_can_be_given(self):
        ids = torch.tensor([[7, 1, 2], [7, 3, 8]])
        assert counted_of(stream_from_ids(ids, mask="special", special_ids=[7, 8])) == [
            [False, True, True],
            [False, True, False],
        ]
        assert counted_of(stream_from_ids(ids, mask="bos", bos_id=7)) == [[False, True, True]] * 2
