"""Paths inside a data spec are relative to the configuration file, as all others are."""

from __future__ import annotations

from pathlib import Path

import pytest

from saebench.config import load_config, merge_options
from saebench.errors import ConfigError


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("text/a.jsonl#body", "sub/text/a.jsonl#body"),
        ("shuffled:text/a.jsonl?random_seed=2", "shuffled:sub/text/a.jsonl?random_seed=2"),
        ("unigram:../a.txt", "unigram:a.txt"),
        ("shuffled:hf:org/name#train", "shuffled:hf:org/name#train"),
        ("uniform?seed=1", "uniform?seed=1"),
        ("../uniform", "./uniform"),
        ("faithful:org/model?tokens=5", "faithful:org/model?tokens=5"),
        ("faithful:./model", "faithful:sub/model"),
        ("faithful:there", "faithful:sub/there"),
    ],
)
def test_a_spec_is_moved_with_its_file_and_options_leave_it(spec: str, expected: str) -> None:
    folder = Path.cwd() / "sub"
    (folder / "there").mkdir(parents=True)
    (folder / "saebench.toml").write_text(f'data = "{spec}"')
    config = load_config("sub/saebench.toml")
    assert config.data is not None
    assert config.data.spec == expected
    changed = merge_options(config, n_tokens=100).data
    assert changed is not None
    assert changed.spec == expected


def test_a_spec_that_means_nothing_is_an_error_of_the_configuration() -> None:
    Path("saebench.toml").write_text('data = "uniform?sed=1"')
    with pytest.raises(ConfigError, match=r"of \[?.*saebench.toml.*unknown key 'sed'"):
        load_config()
