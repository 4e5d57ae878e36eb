"""Completions on disk: the same bytes each time, and provenance that is true of them or none."""

import hashlib
import json

import pytest
import torch

from saebench.errors import OutputError
from saebench.generation.completion_settings import CompletionSettings
from saebench.generation.completions_file import (
    carry_provenance,
    provenance_path,
    read_provenance,
    write_completions,
)


def write(path, text="a", **more):
    rows = [{"prompt": "p", "completion": text, "seed": 0}]
    return write_completions(
        path,
        rows,
        model={"id": "m"},
        settings=CompletionSettings().to_json(),
        prompts={"spec": "p.jsonl"},
        **more,
    )


def test_rows_and_where_they_come_from_are_written_alike_each_time(tmp_path):
    path = tmp_path / "new" / "c.jsonl"
    beside = write(path, "ä\n", more={"rules": {"n_chars": 5}})
    assert beside == provenance_path(path) == tmp_path / "new" / "c.completions.json"
    first = path.read_bytes(), beside.read_bytes()
    assert json.loads(first[0])["completion"] == "ä\n"
    said = json.loads(first[1])
    assert said["sha256"] == hashlib.sha256(first[0]).hexdigest()
    assert (said["model"], said["n_completions"]) == ({"id": "m"}, 1)
    assert said["environment"]["torch"] == str(torch.__version__)
    write(path, "ä\n", more={"rules": {"n_chars": 5}})
    assert (path.read_bytes(), beside.read_bytes()) == first
    assert sorted(p.name for p in path.parent.iterdir()) == ["c.completions.json", "c.jsonl"]


def test_provenance_is_believed_of_the_content_that_it_names_alone(tmp_path):
    path = tmp_path / "c.jsonl"
    assert read_provenance(path) is None
    write(path)
    assert read_provenance(path)["model"] == {"id": "m"}
    path.write_text(path.read_text() + "\n")
    assert read_provenance(path) is None
    write(path)
    for bad in ("", "[]", "{}", '"x"', "[" * 100_000):
        provenance_path(path).write_text(bad)
        assert read_provenance(path) is None


def test_a_kill_between_the_two_leaves_no_wrong_provenance(tmp_path, monkeypatch):
    path = tmp_path / "c.jsonl"
    write(path)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("saebench.generation.completions_file.put_json", killed)
    with pytest.raises(KeyboardInterrupt):
        write(path, "b")
    assert json.loads(path.read_text())["completion"] == "b"
    assert not provenance_path(path).exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="writing to"):
        write(tmp_path / "file" / "c.jsonl")


def test_what_is_made_of_completions_says_of_which(tmp_path):
    write(tmp_path / "c.jsonl")
    found = read_provenance(tmp_path / "c.jsonl")
    (tmp_path / "l.jsonl").write_text("{}\n")
    carry_provenance(found, tmp_path / "l.jsonl", {"labels": {"column": "label"}})
    said = read_provenance(tmp_path / "l.jsonl")
    assert said["made_of"] == found["sha256"] != said["sha256"]
    assert (said["model"], said["labels"], said["file"]) == (
        {"id": "m"},
        {"column": "label"},
        "l.jsonl",
    )
