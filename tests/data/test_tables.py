"""Files that are broken or hostile: each is an error of ours that names the file and the row."""

import csv
import json

import pyarrow
import pyarrow.parquet
import pytest

from saebench.data import tables
from saebench.data.documents import open_documents
from saebench.data.labelled import open_task
from saebench.errors import DataError
from saebench.protocols import Task

GOOD = '{"text": "one two", "label": 1}\n'
DIGITS = "1" * 5000
NESTED = "[" * 100_000
HALF = '"\\ud800 half"'


def read(path):
    return list(open_documents(str(path)).read())


def task_of(path, tokenizer):
    task = Task("t", str(path), str(path))
    return open_task(task, tokenizer, length=8, max_train=9, max_test=9)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (f'{{"text": {HALF}, "label": 1}}', r"row 2.*'\\ud800'"),
        (f'{{"text": "one", "label": {HALF}}}', r"row 2.*'\\ud800'"),
        (f'{{"text": "one", "label": {DIGITS}}}', "line 2.*digits"),
        (f'{{"text": "one", "label": {NESTED}}}', "line 2.*recursion"),
        (f'{{"text": {NESTED}', "line 2.*recursion"),
    ],
    ids=lambda value: value[:40],
)
def test_a_hostile_row_of_labelled_json_is_named(tmp_path, full, row, said):
    path = tmp_path / "hostile.jsonl"
    path.write_text(GOOD + row + "\n")
    with pytest.raises(DataError, match=rf"{said}") as caught:
        task_of(path, full)
    assert "hostile.jsonl" in str(caught.value)
    lines = tmp_path / "hostile.json"  # lines under another suffix
    path.rename(lines)
    with pytest.raises(DataError, match=r"hostile\.json"):
        task_of(lines, full)


@pytest.mark.parametrize("value", [HALF, f"[{DIGITS}]", NESTED, f"[1{'0' * 30}]"], ids=str.split)
def test_a_hostile_document_is_named(tmp_path, value):
    path = tmp_path / "hostile.jsonl"
    path.write_text('{"text": "one"}\n' + f'{{"text": {value}}}\n')
    with pytest.raises(DataError, match=r"(row|line) 2 of .*hostile\.jsonl"):
        read(path)
    path = tmp_path / "hostile.json"
    path.write_text(f'[{{"text": "one"}}, {{"text": {value}}}]')
    with pytest.raises(DataError, match=r"hostile\.json"):
        read(path)


def test_a_character_outside_of_ascii_is_no_fault(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "wörd \\ud83d\\ude00"}\n')
    assert read(path)[0].content == "wörd 😀"


def test_a_column_that_is_there_twice_is_refused(tmp_path, full):
    table = pyarrow.Table.from_arrays(
        [pyarrow.array(["one two"]), pyarrow.array(["three four"]), pyarrow.array([1])],
        names=["text", "text", "label"],
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("text,label,text\none two,1,three\n")
    for name in ("a.parquet", "a.csv"):
        said = rf"one column 'text' in .*{name}.*2 columns"
        with pytest.raises(DataError, match=said):
            read(tmp_path / name)
        with pytest.raises(DataError, match=said):
            task_of(tmp_path / name, full)


def test_a_column_twice_that_nobody_reads_is_no_fault(tmp_path):
    table = pyarrow.Table.from_arrays([["one"], ["x"], ["y"]], names=["text", "other", "other"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")[0].content == "one"


@pytest.fixture
def usual_csv_limit():
    """The limit is one of the process: what a test sets would break whoever reads CSV after it."""
    before = csv.field_size_limit()
    yield
    csv.field_size_limit(before)


@pytest.mark.usefixtures("usual_csv_limit")
def test_a_csv_that_cannot_be_read_is_named_with_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "FIELD_CHARS", 10)
    (tmp_path / "a.csv").write_text("text\nshort\n" + "long " * 9 + "\n")
    with pytest.raises(DataError, match=r"row 2 of .*a\.csv.*field larger"):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "error",
    [
        pyarrow.ArrowNotImplementedError("no such encoding"),
        pyarrow.ArrowKeyError("no such field"),
        OSError("corrupt snappy data"),
        OverflowError("year 30000"),
    ],
    ids=repr,
)
def test_whatever_goes_wrong_within_a_parquet_file_is_named_with_its_rows(
    tmp_path, monkeypatch, error
):
    table = pyarrow.table({"text": ["one"] * (tables.ROWS + 1)})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    whole = pyarrow.parquet.ParquetFile.iter_batches

    def failing(self, **more):
        yield next(whole(self, **more))
        raise error

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", failing)
    with pytest.raises(DataError, match=rf"a\.parquet, its rows from {tables.ROWS + 1} on"):
        read(tmp_path / "a.parquet")


def test_a_parquet_file_of_corrupted_pages_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    texts = [f"text number {i}" for i in range(2000)]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, compression="snappy")
    content = bytearray(path.read_bytes())
    content[200:900] = bytes(700)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet"):
        read(path)


def test_a_message_shows_some_of_many_columns_and_the_beginning_of_a_long_name():
    said = tables.listed([f"{i:060d}" for i in range(1000)])
    assert len(said) < 1200
    assert said.endswith(" and 980 more")
    assert tables.shown("x" * 41) == repr("x" * 40 + "…")
    assert tables.shown(json.loads("[" * 500 + "]" * 500)) == "a list"
