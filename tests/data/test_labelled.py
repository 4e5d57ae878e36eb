import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from saebench.data.labelled import KNOWN_TASKS, MAX_CLASSES, find_task, open_task
from saebench.data.opening import Reader
from saebench.errors import DataError
from saebench.protocols import Task
from tests.data.words import WORDS, rows_of, word_tokenizer

# the first word of each text tells its number, the label whether that is odd
ROWS = [(f"{WORDS[i % 10]} {WORDS[i // 10]}", i % 2) for i in range(40)]


def write(path, rows, names=("text", "label")):
    """Rows as a table of the path's format."""
    table = [dict(zip(names, row, strict=True)) for row in rows]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
    elif path.suffix == ".json":
        path.write_text(json.dumps({name: [row[name] for row in table] for name in names}))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as handle:
            csv.writer(handle).writerows([names, *rows])
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path)
    return str(path)


@pytest.fixture
def task(tmp_path):
    def make(train=ROWS, test=ROWS, suffix=".jsonl", **more):
        names = (more.get("text", "text"), more.get("label", "label"))
        paths = [
            write(tmp_path / f"{split}{suffix}", rows, names)
            for split, rows in (("train", train), ("test", test))
        ]
        return Task("task", *paths, **more)

    return make


def read(task, tokenizer, **more):
    return open_task(
        task, tokenizer, **{"length": 8, "max_train": 100, "max_test": 100, "seed": 42, **more}
    )


def pairs(labelled, batch_size=7):
    """``(first word's number, label)`` of every example, as the batches number them."""
    return [
        (int(ids[1]) + 10 * int(ids[2]), int(labelled.labels[number]))
        for batch in labelled.stream.batches(batch_size)
        for ids, number in zip(batch.ids, batch.sequence_ids.tolist(), strict=True)
    ]


class TestExamples:
    @pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
    @pytest.mark.parametrize("batch_size", [1, 7, 100])
    def test_labels_stay_with_their_texts_whatever_the_format_and_batch_size(
        self, task, full, suffix, batch_size
    ):
        train, test = read(task(suffix=suffix), full)
        for part in (train, test):
            found = pairs(part, batch_size)
            assert all(number % 2 == label for number, label in found)
            assert sorted(number for number, _ in found) == list(range(40))
        assert train.classes == ("0", "1")
        assert train.labels.dtype == np.int64

    def test_they_come_in_the_order_in_which_datasets_shuffles(self, task, full):
        from datasets import Dataset

        train, test = read(task(), full, max_train=11, max_test=5, seed=42)
        order = Dataset.from_dict({"i": range(40)}).shuffle(seed=42)["i"]
        assert [number for number, _ in pairs(train)] == list(order[:11])
        assert [number for number, _ in pairs(test)] == list(order[:5])
        everything, _ = read(task(), full)
        assert [number for number, _ in pairs(everything)] == list(order)
        assert pairs(read(task(), full, seed=1)[0]) != pairs(everything)

    def test_each_is_one_truncated_sequence_with_bos_in_front(self, task, full, gpt2_like):
        rows = [("one two three four five", "a"), ("six", "b")]
        train, _ = read(task(rows, rows), full, length=4)
        assert sorted(rows_of(train.stream)) == [[10, 1, 2, 3], [10, 6]]
        train, _ = read(task(rows, rows), gpt2_like, length=4)
        assert sorted(rows_of(train.stream)) == [[11, 1, 2, 3], [11, 6]]

    def test_texts_without_a_token_to_read_are_dropped_with_their_labels(self, task, full):
        rows = [*ROWS[:6], ("", 0), (None, 1), ("<eos>", 1), (" ", 0), *ROWS[6:12]]
        train, test = read(task(rows, rows), full)
        assert train.n_dropped == test.n_dropped == 4
        assert all(number % 2 == label for number, label in pairs(train))
        assert len(train.labels) == train.stream.tally().n_sequences == 12
        # without BOS a single token is too short, and with the policy none a special one counts
        bare = word_tokenizer()
        rows = [("one two", 0), ("three", 1), ("four five", 1)]
        assert read(task(rows, rows), bare)[0].n_dropped == 1
        rows = [("<eos>", 0), ("three", 1)]
        assert read(task(rows, rows), full, mask="none")[0].n_dropped == 0

    def test_class_proportions_are_left_as_they_fall(self, task, full):
        rows = [(f"{WORDS[i % 10]} one", "rare" if i % 8 == 0 else "common") for i in range(400)]
        train, _ = read(task(rows, rows), full, max_train=200)
        drawn = np.random.default_rng(42).permutation(400)[:200]
        assert Counter(train.labels.tolist())[1] == sum(i % 8 == 0 for i in drawn)
        assert train.classes == ("common", "rare")

    @pytest.mark.parametrize(
        ("labels", "classes"),
        [
            ((10, 2, 0), ("0", "2", "10")),
            (("10", "2", "0"), ("0", "2", "10")),
            ((1.0, 0.0, 3.0), ("0", "1", "3")),
            (("b", "a", "10"), ("10", "a", "b")),
            ((True, False, True), ("False", "True")),
        ],
    )
    def test_classes_are_sorted_by_number_or_by_name(self, task, full, labels, classes):
        rows = [(f"{WORDS[i]} one", label) for i, label in enumerate(labels)]
        train, _ = read(task(rows, rows), full)
        assert train.classes == classes
        by_word = {number - 10: train.classes[label] for number, label in pairs(train)}
        assert by_word == {
            i: str(int(x) if isinstance(x, float) else x) for i, x in enumerate(labels)
        }

    def test_other_columns_can_hold_text_and_label(self, task, full):
        train, _ = read(task(text="sentence", label="odd"), full)
        assert len(train.labels) == 40

    def test_a_test_set_may_lack_a_class(self, task, full):
        train = [("one two", "a"), ("two two", "b"), ("three two", "c")]
        _, test = read(task(train, train[1:]), full)
        assert test.classes == ("a", "b", "c")
        assert sorted(test.labels.tolist()) == [1, 2]

    def test_the_digest_knows_tokens_labels_and_classes(self, task, full):
        def digest(rows):
            return read(task(rows, rows), full)[0].digest

        rows = [("one two", "a"), ("two two", "b"), ("three two", "b")]
        relabelled = [("one two", "a"), ("two two", "b"), ("three two", "a")]
        renamed = [(text, label + "x") for text, label in rows]
        other = [("one two", "a"), ("two two", "b"), ("three one", "b")]
        assert digest(rows) == digest(list(rows))
        assert len({digest(rows) for rows in (rows, relabelled, renamed, other)}) == 4

    def test_it_describes_itself_as_plain_values(self, task, full):
        train, _ = read(task(), full, max_train=10)
        said = json.loads(json.dumps(train.describe()))
        assert sum(said["classes"].values()) == 10
        assert said["data"]["n_rows"] == 40
        assert (said["data"]["limit"], said["data"]["seed"]) == (10, 42)
        assert said["data"]["tokenizer"] == ""
        assert said["digest"] == train.digest


class TestBadData:
    def test_a_missing_column_lists_those_there(self, task, full):
        made = task()
        for change, name in (({"label": "class"}, "class"), ({"text": "body"}, "body")):
            with pytest.raises(DataError, match=rf"column '{name}'.*'text', 'label'.*label ="):
                read(Task("t", made.train, made.test, **change), full)

    def test_a_constant_label_is_refused(self, task, full):
        rows = [(text, -1) for text, _ in ROWS]
        with pytest.raises(DataError, match=r"train\.jsonl.*all of 40 examples.*'-1'"):
            read(task(train=rows), full)
        with pytest.raises(DataError, match=r"test\.jsonl.*all of 40.*not"):
            read(task(test=rows), full)

    def test_a_class_that_only_the_test_set_has_is_refused(self, task, full):
        with pytest.raises(DataError, match=r"'7' only in the test examples; train has '0', '1'"):
            read(task(test=[*ROWS, ("one two", 7)]), full)

    @pytest.mark.parametrize(
        ("row", "said"),
        [
            (("one two", None), r"a label in row 3.*none"),
            (("one two", ""), r"a label in row 3.*none"),
            (("one two", 0.5), r"a label in row 3.*0\.5, a float"),
            (("one two", [1]), r"a label in row 3.*list"),
            ((5, 1), r"a text in row 3.*int"),
        ],
    )
    def test_a_row_that_is_no_example_is_named(self, task, full, row, said):
        with pytest.raises(DataError, match=said):
            read(task(train=[*ROWS[:2], row]), full)

    def test_a_column_of_which_every_value_is_a_class_is_refused_before_it_costs(
        self, task, full, monkeypatch
    ):
        rows = [("one two", f"{i:090d}") for i in range(MAX_CLASSES + 1)]
        monkeypatch.setattr(Reader, "each", lambda *_: pytest.fail("tokenised"))
        with pytest.raises(DataError, match=r"column 'label' of .*train.*301.*label =") as caught:
            read(task(train=rows), full, max_train=10**6)
        assert f"'{'0' * 40}…'" in caught.value.found
        monkeypatch.undo()
        many, _ = read(task(train=rows[:-1], test=rows[:-1]), full, max_train=10**6, max_test=10**6)
        assert len(many.classes) == MAX_CLASSES

    def test_no_example_at_all_is_refused(self, task, full):
        with pytest.raises(DataError, match="no row at all"):
            read(task(train=[]), full)
        with pytest.raises(DataError, match="none among 2 examples"):
            read(task(train=[("", 0), ("", 1)]), full)

    def test_rows_without_columns_are_refused(self, tmp_path, full):
        (tmp_path / "train.jsonl").write_text('"one"\n"two"\n')
        path = str(tmp_path / "train.jsonl")
        with pytest.raises(DataError, match="a row without columns"):
            read(Task("t", path, path), full)

    def test_text_files_and_made_ids_have_no_labels(self, tmp_path, full):
        (tmp_path / "train.txt").write_text("one two")
        path = str(tmp_path / "train.txt")
        with pytest.raises(DataError, match=r"\.jsonl"):
            read(Task("t", path, path), full)
        with pytest.raises(DataError, match="not for documents"):
            read(Task("t", "uniform", "uniform"), full)

    def test_an_id_beyond_the_model_and_a_missing_tokenizer_are_refused(self, task, full):
        with pytest.raises(DataError, match="belongs to the model"):
            read(task(), full, vocab_size=12, model="tiny")
        with pytest.raises(DataError, match="without a tokenizer"):
            read(task(), None, model="bare")


class TestFindTask:
    def test_a_known_name_is_a_task_of_the_hub(self):
        assert set(KNOWN_TASKS) == {"sst2", "cola", "ag_news", "yelp_polarity"}
        assert find_task("cola").train == "hf:nyu-mll/glue/cola#train"
        assert (find_task("sst2").text, find_task("ag_news").text) == ("sentence", "text")

    def test_a_folder_holds_a_train_and_a_test_file(self, tmp_path, full):
        write(tmp_path / "train.csv", ROWS)
        write(tmp_path / "test.parquet", ROWS)
        (tmp_path / "test.txt").write_text("notes")
        found = find_task(str(tmp_path))
        assert (found.name, found.text, found.label) == (tmp_path.name, "text", "label")
        assert Path(found.train).name == "train.csv"
        train, test = read(Task("mine", str(tmp_path), ""), full)
        assert train.name == "mine"
        assert sorted(pairs(train)) == sorted(pairs(test))

    def test_a_folder_that_is_called_like_a_known_task_is_named_with_a_dot(
        self, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "sst2").mkdir()
        for split in ("train", "test"):
            write(tmp_path / "sst2" / f"{split}.csv", ROWS)
        assert find_task("./sst2").train == "sst2/train.csv"
        assert find_task("sst2").train.startswith("hf:")

    def test_what_is_no_task_is_refused_with_what_would_be(self, tmp_path):
        with pytest.raises(DataError, match=r"no known task.*sst2.*train and test"):
            find_task("sst3")
        with pytest.raises(DataError, match=r"one train file.*found none"):
            find_task(str(tmp_path))
        write(tmp_path / "train.csv", ROWS)
        write(tmp_path / "train.json", ROWS)
        with pytest.raises(DataError, match=r"train\.csv, train\.json"):
            find_task(str(tmp_path))

    def test_the_shipped_tasks_can_be_read(self, full):
        folders = sorted((Path(__file__).parents[2] / "fixtures" / "labelled").glob("*/"))
        for folder in (path for path in folders if list(path.glob("train.*"))):
            train, test = read(Task("", str(folder), ""), full, mask="none")
            assert len(train.classes) >= 2
            assert len(test.labels) > 0


class TestHub:
    @pytest.fixture
    def asked(self, monkeypatch):
        import datasets
        import huggingface_hub

        asked = []
        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["even", "odd"])}
        )
        table = {"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]}

        def load(name, config, *, split, revision, streaming):
            asked.append((name, config, split, revision, streaming))
            return datasets.Dataset.from_dict(table, features=features)

        class Api:
            def dataset_info(self, name, revision=None):
                return type("Info", (), {"sha": "c" * 40})

        monkeypatch.setattr(datasets, "load_dataset", load)
        monkeypatch.setattr(huggingface_hub, "HfApi", Api)
        return asked

    def test_a_task_of_the_hub_is_drawn_as_a_local_one(self, asked, task, full):
        hub = Task("t", "hf:org/name/config@v1#train", "hf:org/name/config@v1#test")
        train, test = read(hub, full, max_train=9)
        local, _ = read(task(), full, max_train=9)
        assert pairs(train) == pairs(local)
        assert train.digest == local.digest
        assert asked == [
            ("org/name", "config", "train", "c" * 40, False),
            ("org/name", "config", "test", "c" * 40, False),
        ]
        assert test.describe()["data"]["commit"] == "c" * 40

    def test_a_missing_column_lists_those_there(self, asked, full):
        with pytest.raises(DataError, match=r"column 'class'.*'text', 'label'"):
            read(Task("t", "hf:o/n#train", "hf:o/n#test", label="class"), full)


class TestDocuments:
    def rows(self, n=40):
        return [(*row, f"d{i % 3}") for i, row in enumerate(ROWS[:n])]

    def made(self, tmp_path, rows, column="document", suffix=".jsonl", **more):
        paths = [
            write(tmp_path / f"{split}{suffix}", rows, ("text", "label", column))
            for split in ("train", "test")
        ]
        return Task("task", *paths, **more)

    @pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
    def test_the_document_of_each_text_is_numbered(self, tmp_path, full, suffix):
        _, test = read(self.made(tmp_path, self.rows(), suffix=suffix), full)
        assert [number % 3 for number, _ in pairs(test)] == test.documents.tolist()
        assert test.documents.dtype == np.int64
        assert test.describe()["n_documents"] == 3

    def test_texts_keep_their_documents_where_others_are_dropped(self, tmp_path, full):
        rows = [("", 0, "d9"), *self.rows()]
        _, test = read(self.made(tmp_path, rows), full)
        assert test.n_dropped == 1
        assert [number % 3 for number, _ in pairs(test)] == test.documents.tolist()

    def test_a_text_without_a_document_is_one_of_its_own(self, tmp_path, full):
        rows = [(*row, None if i % 3 == 0 else f"d{i % 3}") for i, row in enumerate(ROWS)]
        _, test = read(self.made(tmp_path, rows), full)
        assert len(np.unique(test.documents)) == 14 + 2

    def test_without_the_column_there_are_none(self, task, full):
        assert read(task(), full)[1].documents is None

    def test_the_column_may_have_another_name_and_then_has_to_be_there(self, tmp_path, full):
        _, test = read(self.made(tmp_path, self.rows(), "module", document="module"), full)
        assert test.describe()["n_documents"] == 3
        with pytest.raises(DataError, match="column 'page'"):
            read(self.made(tmp_path, self.rows(), document="page"), full)

    def test_records_depend_on_the_documents(self, tmp_path, full):
        first = read(self.made(tmp_path, self.rows()), full)[1].digest
        other = [(text, label, "d0" if name == "d1" else name) for text, label, name in self.rows()]
        assert read(self.made(tmp_path, other), full)[1].digest != first

    def test_the_shipped_tasks_name_their_documents(self, full):
        folder = Path(__file__).parents[2] / "fixtures" / "labelled" / "code"
        _, test = read(Task("", str(folder), ""), full, max_test=240, mask="none")
        assert test.describe()["n_documents"] == 23
