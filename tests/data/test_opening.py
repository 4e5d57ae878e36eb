"""Every data spec as a stream: random ids, shuffled text, and text that a model generated."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from saebench import generation
from saebench.data import open_stream, random_stream, shuffled_stream, unigram_probabilities
from saebench.data.documents import open_documents
from saebench.errors import DataError
from tests.data.words import rows_of
from tests.generated import write_generated

FIXTURES = Path(__file__).parents[2] / "fixtures"
HELD_OUT = str(FIXTURES / "text" / "heldout.jsonl")
TEXTS = ("one two three four five six", "seven eight one two", "one nine")


def opened(spec, tokenizer, **more):
    return open_stream(spec, tokenizer, **{"context_size": 5, **more})


@pytest.fixture(scope="module")
def shipped():
    return AutoTokenizer.from_pretrained(FIXTURES / "model")


class TestRandomSpecs:
    def test_uniform_is_the_random_stream_of_the_vocabulary_given(self, full):
        stream = opened("uniform?seed=4", full, n_sequences=6, vocab_size=20)
        expected = random_stream(full, vocab_size=20, length=5, n_sequences=6, seed=4)
        assert rows_of(stream) == rows_of(expected)
        assert max(np.concatenate(rows_of(opened("uniform", full, n_sequences=500)))) == 13

    def test_keys_of_the_spec_reach_the_drawing(self, full):
        stream = opened("uniform?special=false", full, n_sequences=300, prepend_bos=False)
        assert set(np.concatenate(rows_of(stream))) == set(range(10))
        assert stream.source["bos"] is False

    @pytest.mark.parametrize("spec", ["uniform", "unigram:{}"])
    def test_without_a_limit_there_is_no_end_and_the_error_says_how_to_set_one(
        self, full, texts, spec
    ):
        spec = spec.format(texts(*TEXTS))
        with pytest.raises(DataError, match=r"neither n_sequences nor n_tokens.*n_tokens=100000"):
            opened(spec, full)
        assert opened(f"{spec}?n_tokens=11", full).n_sequences is None
        assert opened(f"{spec}?n_tokens=11", full).tally().n_sequences == 3

    def test_the_smaller_of_two_limits_counts(self, full):
        assert len(rows_of(opened("uniform?n_sequences=3", full, n_sequences=8))) == 3
        assert len(rows_of(opened("uniform?n_sequences=8", full, n_sequences=3))) == 3
        assert len(rows_of(opened("uniform?n_sequences=8", full, n_tokens=10))) == 2

    def test_unigram_draws_by_the_counted_tokens_of_its_text(self, full, texts):
        spec = texts(*TEXTS)
        stream = opened(f"unigram:{spec}?random_seed=3", full, n_sequences=400, vocab_size=20)
        p = unigram_probabilities(opened(spec, full), 20)
        expected = random_stream(
            full, vocab_size=20, length=5, n_sequences=400, probabilities=p, seed=3
        )
        assert rows_of(stream) == rows_of(expected)
        assert set(np.concatenate(rows_of(stream))) == {10, *np.flatnonzero(p)}

    def test_unigram_reads_no_more_of_its_text_than_asked(self, full, texts):
        spec = texts("one two three four " * 50)
        source = opened(f"unigram:{spec}?text_tokens=12", full, n_sequences=3).source
        assert source["of"]["n_tokens"] == 15  # three whole sequences

    def test_shuffled_text_is_its_text_in_another_order(self, full, texts):
        spec = texts("one two three four five six seven eight " * 5)
        for within in ("sequence", "corpus"):
            stream = opened(f"shuffled:{spec}?random_seed=2&within={within}", full, n_sequences=6)
            text = opened(spec, full, n_sequences=6)
            assert rows_of(stream) == rows_of(shuffled_stream(text, seed=2, within=within))
            assert stream.tally().n_sequences == 6

    def test_specs_nest(self, full, texts):
        spec = texts(*TEXTS)
        stream = opened(f"shuffled:unigram:{spec}?random_seed=1&random_seed=2", full, n_sequences=4)
        inner = opened(f"unigram:{spec}?random_seed=2", full, n_sequences=4)
        assert rows_of(stream) == rows_of(shuffled_stream(inner, seed=1))

    def test_a_description_is_enough_to_open_the_same_again(self, shipped):
        for spec in ("uniform?seed=3", f"unigram:{HELD_OUT}", f"shuffled:{HELD_OUT}?random_seed=1"):
            first = open_stream(spec, shipped, context_size=16, n_sequences=20, vocab_size=4096)
            said = json.loads(json.dumps(first.describe()))
            again = open_stream(
                said["spec"], shipped, context_size=said["context_size"], n_sequences=20
            )
            assert again.digest == said["digest"]
            assert said["tokenizer"] == str(FIXTURES / "model")

    def test_a_file_that_is_called_like_a_word_is_read_with_a_dot_in_front(
        self, full, texts, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "uniform").mkdir()
        texts("one two three", name="uniform/a.jsonl")
        assert rows_of(opened("./uniform", full)) == [[10, 1, 2, 3]]
        assert sorted(rows_of(opened("shuffled:./uniform", full))[0]) == [1, 2, 3, 10]

    def test_made_ids_are_no_documents(self):
        with pytest.raises(DataError, match="not for documents"):
            open_documents("shuffled:a.txt")

    def test_an_inner_text_that_is_missing_is_named(self, full):
        with pytest.raises(DataError, match=r"absent\.txt"):
            opened("shuffled:absent.txt", full)


@pytest.fixture
def generated(tmp_path, full):
    """A folder of generated text in shards: ids, their text, and a manifest."""

    def write(*shards, tokenizer=full, content=None, **more):
        folder = write_generated(tmp_path / "generated", tokenizer, *shards, **more)
        if content is not None:
            (folder / "generation.json").write_text(content)
        return str(folder)

    return write


class TestGeneratedText:
    def test_a_folder_is_read_by_its_ids_one_sequence_each(self, full, generated):
        folder = generated([[10, 1, 2, 3], [10, 4, 11], [10, 5, 6, 7, 8]])
        stream = opened(folder, full)
        assert rows_of(stream) == [[10, 1, 2, 3], [10, 4, 11], [10, 5, 6, 7, 8]]
        assert stream.tally().n_documents == 3
        assert stream.source["pack"] is False

    def test_a_longer_sequence_becomes_several_and_nothing_is_lost(self, full, generated):
        folder = generated([[10, 1, 2, 3, 4, 5, 6], [10, 7, 8]])
        assert rows_of(opened(folder, full, context_size=4)) == [
            [10, 1, 2, 3],
            [10, 4, 5, 6],
            [10, 7, 8],
        ]
        assert rows_of(opened(folder, full, context_size=4, pack=False)) == [
            [10, 1, 2, 3],
            [10, 7, 8],
        ]

    def test_its_text_is_read_where_that_is_asked_for(self, full, generated):
        folder = generated([[10, 1, 2, 3], [10, 4]])
        assert rows_of(opened(f"{folder}#text", full, context_size=9)) == [[10, 1, 2, 3, 11, 4]]

    def test_ids_of_another_vocabulary_are_refused_and_its_text_is_not(self, generated, full):
        other = AutoTokenizer.from_pretrained(FIXTURES / "model")
        folder = generated([[10, 1, 2]], tokenizer=other)
        with pytest.raises(DataError, match=r"another vocabulary.*generated#text"):
            opened(folder, full)
        assert opened(f"{folder}#text", full).tally().n_documents == 1

    def test_unfinished_text_is_refused(self, full, generated):
        with pytest.raises(DataError, match="saebench generate again"):
            opened(generated([[10, 1, 2]], status="unfinished"), full)
        with pytest.raises(DataError, match="not finished"):
            opened(generated([[10, 1, 2]], status="unfinished") + "#text", full)

    @pytest.mark.parametrize("column", ["", "#text"])
    def test_a_lost_shard_is_refused_and_not_read_past(self, full, generated, column):
        folder = generated([[10, 1, 2]], [[10, 3, 4]])
        (Path(folder) / "data" / "train-00000.parquet").unlink()
        with pytest.raises(DataError, match=r"train-00000\.parquet.*there is none.*generate again"):
            opened(folder + column, full)

    def test_a_changed_shard_is_refused_and_a_foreign_file_is_not_read(self, full, generated):
        folder = generated([[10, 1, 2]], [[10, 3, 4]])
        data = Path(folder) / "data"
        for name in ("train-00002.parquet", "a.parquet", "../b.parquet"):
            (data / name).write_bytes((data / "train-00001.parquet").read_bytes())
        assert rows_of(opened(folder, full)) == [[10, 1, 2], [10, 3, 4]]
        (data / "train-00001.parquet").write_bytes((data / "train-00000.parquet").read_bytes())
        with pytest.raises(DataError, match=r"train-00001\.parquet.*not what was written"):
            opened(folder, full)

    def test_a_file_that_the_manifest_names_elsewhere_is_not_opened(self, full, generated):
        folder = generated([[10, 1, 2]])
        said = Path(folder, "generation.json").read_text()
        path = "../../../../../../etc/passwd"
        folder = generated([[10, 1, 2]], content=said.replace("data/train-00000.parquet", path))
        with pytest.raises(DataError, match=r"damaged.*shards\[0\]: file"):
            opened(folder, full)

    @pytest.mark.parametrize("content", ["{", "[]"])
    def test_a_damaged_manifest_is_refused(self, full, generated, content):
        with pytest.raises(DataError, match=r"generation\.json: it is damaged"):
            opened(generated([[10, 1, 2]], content=content), full)


class TestFaithful:
    @pytest.fixture
    def asked(self, monkeypatch, generated):
        """What a generator is asked for, in place of generating."""
        calls = []
        folder = generated([[10, 1, 2, 3], [10, 4, 5]])

        def ensure(model_ref, settings, *, device=None, or_more=False, n_sequences=None):
            calls.append((model_ref, settings, device, or_more, n_sequences))
            return Path(folder)

        monkeypatch.setattr(generation, "ensure_generated", ensure, raising=False)
        return calls

    def test_the_generated_folder_is_read_and_the_settings_are_those_of_the_spec(self, full, asked):
        spec = "faithful:org/m?tokens=50&length=4&temperature=0.5&top_p=0.9&seed=3"
        stream = opened(spec, full, n_sequences=2)
        assert rows_of(stream) == [[10, 1, 2, 3], [10, 4, 5]]
        ((model, settings, _, or_more, _),) = asked
        assert not or_more  # as many as the spec says, and no other text
        assert model == "org/m"
        assert (settings.tokens, settings.length, settings.temperature) == (50, 4, 0.5)
        assert (settings.top_p, settings.seed) == (0.9, 3)
        assert stream.source["spec"] == spec
        assert stream.source["settings"]["temperature"] == 0.5

    @pytest.mark.parametrize(
        ("limits", "tokens"),
        [({}, 1_000_000), ({"n_tokens": 70}, 70), ({"n_sequences": 6}, 30)],
    )
    def test_length_and_amount_are_those_of_the_run_where_the_spec_is_silent(
        self, full, asked, limits, tokens
    ):
        opened("faithful:org/m", full, **limits)
        ((_, settings, _, or_more, n_sequences),) = asked
        assert (settings.length, settings.tokens) == (5, tokens)
        assert or_more
        assert n_sequences == limits.get("n_sequences")

    def test_it_is_generated_on_the_device_of_the_run(self, full, asked):
        opened("shuffled:faithful:org/m", full, device="cuda:1")
        assert [call[2] for call in asked] == ["cuda:1"]

    @pytest.mark.parametrize(
        ("tokens", "rows"),
        [(1, [[10, 1]]), (3, [[10, 1, 2, 3]]), (4, [[10, 1, 2, 3], [10, 4]]), (9, 2)],
    )
    def test_of_a_longer_text_exactly_the_beginning_is_read(self, full, asked, tokens, rows):
        # three tokens in one sequence, two in another
        stream = opened("faithful:org/m", full, n_tokens=tokens)
        everything = [[10, 1, 2, 3], [10, 4, 5]]
        expected = everything if rows == 2 else rows
        assert rows_of(stream) == expected[: -(-tokens // 4)]
        assert rows_of(opened(f"faithful:org/m?tokens={tokens}", full)) == expected

    def test_what_it_says_of_itself_does_not_tell_which_longer_text_was_read(self, full, asked):
        said = json.dumps(opened("faithful:org/m", full, n_tokens=4).describe())
        assert "train-" not in said

    def test_it_can_be_shuffled(self, full, asked):
        stream = opened("shuffled:faithful:org/m?tokens=50&random_seed=1", full)
        assert [sorted(row) for row in rows_of(stream)] == [[1, 2, 3, 10], [4, 5, 10]]
