"""What a ``generation.json`` may say: whatever is not so is an error of ours that names the field."""

import json

import pytest

from saebench.errors import OutputError
from saebench.generation.manifest import read_manifest
from tests.data.words import word_tokenizer
from tests.generated import write_generated


class _Nothing:
    """Stands for a key that is taken out; named the same in every process."""

    def __repr__(self) -> str:
        return "nothing"


DELETE = _Nothing()


@pytest.fixture
def folder(tmp_path):
    return write_generated(tmp_path, word_tokenizer(), [[10, 1, 2]], [[10, 3, 4]])


def changed(folder, where, value):
    """Write the folder's manifest with one value changed."""
    path = folder / "generation.json"
    data = json.loads(path.read_text())
    *outer, last = where
    inside = data
    for name in outer:
        inside = inside[name]
    if value is DELETE:
        del inside[last]
    else:
        inside[last] = value
    path.write_text(json.dumps(data))


def test_what_saebench_writes_is_read(folder):
    assert read_manifest(folder).counts == {"sequences": 2, "tokens": 4}


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (["shards"], []),
        (["shards"], {}),
        (["shards"], None),
        (["shards", 0], "train"),
        (["shards", 0, "file"], "../../../etc/passwd"),
        (["shards", 0, "file"], "data/train-00001.parquet"),
        (["shards", 0, "file"], 3),
        (["shards", 0, "sha256"], None),
        (["shards", 0, "n_tokens"], 3),
        (["shards", 0, "n_tokens"], -2),
        (["shards", 0, "n_tokens"], 2.0),
        (["shards", 0, "n_tokens"], "2"),
        (["shards", 0, "n_sequences"], True),
        (["shards", 0, "n_sequences"], DELETE),
        (["settings"], []),
        (["settings", "tokens"], 5),
        (["settings", "tokens"], 0),
        (["settings", "tokens"], "4"),
        (["settings", "length"], None),
        (["settings", "temperature"], float("nan")),
        (["settings", "wit"], 1),
        (["model"], None),
        (["model", "digest"], 1),
        (["vocabulary"], "v"),
        (["vocabulary", "digest"], None),
        (["vocabulary", "start_id"], "0"),
        (["vocabulary", "eos_id"], -1),
        (["status"], "done"),
        (["status"], ["finished"]),
        (["versions"], []),
        (["versions"], [1]),
        (["statistics"], None),
        (["statistics"], [1]),
        (["statistics", "entropy"], "high"),
        (["statistics", "entropy"], 10**400),
        (["statistics", "entropy"], DELETE),
        (["statistics", "hashed_share"], None),
        (["reference"], "text"),
        (["reference"], {"spec": "a", "cut": "b", "statistics": {}, "distances": {}}),
        (["schema_version"], 2),
        (["schema_version"], DELETE),
        (["other"], 1),
    ],
    ids=str,
)
def test_what_saebench_does_not_write_is_refused(folder, where, value):
    changed(folder, where, value)
    with pytest.raises(OutputError, match="it is damaged"):
        read_manifest(folder)


@pytest.mark.parametrize("text", ["[]", "3", "null", "[" * 100_000, "1" * 5000, "\ud800"])
def test_what_is_no_object_is_refused(folder, text):
    (folder / "generation.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(OutputError, match="it is damaged"):
        read_manifest(folder)


def test_counts_are_those_of_the_shards_whatever_the_file_says(folder):
    changed(folder, ["counts"], {"tokens": "many"})
    assert read_manifest(folder).counts == {"sequences": 2, "tokens": 4}


def test_an_unfinished_text_has_no_more_tokens_than_it_shall_have(tmp_path):
    rows = [[10, 1, 2]]
    folder = write_generated(tmp_path, word_tokenizer(), rows, status="unfinished", tokens=3)
    assert not read_manifest(folder).finished
    changed(folder, ["settings", "tokens"], 1)
    with pytest.raises(OutputError, match="2 tokens of 1"):
        read_manifest(folder)
