"""Short model names of checkpoints' configs become hub ids; everything else stays what it is."""

import pytest

from saebench.models.names import hub_id


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2-small", "openai-community/gpt2"),
        ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped"),
        ("gemma-2-2b-it", "google/gemma-2-2b-it"),
        ("Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("google/gemma-2-2b", "google/gemma-2-2b"),
        ("some-model", "some-model"),
    ],
)
def test_a_short_name_stands_for_a_hub_id(name, expected):
    assert hub_id(name) == expected


def test_a_folder_that_exists_is_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gemma-2-2b").mkdir()
    assert hub_id("gemma-2-2b") == "gemma-2-2b"
