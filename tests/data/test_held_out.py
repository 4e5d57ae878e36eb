"""The held-out share of a concept's texts: whole documents, each class in proportion, whatever the order."""

import random
from collections import Counter, defaultdict

import numpy as np
import pytest

from saebench.data.concepts import open_concept
from saebench.data.splitting import held_out_share
from saebench.errors import DataError
from saebench.protocols import Concept
from tests.data.concept_texts import number, rows
from tests.data.words import BOS, WORDS, rows_of, word_tokenizer


def number_of(row):
    tens, ones = row["text"].split()
    return 10 * WORDS.index(tens) + WORDS.index(ones)


def halves(found):
    return found.train, found.held_out


class TestHeldOut:
    def test_a_share_of_each_class_is_held_out(self, opened):
        items = [row for row in rows(100) if row["label"] == "a" or number_of(row) % 5 == 1]
        found = opened(items, held_out=0.3)
        counts = Counter(row["label"] for row in items)
        held = found.facts["splits"]["held_out"]
        for name, n in counts.items():
            assert abs(held[name] - 0.3 * n) <= 1
            assert held[name] + found.facts["splits"]["train"][name] == n
        train, kept = (rows_of(part.stream) for part in (found.train, found.held_out))
        assert not {tuple(ids) for ids in train} & {tuple(ids) for ids in kept}

    def test_the_order_of_rows_changes_nothing(self, opened):
        items = rows(80, document=None)
        for i, item in enumerate(items):
            item["document"] = f"d{i // 3}"
        one = opened(items, max_texts=50)
        random.Random(3).shuffle(items)
        other = opened(items, max_texts=50)
        assert other.digest == one.digest
        assert rows_of(other.held_out.stream) == rows_of(one.held_out.stream)
        assert other.facts == one.facts

    def test_another_seed_gives_another_split(self, opened):
        digests = {opened(rows(), seed=seed).held_out.digest for seed in range(4)}
        assert len(digests) == 4
        assert opened(rows(), seed=2).digest == opened(rows(), seed=2).digest

    def test_texts_of_a_document_stay_together(self, opened):
        items = [{**row, "document": f"d{i // 4}"} for i, row in enumerate(rows(80))]
        found = opened(items)
        sides = [{number(ids) // 4 for ids in rows_of(part.stream)} for part in halves(found)]
        assert not sides[0] & sides[1]
        assert found.facts["held_out"]["by"] == "document"
        assert found.facts["held_out"]["n_groups"] == 20
        for part in halves(found):
            numbers = [number(ids) // 4 for ids in rows_of(part.stream)]
            by_number = defaultdict(set)
            for document, name in zip(part.documents, numbers, strict=True):
                by_number[document].add(name)
            assert all(len(names) == 1 for names in by_number.values())
            assert len(by_number) == len(set(numbers))

    def test_completions_of_a_prompt_stay_together_and_are_resampled_together(self, opened):
        items = [
            {**row, "prompt": WORDS[i % 10], "label": "ab"[i % 3 == 0]}
            for i, row in enumerate(rows(60))
        ]
        found = opened(items, prompt="prompt")
        sides = [{ids[1] for ids in rows_of(part.stream)} for part in halves(found)]
        assert not sides[0] & sides[1]
        assert found.facts["held_out"]["by"] == "prompt"
        for part, side in zip(halves(found), sides, strict=True):
            assert len(np.unique(part.documents)) == len(side)

    def test_equal_texts_stay_together(self, opened):
        found = opened(rows(20) * 3)
        sides = [{tuple(ids) for ids in rows_of(part.stream)} for part in halves(found)]
        assert not sides[0] & sides[1]
        assert found.facts["held_out"]["by"] == "text"
        assert len(np.unique(found.train.documents)) == len(sides[0])
        assert opened(rows(20)).train.documents is None  # each its own

    def test_texts_of_their_own_are_held_out_whole(self, opened, write):
        other = write(rows(100)[60:], "other.jsonl")
        concept = Concept("c", write(rows(60)), held_out=other)
        found = open_concept(concept, word_tokenizer(bos_token=BOS), length=8, held_out=0.9)
        assert len(found.train.labels) == 60
        assert len(found.held_out.labels) == 40
        assert found.facts["held_out"] == {"how": "texts of its own", "n_in_train": 0}
        overlapping = Concept("c", write(rows(70)), held_out=other)
        found = open_concept(overlapping, word_tokenizer(bos_token=BOS), length=8)
        assert found.facts["held_out"]["n_in_train"] == 10
        same = Concept("c", write(rows(60)), held_out=write(rows(30), "part.jsonl"))
        with pytest.raises(DataError, match=r"all 30 of .*part.jsonl.* too"):
            open_concept(same, word_tokenizer(bos_token=BOS), length=8)

    def test_sizes_are_kept_near_the_share_whatever_the_documents(self):
        rng = np.random.default_rng(0)
        sizes = [1, 1, 2, 3, 5, 8, 13, 21, 34, 55, *[4] * 20]
        groups = [f"g{i}" for i, size in enumerate(sizes) for _ in range(size)]
        labels = rng.integers(0, 2, len(groups))
        for share in (0.2, 0.5):
            held = held_out_share(groups, labels, share, 1)
            for label in (0, 1):
                assert abs(held[labels == label].mean() - share) < 0.1
        order = rng.permutation(len(groups))
        again = held_out_share([groups[i] for i in order], labels[order], 0.5, 1)
        assert (again == held[order]).all()

    def test_neither_side_is_given_the_large_documents(self):
        sizes = [8] * 10 + [1] * 100
        groups = [f"g{i}" for i, size in enumerate(sizes) for _ in range(size)]
        large = np.repeat(np.array(sizes) == 8, sizes)
        for seed in range(5):
            held = held_out_share(groups, np.zeros(len(groups), dtype=int), 0.5, seed)
            assert held[large].sum() == 40

    @pytest.mark.parametrize("share", [0.25, 0.5])
    def test_every_text_is_held_out_as_often_as_the_share(self, share):
        groups = [f"g{i}" for i in range(20)]
        labels = np.arange(20) % 2
        often = np.mean(
            [held_out_share(groups, labels, share, seed) for seed in range(400)], axis=0
        )
        assert abs(often - share).max() < 0.12
