"""Every data spec as a stream: random ids, shuffled text, and text that a model generated."""

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from transformers import AutoTokenizer

from saebench import generation
from saebench.data import open_stream, random_stream, shuffled_stream, unigram_probabilities
from saebench.data.documents import open_documents
from saebench.errors import DataError
from saebench.generation.manifest import vocabulary
from tests.data.words import rows_of

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
    """A folder of generated text: ids that differ from its text, and a manifest."""

    def write(ids, *, status="finished", tokenizer=full, content=None):
        folder = tmp_path / "generated"
        (folder / "data").mkdir(parents=True)
        table = pyarrow.table({"input_ids": ids, "text": ["nine nine"] * len(ids)})
        pyarrow.parquet.write_table(table, folder / "data" / "train-00000.parquet")
        made = {"status": status, "vocabulary": vocabulary(tokenizer, 10, 11)}
        content = json.dumps(made) if content is None else content
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
        assert rows_of(opened(f"{folder}#text", full, context_size=9)) == [[10, 9, 9, 11, 9, 9]]

    def test_ids_of_another_vocabulary_are_refused_and_its_text_is_not(self, generated, full):
        other = AutoTokenizer.from_pretrained(FIXTURES / "model")
        folder = generated([[10, 1, 2]], tokenizer=other)
        with pytest.raises(DataError, match=r"another vocabulary.*generated#text"):
            opened(folder, full)
        assert opened(f"{folder}#text", full).tally().n_documents == 1

    def test_unfinished_text_is_refused(self, full, generated):
        with pytest.raises(DataError, match="saebench generate again"):
            opened(generated([[10, 1, 2]], status="unfinished"), full)

    @pytest.mark.parametrize("content", ["{", "[]"])
    def test_a_damaged_manifest_is_refused(self, full, generated, content):
        with pytest.raises(DataError, match=r"generation\.json is damaged"):
            opened(generated([[10, 1, 2]], content=content), full)


class TestFaithful:
    @pytest.fixture
    def asked(self, monkeypatch, generated):
        """What a generator is asked for, in place of generating."""
        calls = []
        folder = generated([[10, 1, 2, 3], [10, 4, 5]])

        def ensure(model_ref, settings, *, device=None):
            calls.append((model_ref, settings))
            return Path(folder)

        monkeypatch.setattr(generation, "ensure_generated", ensure, raising=False)
        return calls

    def test_the_generated_folder_is_read_and_the_settings_are_those_of_the_spec(self, full, asked):
        spec = "faithful:org/m?tokens=50&length=4&temperature=0.5&top_p=0.9&seed=3"
        stream = opened(spec, full, n_sequences=2)
        assert rows_of(stream) == [[10, 1, 2, 3], [10, 4, 5]]
        ((model, settings),) = asked
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
        ((_, settings),) = asked
        assert (settings.length, settings.tokens) == (5, tokens)

    def test_it_can_be_shuffled(self, full, asked):
        stream = opened("shuffled:faithful:org/m?tokens=50&random_seed=1", full)
        assert [sorted(row) for row in rows_of(stream)] == [[1, 2, 3, 10], [4, 5, 10]]
