"""Generated text in the cache: made once, gone on with, apart by model and settings."""

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from saebench.data import open_stream
from saebench.errors import ModelError
from saebench.generation import GenerationSettings, cached, ensure_generated, generate, writing
from saebench.generation.manifest import read_manifest
from saebench.generation.shards import read_sequences as rows_in
from saebench.generation.writing import writer
from saebench.models import LanguageModel
from tests.data.words import rows_of

MODEL = Path(__file__).parents[2] / "fixtures" / "model"
SETTINGS = GenerationSettings(tokens=400, length=16, batch_size=8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAEBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(writing, "MIN_SHARD_TOKENS", 100)
    return tmp_path


def test_text_is_generated_once_and_then_found_without_loading_the_model(
    cache, monkeypatch, capsys
):
    folder = ensure_generated(str(MODEL), SETTINGS, device="cpu")
    assert folder.parent == cache / "generated"
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "400 tokens" in line
    assert str(folder) in line
    monkeypatch.setattr(LanguageModel, "open", lambda *_, **__: pytest.fail("loaded"))
    assert ensure_generated(str(MODEL), SETTINGS, device="cpu") == folder
    assert capsys.readouterr().err == ""


def test_it_is_the_text_that_generate_writes(tmp_path):
    folder = ensure_generated(str(MODEL), SETTINGS, device="cpu")
    model = LanguageModel.load(MODEL, device="cpu")
    other = generate(model, SETTINGS, tmp_path / "other").folder
    for path in sorted((other / "data").iterdir()):
        assert (folder / "data" / path.name).read_bytes() == path.read_bytes()


def test_what_was_interrupted_is_gone_on_with(monkeypatch, capsys):
    write, written = writing.write_shard, []

    def interrupted(folder, number, *rest):
        if number == 2:
            raise KeyboardInterrupt
        written.append(number)
        return write(folder, number, *rest)

    monkeypatch.setattr(writing, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensure_generated(str(MODEL), SETTINGS, device="cpu")
    monkeypatch.setattr(writing, "write_shard", write)
    capsys.readouterr()
    folder = ensure_generated(str(MODEL), SETTINGS, device="cpu")
    assert "are there" in capsys.readouterr().err
    assert written == [0, 1]
    assert len(list((folder / "data").iterdir())) > 2


def test_other_settings_have_another_folder_and_a_length_left_out_has_that_of_its_value():
    context = GenerationSettings(tokens=40, batch_size=2)
    folders = {
        ensure_generated(str(MODEL), settings, device="cpu")
        for settings in (SETTINGS, context, GenerationSettings(40, length=128, batch_size=2))
    }
    assert len(folders) == 2


def test_without_the_variable_the_cache_is_the_platforms_own(monkeypatch, tmp_path):
    monkeypatch.delenv("SAEBENCH_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cached.cache_folder() == tmp_path / ".cache" / "saebench"


def test_a_model_that_is_not_there_is_refused(cache):
    with pytest.raises(ModelError):
        ensure_generated("./no-such-model", SETTINGS)
    assert not (cache / "generated").exists()


def sampled(folder):
    return [row.tolist() for path in sorted((folder / "data").iterdir()) for row in rows_in(path)]


def test_a_longer_text_made_in_the_same_way_will_do_where_that_is_allowed(monkeypatch):
    longer = ensure_generated(str(MODEL), SETTINGS, device="cpu")
    n_sequences = read_manifest(longer).counts["sequences"]
    fewer, more = replace(SETTINGS, tokens=150), replace(SETTINGS, tokens=10**6)
    alone = ensure_generated(str(MODEL), fewer, device="cpu")
    rows = sampled(alone)
    assert alone != longer
    assert rows[:-1] == sampled(longer)[: len(rows) - 1]
    shutil.rmtree(alone)
    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "open", lambda *_, **__: pytest.fail("loaded"))
        assert ensure_generated(str(MODEL), fewer, or_more=True) == longer
        assert ensure_generated(str(MODEL), more, or_more=True, n_sequences=n_sequences) == longer
    for other, enough in (
        (replace(fewer, seed=1), None),
        (replace(SETTINGS, tokens=401), n_sequences + 1),
    ):
        found = ensure_generated(str(MODEL), other, device="cpu", or_more=True, n_sequences=enough)
        assert found != longer


def test_a_damaged_or_unfinished_longer_text_is_passed_over(cache):
    longer = ensure_generated(str(MODEL), SETTINGS, device="cpu")
    fewer = replace(SETTINGS, tokens=150)
    shard = sorted((longer / "data").iterdir())[0]
    shard.write_bytes(b"?" + shard.read_bytes()[1:])
    (cache / "generated" / "0").mkdir()
    (cache / "generated" / "0" / "generation.json").write_text("{")
    assert ensure_generated(str(MODEL), fewer, device="cpu", or_more=True) != longer


def test_a_run_and_its_shorter_control_are_of_one_text():
    """The streams that a run of fake features opens differ in their limits alone."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    main = open_stream(f"faithful:{MODEL}", tokenizer, context_size=16, n_tokens=400, device="cpu")
    n_sequences = main.tally().n_sequences
    control = open_stream(
        f"faithful:{MODEL}", tokenizer, context_size=16, n_sequences=n_sequences, device="cpu"
    )
    assert rows_of(control) == rows_of(main)
    assert len(list((cached.cache_folder() / "generated").iterdir())) == 1


def test_who_waited_for_another_process_reads_again_and_loads_no_model(cache, monkeypatch, capsys):
    pytest.importorskip("fcntl")
    finished = ensure_generated(str(MODEL), SETTINGS, device="cpu")
    held = finished.with_name("held")
    finished.rename(held)  # as it is before the other process is done
    capsys.readouterr()
    monkeypatch.setattr(LanguageModel, "open", lambda *_, **__: pytest.fail("loaded"))
    result = []
    finished.mkdir()
    with writer(finished):
        thread = threading.Thread(
            target=lambda: result.append(ensure_generated(str(MODEL), SETTINGS, device="cpu"))
        )
        thread.start()
        said = ""
        while "waiting" not in said and thread.is_alive():
            said += capsys.readouterr().err
        shutil.copytree(held, finished, dirs_exist_ok=True)
    thread.join()
    assert result == [finished]
    assert f"another process is writing to {finished}" in said
