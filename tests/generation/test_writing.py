"""Folders of generated text: exact counts, the same after any interruption, readable by ``datasets``."""

import json
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from saebench.errors import ModelError, OutputError
from saebench.generation import GenerationSettings, generate, writing
from saebench.models import LanguageModel
from saebench.whole_files import locked

ROOT = Path(__file__).parents[2]
SETTINGS = GenerationSettings(tokens=3001, length=24, batch_size=8, seed=1)
SMALL = 500  # tokens of a shard


@pytest.fixture(scope="module")
def model():
    return LanguageModel.load(ROOT / "fixtures" / "model", device="cpu")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(writing, "MIN_SHARD_TOKENS", SMALL)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """One uninterrupted folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "MIN_SHARD_TOKENS", SMALL)
        return generate(model, SETTINGS, tmp_path_factory.mktemp("whole"))


def content(folder):
    """Every file of a folder but the lock, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def test_the_number_of_sampled_tokens_is_exact(whole, model):
    rows = list(whole.sequences())
    assert sum(map(len, rows)) == 3001 == whole.manifest.counts["tokens"]
    assert whole.manifest.counts["sequences"] == len(rows)
    assert len(whole.manifest.shards) > 3
    eos = model.tokenizer.eos_token_id
    assert all(len(row) == 23 or row[-1] == eos for row in rows[:-1])
    assert not any((row[:-1] == eos).any() for row in rows)


def test_fewer_tokens_are_the_beginning_of_more(whole, model, tmp_path):
    short = generate(model, replace(SETTINGS, tokens=777), tmp_path)
    expected = np.concatenate(list(whole.sequences()))[:777]
    assert np.concatenate(list(short.sequences())).tolist() == expected.tolist()


def test_the_datasets_library_reads_folder_and_files(whole, model, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    cache = str(tmp_path / "cache")
    rows = datasets.load_dataset(str(whole.folder), split="train", cache_dir=cache)
    files = datasets.load_dataset(
        "parquet", data_files=str(whole.data / "*.parquet"), split="train", cache_dir=cache
    )
    assert rows.features["input_ids"].feature.dtype == "int32"
    assert rows.column_names == ["input_ids", "text", "n_tokens"]
    sampled = [row.tolist() for row in whole.sequences()]
    start = model.tokenizer.bos_token_id
    for table in (rows, files):
        assert [list(ids) for ids in table["input_ids"]] == [[start, *row] for row in sampled]
        assert list(table["n_tokens"]) == [len(row) for row in sampled]
    assert list(rows["text"][:5]) == [
        model.tokenizer.decode(row, skip_special_tokens=True) for row in sampled[:5]
    ]


class Stopped(Exception):
    """Raised in the place of a kill."""


@pytest.mark.parametrize("after", [0, 300, 600, 1700, 2900])
def test_an_interruption_anywhere_changes_no_byte(whole, model, tmp_path, after):
    def stop(done, wanted):
        if done >= after:
            raise Stopped

    with pytest.raises(Stopped):
        generate(model, SETTINGS, tmp_path, progress=stop)
    assert json.loads((tmp_path / "generation.json").read_text())["status"] == "unfinished"
    generate(model, SETTINGS, tmp_path)
    assert content(tmp_path) == content(whole.folder)


def test_leftovers_of_a_kill_between_two_writes_are_written_over(whole, model, tmp_path):
    shutil.copytree(whole.folder, tmp_path, dirs_exist_ok=True)
    manifest = json.loads((tmp_path / "generation.json").read_text())
    manifest.update(status="unfinished", shards=manifest["shards"][:2], statistics=None)
    (tmp_path / "generation.json").write_text(json.dumps(manifest))
    (tmp_path / "data" / "train-00002.parquet").write_bytes(b"a shard without an entry")
    (tmp_path / "data" / ".train-00003.parquet.tmp").write_bytes(b"half a sh")
    generate(model, SETTINGS, tmp_path)
    assert content(tmp_path) == content(whole.folder)


KILLED = f"""
import sys, time
from saebench.generation import GenerationSettings, generate, writing
from saebench.models import LanguageModel
writing.MIN_SHARD_TOKENS = {SMALL}
def progress(done, wanted):
    if done > 1400:
        print("now", flush=True)
        time.sleep(600)
model = LanguageModel.load("fixtures/model", device="cpu")
generate(model, GenerationSettings(**{SETTINGS.to_json()}), sys.argv[1], progress=progress)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_process_is_gone_on_with_to_the_same_bytes(whole, model, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "now\n"
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = content(tmp_path)
    names = [shard["file"] for shard in json.loads(before["generation.json"])["shards"]]
    assert 1 <= len(names) < len(whole.manifest.shards)
    seen = []
    generate(model, SETTINGS, tmp_path, progress=lambda done, wanted: seen.append(done))
    assert seen[0] == sum(shard["n_tokens"] for shard in whole.manifest.shards[: len(names)])
    after = content(tmp_path)
    assert after == content(whole.folder)
    assert all(after[name] == before[name] for name in names)


def test_what_is_finished_is_left_alone(whole, model, tmp_path):
    shutil.copytree(whole.folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "README.md").write_text("my own card")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    again = generate(model, SETTINGS, tmp_path, progress=lambda done, wanted: pytest.fail("worked"))
    assert again.manifest.finished
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == before
    assert (tmp_path / "README.md").read_text() == "my own card"


def test_a_lost_shard_is_written_again(whole, model, tmp_path):
    shutil.copytree(whole.folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "data" / "train-00001.parquet").unlink()
    generate(model, SETTINGS, tmp_path)
    assert content(tmp_path) == content(whole.folder)


def test_a_changed_shard_is_refused(whole, model, tmp_path):
    shutil.copytree(whole.folder, tmp_path, dirs_exist_ok=True)
    with (tmp_path / "data" / "train-00001.parquet").open("ab") as file:
        file.write(b"!")
    with pytest.raises(OutputError, match="train-00001"):
        generate(model, SETTINGS, tmp_path)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"temperature": 0.7}, r"temperature 1\.0 there and 0\.7 asked"),
        ({"tokens": 3000}, "tokens 3001 there and 3000 asked"),
        ({"batch_size": 4, "seed": 2}, "seed 1 there and 2 asked; batch_size 8 there and 4"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused_by_name(whole, model, other, said):
    before = content(whole.folder)
    with pytest.raises(OutputError, match=said):
        generate(model, replace(SETTINGS, **other), whole.folder)
    assert content(whole.folder) == before


def test_another_model_in_the_same_folder_is_refused(whole):
    other = LanguageModel.load(ROOT / "fixtures" / "model", device="cpu")
    other.digest = "0" * 64
    with pytest.raises(OutputError, match="model digest"):
        generate(other, SETTINGS, whole.folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 2}', '{"schema_version": 1}'])
def test_a_damaged_manifest_is_refused(model, tmp_path, text):
    (tmp_path / "generation.json").write_text(text)
    with pytest.raises(OutputError, match="damaged"):
        generate(model, SETTINGS, tmp_path)


def test_a_folder_with_shards_of_somebody_else_is_refused(model, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000.parquet").write_bytes(b"precious")
    with pytest.raises(OutputError, match="did not write"):
        generate(model, SETTINGS, tmp_path)
    assert (tmp_path / "data" / "train-00000.parquet").read_bytes() == b"precious"


def test_a_file_in_the_place_of_the_folder_is_refused(model, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="writing to"):
        generate(model, SETTINGS, tmp_path / "out")


def test_a_model_without_a_tokenizer_is_refused_before_anything_is_written(model, tmp_path):
    bare = LanguageModel(model.model)
    with pytest.raises(ModelError, match="tokenizer"):
        generate(bare, SETTINGS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_second_writer_waits_for_the_first(model, tmp_path):
    pytest.importorskip("fcntl")
    settings = replace(SETTINGS, tokens=100)
    done = threading.Event()

    def second():
        generate(model, settings, tmp_path)
        done.set()

    with locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        assert not done.wait(0.7)
        assert not (tmp_path / "data").exists()
    thread.join()
    assert done.is_set()


def test_the_manifest_says_what_was_made_of_what(whole, model):
    data = json.loads((whole.folder / "generation.json").read_text())
    assert data["settings"] == SETTINGS.to_json()
    assert data["model"]["digest"] == model.digest
    assert data["vocabulary"]["size"] == 4096
    assert data["vocabulary"]["start_id"] == 0
    assert data["versions"][0]["saebench"]
    assert data["statistics"]["n_tokens"] == 3001
    assert sum(shard["n_tokens"] for shard in data["shards"]) == 3001


def test_a_folder_that_holds_other_things_is_refused_and_left_as_it_is(model, tmp_path):
    (tmp_path / "cfg.json").write_text("{}")
    with pytest.raises(OutputError, match=r"it holds cfg\.json"):
        generate(model, SETTINGS, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == [
        "cfg.json"
    ]
