"""Where the labels of a concept come from: a column, rules on the completion, judges."""

import random
from collections import Counter

import pytest
from sklearn.metrics import cohen_kappa_score, recall_score

from saebench.errors import ConfigError
from tests.data.concept_texts import number, rows
from tests.data.words import WORDS, rows_of


class TestLabels:
    @pytest.mark.parametrize("name", ["data.jsonl", "data.parquet"])
    def test_a_column_labels_texts_and_one_class_is_positive(self, opened, write, name):
        found = opened(write(rows(), name), held_out=0)
        assert (found.classes, found.positive) == (("a", "b"), "b")
        assert found.held_out is found.control is None
        for ids, label in zip(rows_of(found.train.stream), found.train.labels, strict=True):
            assert number(ids) % 2 == label
        assert found.facts["splits"] == {"train": {"a": 30, "b": 30}}

    def test_the_positive_class_is_counted_as_1(self, opened):
        found = opened(rows(), positive="a", held_out=0)
        assert (found.classes, found.positive) == (("b", "a"), "a")
        for ids, label in zip(rows_of(found.train.stream), found.train.labels, strict=True):
            assert number(ids) % 2 == 1 - label

    def test_rows_without_a_label_are_ambiguous_and_counted(self, opened, write):
        items = rows(40)
        for i in (0, 1, 2, 3, 4):
            items[i]["label"] = [None, "", " ", float("nan"), None][i]
        found = opened(items, held_out=0)
        facts = found.facts["data"]["data"]
        assert (facts["n_rows"], facts["n_drawn"], facts["n_ambiguous"]) == (40, 40, 5)
        assert facts["ambiguous_share"]["value"] == 5 / 40
        assert facts["ambiguous_share"]["low"] < 5 / 40 < facts["ambiguous_share"]["high"]
        assert {number(ids) for ids in rows_of(found.train.stream)} == set(range(5, 40))

    def test_numbers_that_empty_cells_made_floats_are_whole_again(self, opened, write):
        items = [{**row, "label": {"a": 0.0, "b": 1.0}[row["label"]]} for row in rows(20)]
        items[3]["label"] = None
        found = opened(write(items, "data.parquet"), held_out=0)
        assert found.classes == ("0", "1")
        assert found.facts["data"]["data"]["n_ambiguous"] == 1

    def test_rules_label_the_completion_alone(self, opened, rules):
        items = [
            {"prompt": "nine nine", "completion": f"zero {word}", "label": gold}
            for word, gold in (
                *[("one", "low")] * 6,
                *[("two", "high")] * 2,
                *[("eight", "high")] * 5,
                *[("nine", None)] * 3,
                *[("three", "low")] * 4,
            )
        ]
        for i, item in enumerate(items):
            item["prompt"] = f"nine {WORDS[i % 10]}"
        found = opened(items, text="completion", prompt="prompt", rules=rules, held_out=0)
        assert found.facts["splits"]["train"] == {"high": 8, "low": 8}
        assert found.facts["labels"]["kind"] == "rules"
        assert found.facts["data"]["data"]["n_ambiguous"] == 4
        scores = found.facts["rules_scores"]
        assert scores["against"] == {"column": "label"}
        gold = [item["label"] for item in items if item["label"]]
        by_rules = ["low"] * 8 + ["high"] * 5 + ["none"] * 4
        recall = recall_score(gold, by_rules, labels=["high", "low"], average=None)
        found_recall = [scores["by_class"][name]["recall"]["value"] for name in ("high", "low")]
        assert found_recall == pytest.approx(list(recall))
        assert scores["by_class"]["low"]["precision"]["value"] == 6 / 8
        assert scores["decided"]["value"] == 13 / 17

    def test_rules_need_no_label_column(self, opened, rules):
        items = [{"text": f"{word} two"} for word in ("zero", "one")] * 5
        items += [{"text": f"{word} nine"} for word in ("zero", "three")] * 5
        found = opened(items, rules=rules, held_out=0)
        assert found.facts["rules_scores"] is None
        assert found.facts["splits"]["train"] == {"high": 10, "low": 10}

    def test_judges_label_by_consensus_and_their_agreement_is_told(self, opened):
        rng = random.Random(0)
        items = rows(60)
        for item in items:
            for judge in ("x", "y", "z"):
                item[judge] = item["label"] if rng.random() < 0.8 else rng.choice(["a", "b", None])
            del item["label"]
        found = opened(items, judges=("x", "y", "z"), held_out=0)
        votes = [[item[judge] for judge in "xyz"] for item in items]
        expected = [Counter(v for v in vote if v) for vote in votes]
        a = sum(count["a"] > count["b"] for count in expected)
        b = sum(count["b"] > count["a"] for count in expected)
        assert found.facts["splits"]["train"] == {"a": a, "b": b}
        assert found.facts["data"]["data"]["n_ambiguous"] == 60 - a - b
        pair = found.facts["agreement"]["pairs"][0]
        both = [(vote[0], vote[1]) for vote in votes if vote[0] and vote[1]]
        assert pair["judges"] == ["x", "y"]
        assert pair["kappa"]["value"] == pytest.approx(cohen_kappa_score(*zip(*both, strict=True)))
        strict = opened(items, judges=("x", "y", "z"), consensus="all", held_out=0)
        unanimous = Counter(vote[0] for vote in votes if len(set(vote)) == 1 and vote[0])
        assert strict.facts["splits"]["train"] == dict(sorted(unanimous.items()))

    def test_rules_are_set_against_judges_where_there_are_some(self, opened, rules):
        items = [
            {"text": f"{w} zero", "x": g, "y": g} for w, g in (("one", "low"), ("nine", "high"))
        ]
        items += [{"text": "two six", "x": "high", "y": "high"}]
        found = opened(items * 3, judges=("x", "y"), rules=rules, held_out=0)
        assert found.facts["labels"]["kind"] == "rules"
        assert found.facts["rules_scores"]["against"] == {"judges": ["x", "y"]}
        assert found.facts["rules_scores"]["by_class"]["low"]["precision"]["value"] == 0.5

    @pytest.mark.parametrize("judges", [("x",), ("x", "x")])
    def test_one_judge_is_no_consensus(self, opened, judges):
        with pytest.raises(ConfigError, match="two or more different judges"):
            opened(rows(), judges=judges)


def test_a_spec_may_name_the_column_of_the_text(opened, write):
    items = [{"completion": row["text"], "text": "zero", "label": row["label"]} for row in rows()]
    path = write(items)
    by_spec = opened(f"{path}#completion", held_out=0)
    assert by_spec.digest == opened(path, text="completion", held_out=0).digest
    assert by_spec.train.describe()["data"]["text"] == "completion"
    with pytest.raises(ConfigError, match="'completion' by the data, and 'label' by text ="):
        opened(f"{path}#completion", text="label")


class TestControl:
    def test_controls_are_labelled_by_their_column(self, opened, write, rules):
        main = [{"text": f"{w} {v}"} for w in ("one", "nine") for v in WORDS[3:8]]
        control = write(
            [{**row, "label": "low" if i % 2 else "high"} for i, row in enumerate(rows(30))],
            "control.jsonl",
        )
        found = opened(main, rules=rules, control=control, held_out=0)
        assert found.control.classes == found.train.classes == ("high", "low")
        for ids, label in zip(rows_of(found.control.stream), found.control.labels, strict=True):
            assert number(ids) % 2 == label  # by the column, not by words

    def test_controls_may_have_classes_of_their_own(self, opened, write):
        control = write(
            [{**row, "label": {"a": "short", "b": "long"}[row["label"]]} for row in rows(30)],
            "control.jsonl",
        )
        found = opened(rows(), control=control)
        assert found.control.classes == ("long", "short")
        assert found.facts["splits"]["control"] == {"long": 15, "short": 15}
        assert found.digest != opened(rows()).digest

    def test_controls_without_that_column_are_labelled_as_the_others(self, opened, write, rules):
        texts = [{"text": f"{w} {v}"} for w in ("one", "nine") for v in WORDS[3:8]]
        found = opened(texts, rules=rules, control=write(texts, "control.jsonl"), held_out=0)
        assert found.facts["splits"]["control"] == {"high": 5, "low": 5}
