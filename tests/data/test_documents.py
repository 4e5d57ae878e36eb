import csv
import json
from unittest.mock import MagicMock

import pytest

from saebench.data import documents
from saebench.data.documents import Piece, open_documents
from saebench.errors import DataError, HubError

ROWS = ["first text", "second\ntext", "dritter Text: äöü"]


def contents(spec):
    return [piece.content for piece in open_documents(str(spec)).read()]


def write_table(folder, suffix, column="text"):
    path = folder / f"rows.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps({"id": 1, column: row}) + "\n" for row in ROWS))
    elif suffix == "json":
        path.write_text(json.dumps([{column: row} for row in ROWS]))
    elif suffix == "csv":
        with path.open("w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerows([["id", column], *([i, row] for i, row in enumerate(ROWS))])
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"id": [1, 2, 3], column: ROWS}), path)
    return path


class TestFormats:
    @pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
    def test_a_table_gives_its_rows_as_documents(self, tmp_path, suffix):
        assert contents(write_table(tmp_path, suffix)) == ROWS

    @pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
    def test_another_column_is_named_after_a_hash(self, tmp_path, suffix):
        path = write_table(tmp_path, suffix, column="body")
        assert contents(f"{path}#body") == ROWS

    @pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
    def test_a_missing_column_is_an_error_that_lists_the_columns(self, tmp_path, suffix):
        path = write_table(tmp_path, suffix, column="body")
        with pytest.raises(DataError, match="'body'"):
            contents(path)
        with pytest.raises(DataError, match=r"column 'other'.*'body'"):
            contents(f"{path}#other")

    def test_a_text_file_is_one_document(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("one paragraph\n\nanother paragraph\n")
        assert contents(path) == ["one paragraph\n\nanother paragraph\n"]

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (["a", "b"], ["a", "b"]),
            ([[1, 2], [3]], [[1, 2], [3]]),
            ({"text": ["a", "b"], "n": [1, 2]}, ["a", "b"]),
            ({"text": "alone"}, ["alone"]),
        ],
    )
    def test_json_may_hold_plain_rows_or_columns(self, tmp_path, data, expected):
        path = tmp_path / "a.json"
        path.write_text(json.dumps(data))
        assert contents(path) == expected

    def test_json_lines_under_the_suffix_json_are_read(self, tmp_path):
        path = tmp_path / "a.json"
        path.write_text('{"text": "a"}\n{"text": "b"}\n')
        assert contents(path) == ["a", "b"]

    def test_a_folder_gives_its_files_in_the_order_of_their_names(self, tmp_path):
        (tmp_path / "sub").mkdir()
        for name, text in (("b.txt", "B"), ("a.txt", "A"), ("sub/c.txt", "C"), ("README.md", "no")):
            (tmp_path / name).write_text(text)
        assert contents(tmp_path) == ["A", "B", "C"]

    @pytest.mark.parametrize("column", ["input_ids", "tokens"])
    def test_columns_of_token_ids_are_found_by_their_usual_names(self, tmp_path, column):
        path = tmp_path / "a.jsonl"
        path.write_text(json.dumps({column: [5, 6, 7], "n": 3}))
        assert contents(path) == [[5, 6, 7]]

    def test_a_file_whose_own_name_has_a_hash_is_read(self, tmp_path):
        path = tmp_path / "a#b.txt"
        path.write_text("here")
        assert contents(path) == ["here"]


class TestLongTexts:
    def test_come_in_blocks_that_end_at_line_ends_and_add_up(self, tmp_path, monkeypatch):
        monkeypatch.setattr(documents, "BLOCK_CHARS", 50)
        text = "".join(f"this is line {i}\n" for i in range(40))
        path = tmp_path / "a.txt"
        path.write_text(text)
        pieces = list(open_documents(str(path)).read())
        assert "".join(str(piece.content) for piece in pieces) == text
        assert [piece.starts for piece in pieces] == [True] + [False] * (len(pieces) - 1)
        assert all(str(piece.content).endswith("\n") for piece in pieces)
        assert max(len(piece.content) for piece in pieces) < 100

    def test_rows_of_a_table_are_cut_in_the_same_way(self, tmp_path, monkeypatch):
        monkeypatch.setattr(documents, "BLOCK_CHARS", 10)
        path = tmp_path / "a.jsonl"
        path.write_text(json.dumps({"text": "x" * 35}) + "\n" + json.dumps({"text": "short"}))
        pieces = list(open_documents(str(path)).read())
        assert "".join(str(p.content) for p in pieces) == "x" * 35 + "short"
        assert pieces[-1] == Piece("short", True)
        assert max(len(piece.content) for piece in pieces) <= 20


class TestBadData:
    def test_a_missing_file_names_what_may_be_given(self, tmp_path):
        with pytest.raises(DataError, match=r"no file or folder.*hf:org/name#split"):
            open_documents(str(tmp_path / "absent.jsonl"))

    def test_an_unknown_format_is_named(self, tmp_path):
        (tmp_path / "a.docx").write_text("")
        with pytest.raises(DataError, match=r"\.docx"):
            open_documents(str(tmp_path / "a.docx"))
        with pytest.raises(DataError, match=r"a folder with \.docx"):
            open_documents(str(tmp_path))

    def test_an_empty_folder_is_refused(self, tmp_path):
        with pytest.raises(DataError, match="nothing"):
            open_documents(str(tmp_path))

    def test_a_broken_line_is_named_by_number(self, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_text('{"text": "a"}\n\n{"text": ')
        with pytest.raises(DataError, match="line 3"):
            contents(path)

    def test_a_value_that_is_neither_text_nor_ids_is_named_by_row(self, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_text('{"text": "a"}\n{"text": {"no": 1}}')
        with pytest.raises(DataError, match="row 2"):
            contents(path)

    def test_a_later_row_without_the_column_is_named(self, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_text('{"text": "a"}\n{"body": "b"}')
        with pytest.raises(DataError, match=r"row 2.*'body'"):
            contents(path)

    def test_text_that_is_not_utf8_is_refused(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"caf\xe9")
        with pytest.raises(DataError, match="UTF-8"):
            contents(tmp_path / "a.txt")

    def test_a_truncated_parquet_file_is_refused(self, tmp_path):
        path = write_table(tmp_path, "parquet")
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(DataError, match="parquet"):
            contents(path)


class TestHub:
    """The hub itself is replaced; ``datasets`` streams local files in its place."""

    @pytest.fixture
    def hub(self, tmp_path, monkeypatch):
        import datasets
        import huggingface_hub

        asked = []
        path = tmp_path / "data.jsonl"
        path.write_text("".join(json.dumps({"text": row, "ids": [1, 2]}) + "\n" for row in ROWS))
        real = datasets.load_dataset

        def load(name, config, *, split, revision, streaming):
            asked.append((name, config, split, revision, streaming))
            return real("json", data_files={"train": str(path)}, split=split, streaming=streaming)

        class Api:
            def dataset_info(self, name, revision=None):
                asked.append((name, revision))
                return type("Info", (), {"sha": "c" * 40})

        monkeypatch.setattr(datasets, "load_dataset", load)
        monkeypatch.setattr(huggingface_hub, "HfApi", Api)
        return asked

    def test_rows_are_streamed_at_the_commit_that_the_revision_means(self, hub):
        source = open_documents("hf:org/name/config@v1#train:text")
        assert [piece.content for piece in source.read()] == ROWS
        assert hub == [("org/name", "v1"), ("org/name", "config", "train", "c" * 40, True)]
        assert source.describe()["commit"] == "c" * 40

    def test_a_column_of_ids_can_be_asked_for(self, hub):
        assert contents("hf:org/name#train:ids") == [[1, 2]] * 3
        assert hub[0] == ("org/name", None)

    def test_a_missing_column_lists_those_there(self, hub):
        with pytest.raises(DataError, match=r"'body'.*'text', 'ids'"):
            contents("hf:org/name#train:body")

    def test_a_missing_split_says_which_there_are(self, hub):
        with pytest.raises(DataError, match="train"):
            contents("hf:org/name#validation")

    @pytest.mark.parametrize(
        "spec", ["hf:org/name", "hf:org/name#", "hf:#train", "hf:a/b/c/d#train"]
    )
    def test_a_spec_without_name_or_split_is_refused(self, spec):
        with pytest.raises(DataError, match="#train"):
            open_documents(spec)

    def test_an_unknown_dataset_and_an_unreachable_hub_differ(self, monkeypatch):
        import huggingface_hub
        from huggingface_hub.errors import RepositoryNotFoundError

        def failing(error):
            class Api:
                def dataset_info(self, name, revision=None):
                    raise error

            return Api

        missing = RepositoryNotFoundError("gone", response=MagicMock())
        monkeypatch.setattr(huggingface_hub, "HfApi", failing(missing))
        with pytest.raises(DataError, match="no such dataset"):
            open_documents("hf:org/name#train")
        monkeypatch.setattr(huggingface_hub, "HfApi", failing(ConnectionError("offline")))
        with pytest.raises(HubError, match="could not be reached"):
            open_documents("hf:org/name#train")
