"""Generated text in the cache: made once, gone on with, apart by model and settings."""

from pathlib import Path

import pytest

from saebench.errors import ModelError
from saebench.generation import GenerationSettings, cached, ensure_generated, generate, writing
from saebench.models import LanguageModel

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
