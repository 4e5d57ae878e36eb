"""Concepts: what is drawn, what the digest knows, and how bad data are refused."""

import hashlib
import json
from pathlib import Path

import pytest

from saebench.data.concepts import open_concept
from saebench.errors import ConfigError, DataError
from saebench.generation.completions_file import provenance_path
from saebench.protocols import Concept
from tests.data.concept_texts import number, rows
from tests.data.words import BOS, rows_of, word_tokenizer


class TestLimits:
    def test_at_most_so_many_texts_are_drawn_without_regard_to_class(self, opened):
        found = opened(rows(100), max_texts=30, held_out=0)
        assert len(found.train.labels) == 30
        assert found.facts["data"]["data"]["n_rows"] == 100
        chosen = {number(ids) for ids in rows_of(found.train.stream)}
        assert chosen != set(range(30))
        again = opened(rows(100), max_texts=30, seed=1, held_out=0)
        assert {number(ids) for ids in rows_of(again.train.stream)} != chosen

    def test_the_digest_knows_texts_labels_classes_and_split(self, opened):
        base = opened(rows())
        changed = rows()
        changed[0]["label"] = "b"
        renamed = [{**row, "label": row["label"] * 2} for row in rows()]
        others = [
            opened(changed),
            opened(renamed),
            opened(rows(59)),
            opened(rows(), positive="a"),
            opened(rows(), held_out=0.2),
            opened([{**row, "prompt": "one"} for row in rows()], prompt="prompt", held_out=0),
        ]
        assert len({base.digest, *(other.digest for other in others)}) == 7
        assert opened(rows()).digest == base.digest

    def test_the_digest_knows_how_far_judges_agree_and_how_good_rules_are(self, opened, rules):
        def judged(changed):
            items = [
                {**row, "x": row["label"], "y": row["label"], "z": row["label"]} for row in rows()
            ]
            items[0]["z"] = "b" if changed else "a"
            return opened(items, judges=("x", "y", "z"))

        def scored(changed):
            words = ["one two", "nine eight"]
            items = [{"text": words[i % 2], "label": ["low", "high"][i % 2]} for i in range(20)]
            items = [{**item, "document": str(i)} for i, item in enumerate(items)]
            items[0]["label"] = "high" if changed else "low"
            return opened(items, rules=rules)

        for made in (judged, scored):
            one, other = made(False), made(True)
            assert one.train.digest == other.train.digest  # the labels used are the same
            assert one.digest != other.digest
            assert one.digest == made(False).digest

    def test_the_digest_knows_who_wrote_the_completions(self, opened, write):
        digests = set()
        for model in ("one", "other"):
            path = Path(write(rows()))
            said = {"model": {"id": model}, "settings": {}}
            said["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
            provenance_path(path).write_text(json.dumps(said))
            found = opened(str(path))
            assert found.facts["data"]["data"]["written_by"]["model"] == {"id": model}
            digests.add(found.digest)
        assert len(digests) == 2

    def test_where_the_file_lies_does_not_matter(self, opened, write):
        one, other = (opened(write(rows(), name=name)) for name in ("a.jsonl", "b.jsonl"))
        assert one.facts != other.facts
        assert one.digest == other.digest

    def test_facts_are_plain_json(self, opened, rules):
        facts = opened(rows(100), rules=rules).facts
        assert json.loads(json.dumps(facts, allow_nan=False)) == facts


class TestBadData:
    def test_one_class_only_is_refused(self, opened):
        with pytest.raises(DataError, match="every labelled text is of class 'a'"):
            opened([{**row, "label": "a"} for row in rows()])

    def test_a_third_class_is_named_with_what_to_do(self, opened):
        items = [*rows(), {"text": "one two", "label": "c"}]
        with pytest.raises(DataError, match=r"3: 'a', 'b', 'c'.*positive ="):
            opened(items)
        many = [{"text": "one two", "label": f"c{i}"} for i in range(50)]
        with pytest.raises(DataError, match=r"50: .* and 42 more"):
            opened(many)

    def test_a_positive_class_that_is_none_is_refused(self, opened):
        with pytest.raises(ConfigError, match=r"positive = 'yes'.*'a', 'b'"):
            opened(rows(), positive="yes")

    def test_a_held_out_class_that_train_lacks_is_refused(self, opened, write):
        other = write([{**row, "label": "z" + row["label"]} for row in rows(70)], "other.jsonl")
        concept = Concept("c", write(rows()), held_out=other)
        with pytest.raises(DataError, match="'za', 'zb'"):
            open_concept(concept, word_tokenizer(bos_token=BOS), length=8)

    def test_a_class_in_one_document_cannot_be_split(self, opened):
        items = [{**row, "document": row["label"]} for row in rows()]
        with pytest.raises(DataError, match=r"no .* text of class .*2 groups by document"):
            opened(items)
        assert opened(items, held_out=0).held_out is None

    @pytest.mark.parametrize("share", [-0.1, 1, 2])
    def test_a_share_that_is_none_is_refused(self, opened, share):
        with pytest.raises(ConfigError, match="not a share"):
            opened(rows(), held_out=share)

    def test_missing_columns_list_those_there(self, opened):
        for change in ({"text": "body"}, {"label": "gold"}, {"prompt": "p"}, {"document": "d"}):
            (name,) = change.values()
            with pytest.raises(DataError, match=rf"column '{name}' of .*'text', 'label'"):
                opened(rows(), **change)
        with pytest.raises(DataError, match="column 'x'"):
            opened(rows(), judges=("x", "y"))

    @pytest.mark.parametrize(
        ("row", "said"),
        [
            ({"text": 5, "label": "a"}, r"a text in column 'text', row 61 .*int"),
            ({"text": "one", "label": ["a"]}, r"a label in column 'label', row 61 .*list"),
            ({"text": "one", "label": 0.5}, r"0\.5, a float"),
            ({"text": "one", "label": "x" * 201}, r"a text of 201 characters"),
            ({"text": "one \ud800", "label": "a"}, "half of a pair"),
            ({"text": "one"}, "column 'label' in row 61"),
            ("one", "without columns"),
        ],
    )
    def test_a_row_that_is_no_example_is_named(self, opened, row, said):
        with pytest.raises(DataError, match=said):
            opened([*rows(), row])

    def test_no_row_and_no_label_are_refused(self, opened, tmp_path):
        with pytest.raises(DataError, match="no row at all"):
            opened([])
        with pytest.raises(DataError, match="10 have no label"):
            opened([{**row, "label": None} for row in rows(10)])
        (tmp_path / "text.txt").write_text("one two")
        with pytest.raises(DataError, match="plain text"):
            opened(str(tmp_path / "text.txt"))

    def test_ids_beyond_the_model_and_a_missing_tokenizer_are_refused(self, write, full):
        concept = Concept("c", write(rows()))
        with pytest.raises(DataError, match="belongs to the model"):
            open_concept(concept, full, length=8, vocab_size=12, model="tiny")
        with pytest.raises(DataError, match="without a tokenizer"):
            open_concept(concept, None, length=8)


class TestHub:
    def test_rows_of_the_hub_are_those_of_a_file(self, monkeypatch, write, full):
        import datasets
        import huggingface_hub

        items = rows(50)
        monkeypatch.setattr(
            datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(items)
        )

        class Api:
            def dataset_info(self, name, revision=None):
                return type("Info", (), {"sha": "c" * 40})

        monkeypatch.setattr(huggingface_hub, "HfApi", Api)
        hub = open_concept(Concept("c", "hf:org/name#train"), full, length=8)
        local = open_concept(Concept("c", write(items)), full, length=8)
        assert hub.digest == local.digest
        with pytest.raises(DataError, match="column 'gold'"):
            open_concept(Concept("c", "hf:org/name#train", label="gold"), full, length=8)
