"""Prompts and completions as one sequence: where the boundary is, what counts, and what is cut."""

import pytest

from saebench.data.opening import Reader
from saebench.data.prompted import after_prompts
from tests.data.concept_texts import rows
from tests.data.words import BOS, WORDS, counted_of, rows_of, word_tokenizer


class TestPrompts:
    def test_the_boundary_is_exact_and_only_the_completion_counts(self, opened):
        items = [
            {"prompt": f"one {WORDS[i]}", "text": f"{WORDS[i]} four five", "label": "ab"[i % 2]}
            for i in range(10)
        ]
        found = opened(items, prompt="prompt", held_out=0)
        for ids, counted in zip(
            rows_of(found.train.stream), counted_of(found.train.stream), strict=True
        ):
            assert ids == [10, 1, ids[2], ids[2], 4, 5]
            assert counted == [False] * 3 + [True] * 3
        assert found.train.describe()["data"]["counted_part"] == "completion"

    def test_parts_are_tokenised_separately(self):
        reader = Reader(word_tokenizer(bos_token=BOS), 8, mask="none")
        (found,) = after_prompts(reader, ["one tw"], ["o three"])
        # together they would be "one two three"; neither part is a word
        assert found.row.ids.tolist() == [10, 1, 13, 13, 3]
        assert found.row.counted.tolist() == [False] * 3 + [True] * 2

    @pytest.mark.parametrize(
        ("length", "ids", "n_counted", "cuts"),
        [
            (9, [10, 1, 2, 3, 4, 7, 8, 9], 3, (False, False)),
            (8, [10, 1, 2, 3, 4, 7, 8, 9], 3, (False, False)),
            (6, [10, 3, 4, 7, 8, 9], 3, (True, False)),
            (4, [10, 7, 8, 9], 3, (True, False)),
            (3, [10, 7, 8], 2, (True, True)),
        ],
    )
    def test_what_is_too_long_loses_the_beginning_of_its_prompt(
        self, full, length, ids, n_counted, cuts
    ):
        reader = Reader(full, length)
        (found,) = after_prompts(reader, ["one two three four"], ["seven eight nine"])
        assert found.row.ids.tolist() == ids
        assert found.row.counted.tolist() == [False] * (len(ids) - n_counted) + [True] * n_counted
        assert (found.prompt_cut, found.completion_cut) == cuts

    def test_a_bos_that_the_prompt_brings_along_is_not_doubled(self, full):
        (found,) = after_prompts(Reader(full, 8), [f"{BOS} one"], ["two <eos>"])
        assert found.row.ids.tolist() == [10, 1, 2, 11]
        assert found.row.counted.tolist() == [
            False,
            False,
            True,
            False,
        ]  # special ones do not count
        (found,) = after_prompts(Reader(full, 8), ["one"], [f"{BOS} two"])
        assert found.row.ids.tolist() == [10, 1, 10, 2]  # one that the model wrote is its own
        (found,) = after_prompts(Reader(full, 8, mask="none"), ["one"], ["two <eos>"])
        assert found.row.counted.tolist() == [False, False, True, True]

    def test_an_empty_prompt_and_an_empty_completion(self, opened):
        items = [{**row, "prompt": ""} for row in rows(20)]
        items.append({"prompt": "one", "text": "", "label": "a"})
        found = opened(items, prompt="prompt", held_out=0)
        assert found.facts["data"]["data"]["n_without_tokens"] == 1
        assert found.train.n_dropped == 1
        assert len(found.train.labels) == 20

    def test_cut_texts_are_counted(self, opened):
        items = [{**row, "prompt": "one two three four five six"} for row in rows(20)]
        facts = opened(items, prompt="prompt", length=8, held_out=0).facts["data"]["data"]
        assert (facts["n_prompts_cut"], facts["n_completions_cut"]) == (20, 0)
