"""Whole rows of tables: every column, whatever the format."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from saebench.data.records import read_table
from saebench.errors import DataError

ROWS = [{"a": "x", "b": 1}, {"a": "ü", "b": 2}]


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.csv", "t.parquet"])
def test_rows_come_with_all_their_columns(tmp_path, name):
    path = tmp_path / name
    if name == "t.parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif name == "t.csv":
        path.write_text("a,b\nx,1\nü,2\n")
    elif name == "t.json":
        path.write_text(json.dumps(ROWS))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    rows, column, source = read_table(f"{path}#a")
    expected = [{**row, "b": str(row["b"])} for row in ROWS] if name == "t.csv" else ROWS
    assert list(rows) == expected
    assert column == "a"
    assert source["files"] == {name: path.stat().st_size}
    assert read_table(str(path))[1] is None


def test_lines_may_differ_in_their_columns(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1}\n\n{"b": 2, "a": 3}\n')
    assert list(read_table(str(path))[0]) == [{"a": 1}, {"b": 2, "a": 3}]


def test_rows_of_the_hub_are_read_alike(monkeypatch):
    import datasets
    import huggingface_hub

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(ROWS))
    api = type("Api", (), {"dataset_info": lambda *_, **__: type("Info", (), {"sha": "c" * 40})})
    monkeypatch.setattr(huggingface_hub, "HfApi", api)
    rows, column, source = read_table("hf:org/name#train:a")
    assert (list(rows), column, source["commit"]) == (ROWS, "a", "c" * 40)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.jsonl", '{"a": 1}\n5\n', "row 2 of .*a row without any"),
        ("t.json", '["x", "y"]', "row 1 of .*a row without any"),
        ("t.jsonl", '{"a": "\\ud800"}\n', "half of a pair"),
        ("t.jsonl", "{a}\n", "JSON on line 1"),
        ("t.csv", "a,a\n1,2\n", "2 columns of that name"),
        ("t.csv", "a,b\n1\n", None),
        ("t.txt", "text", "plain text"),
    ],
)
def test_rows_that_are_none_are_named(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    if said is None:
        assert list(read_table(str(tmp_path / name))[0]) == [{"a": "1", "b": None}]
        return
    with pytest.raises(DataError, match=said):
        list(read_table(str(tmp_path / name))[0])
