"""A configuration is read strictly: what is not in the schema is an error that names the place."""

from __future__ import annotations

import dataclasses
from datetime import date
from pathlib import Path

import pytest

from saebench.config import (
    Config,
    DataSpec,
    ModelSpec,
    SAESpec,
    find_config,
    load_config,
)
from saebench.errors import ConfigError
from saebench.gates import Waiver
from tests.config.configurations import FULL, limits, load


def test_every_key_of_the_schema_is_read(tmp_path: Path) -> None:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    config = load(FULL)
    assert config.model == ModelSpec("models/tiny", None, "float32")
    assert config.data == DataSpec("text/heldout.jsonl", 128, None, None, "special", True)
    assert config.out == Path("reports/x")
    assert (config.batch_size, config.device, config.confidence) == (8, "cuda:1", True)
    assert config.suites == ("sparsity", "reconstruction")
    first, second = config.saes
    assert (first.ref, first.name, first.allow_pickle) == ("saes/topk-s0", "first", True)
    assert first.site == "blocks.2.hook_resid_pre"
    assert second == SAESpec("hf:org/repo@main:a/b")
    reason = "trained for a tenth of the tokens"
    assert config.waivers == (Waiver("first", "fve", reason, date(2027, 1, 31)),)
    assert config.source == tmp_path / "saebench.toml"


def test_model_and_data_may_be_tables() -> None:
    config = load(
        """
        model = { ref = "org/tiny", revision = "v1", precision = "bf16" }
        [data]
        spec = "hf:org/text#test"
        context_size = 64
        n_sequences = 1_000
        mask = "bos"
        pack = false
        """
    )
    assert config.model == ModelSpec("org/tiny", "v1", "bfloat16")
    assert config.data == DataSpec("hf:org/text#test", 64, 1000, None, "bos", False)


def test_checkpoints_may_be_one_text_or_a_list_of_texts_and_tables() -> None:
    assert load('sae = "a"').saes == (SAESpec("a"),)
    assert load('sae = ["a", { ref = "b", name = "n" }, "a"]').saes == (
        SAESpec("a"),
        SAESpec("b", "n"),
    )


def test_nothing_configured_is_the_default() -> None:
    assert load("") == dataclasses.replace(Config(), source=Path.cwd() / "saebench.toml")
    assert load_config(cwd=Path.cwd() / "elsewhere") == dataclasses.replace(
        Config(), source=Path.cwd() / "saebench.toml"
    )
    Path("saebench.toml").unlink()
    assert load_config() == Config()
    assert Config().suites == ("reconstruction", "sparsity", "dead_latents")


def test_a_configuration_and_all_in_it_is_frozen() -> None:
    config = load(FULL)
    for item in (config, config.model, config.data, config.saes[0], config.waivers[0]):
        with pytest.raises(dataclasses.FrozenInstanceError):
            item.out = Path("x")  # type: ignore[misc, union-attr]


def test_pyproject_is_read_from_its_own_table() -> None:
    config = load(
        '[tool.saebench]\nsae = ["a"]\n[tool.saebench.gates]\nfve = ">= 0.5"', "pyproject.toml"
    )
    assert config.saes == (SAESpec("a"),)
    assert limits(config)["fve"] == ">= 0.5"
    with pytest.raises(ConfigError, match=r"\[tool\.saebench\].*no such table"):
        load("[tool.other]", "pyproject.toml")
    with pytest.raises(
        ConfigError, match=r"\[tool\.saebench\] of pyproject\.toml: unknown key 'saes'"
    ):
        load("[tool.saebench]\nsaes = []", "pyproject.toml")


def test_the_nearest_configuration_upwards_is_found(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    assert find_config(deep) is None
    (tmp_path / "saebench.toml").write_text("")
    assert find_config(deep) == tmp_path / "saebench.toml"
    (tmp_path / "a" / "b" / "pyproject.toml").write_text("[tool.other]")
    assert find_config(deep) == tmp_path / "saebench.toml"
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.saebench]")
    assert find_config(deep) == tmp_path / "a" / "pyproject.toml"
    (tmp_path / "a" / "saebench.toml").write_text("")
    assert find_config(deep) == tmp_path / "a" / "saebench.toml"


def test_a_broken_pyproject_is_an_error_only_if_it_is_about_us() -> None:
    Path("pyproject.toml").write_text("[tool.other\n")
    assert load_config() == Config()
    Path("pyproject.toml").write_text("tool = 'saebench'")
    assert load_config() == Config()
    with pytest.raises(ConfigError, match="no such table"):
        load_config("pyproject.toml")
    Path("pyproject.toml").write_text("[tool.saebench]\nsae = [\n")
    with pytest.raises(ConfigError, match="not TOML"):
        load_config()


@pytest.mark.parametrize("content", [b"model = ", b"\xff\xfe\x00", b"a = 1\na = 2"])
def test_what_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"x\.toml: it is not TOML"):
        load_config("x.toml")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: No such file"):
        load_config("absent.toml")
    with pytest.raises(ConfigError, match="directory"):
        load_config(".")


def test_paths_are_relative_to_the_file_and_given_from_the_current_folder(tmp_path: Path) -> None:
    home = tmp_path / "project"
    for name in ("models/tiny", "work"):
        (home / name).mkdir(parents=True)
    (home / "saebench.toml").write_text(
        'model = "models/tiny"\ndata = "../text/a.txt"\nout = "out"\n'
        f'sae = ["saes/a", "{tmp_path}/b", "hf:org/a", "./hf:odd"]\n'
    )
    config = load_config("project/saebench.toml")
    assert config.model == ModelSpec("project/models/tiny")
    assert config.data == DataSpec("text/a.txt")
    assert config.out == Path("project/out")
    assert [s.ref for s in config.saes] == ["project/saes/a", "b", "hf:org/a", "project/hf:odd"]
    beside = load_config(cwd=home / "work")
    assert beside.model == ModelSpec(str(home / "models" / "tiny"))
    assert beside.out == home / "out"
    assert load_config(cwd=home).saes[3].ref == "./hf:odd"


def test_a_model_that_is_no_folder_is_left_to_mean_the_hub() -> None:
    assert load('model = "org/tiny"').model == ModelSpec("org/tiny")
    assert load('model = "./org/tiny"').model == ModelSpec("org/tiny")


@pytest.mark.parametrize(
    ("text", "place", "found", "next_step"),
    [
        ("modle = 'x'", "saebench.toml", "unknown key 'modle'", "Did you mean 'model'?"),
        ("zzz = 1", "saebench.toml", "unknown key 'zzz'", "Known: model, data"),
        ("[gates]\nfev = '> 0'", "[gates] of saebench.toml", "unknown key 'fev'", "'fve'"),
        ("[gates]\nfve_pooled = '> 0'", "[gates] of", "unknown key", "Did you mean 'fve_"),
        ("[gates]\nfve = {limt = '> 0'}", "'fve' in [gates] of", "'limt'", "'limit'"),
        ("[gates]\nfve = {confidence = true}", "'fve' in [gates]", "'limit' is missing", "Add"),
        ("[gates]\nfve = '>= high'", "of 'fve' in [gates] of", "no limit", "'60..70'"),
        ("[gates]\nfve = 0.8", "'fve' in [gates]", "found 0.8", 'fve = ">= 0.8"'),
        ("[gates]\nfve = true", "'fve' in [gates]", "found True", "false for no gate"),
        ("[gates]\nfve = ''", "'fve' in [gates]", "no limit", "'60..70'"),
        ("gates = 'fve > 0'", "[gates] of saebench.toml", "expected a table, found text", ""),
        ("suites = ['sparsty']", "'suites' in", "unknown suite 'sparsty'", "'sparsity'"),
        ("suites = 'sparsity'", "'suites' in", "expected a list, found text", ""),
        ("suites = [1]", "'suites' in", "found a whole number (1) in it", "list of texts"),
        ("suites = []", "'suites' in", "an empty list", "Name a suite"),
        ("suites = ['sparsity']\n[gates]\nfve = '> 0'", "'fve' in [gates]", "not in suites", "Add"),
        ("model = 1", "[model] of", "expected a table, found a whole number (1)", ""),
        ("model = ''", "'ref' in [model]", "empty text", "leave the key out"),
        ("[model]\nrevision = 'x'", "[model] of", "'ref' is missing", 'Add ref = "..."'),
        ("[model]\nref = 'x'\nprecison = 'x'", "[model] of", "'precison'", "'precision'"),
        ("[model]\nref = 'x'\nprecision = 'float23'", "precision", "'float23'", "float32"),
        ("[data]\nspec = 'x'\nmask = 'pad'", "'mask' in [data]", "'pad'", "Known: special"),
        ("[data]\nspec = 'x'\npack = 1", "'pack' in [data]", "expected true or false", ""),
        ("[data]\nspec = 'x'\ncontext_size = 1", "'context_size' in", "found 1", "at least 2"),
        ("[data]\nspec = 'x'\nn_tokens = 0", "'n_tokens' in", "found 0", "at least 1"),
        ("[data]\nspec = 'x'\nn_tokens = 1e6", "'n_tokens' in", "expected a whole number", ""),
        ("[data]\nspec = 'x'\nn_tokens = 9\nn_sequences = 9", "[data] of", "both", "Keep the one"),
        ("[data]\ncontext_size = 8", "[data] of", "'spec' is missing", "Add"),
        ("batch_size = 0", "'batch_size' in", "found 0", "at least 1"),
        ("batch_size = true", "'batch_size' in", "expected a whole number", ""),
        ("batch_size = '8'", "'batch_size' in", "expected a whole number, found text", ""),
        ("device = 'gpu'", "'device' in", "found 'gpu'", "cuda"),
        ("confidence = 'yes'", "'confidence' in", "expected true or false", ""),
        ("out = 1", "'out' in", "expected text", ""),
        ("sae = 1", "'sae' in", "a whole number (1)", "[[sae]]"),
        ("[sae]\nref = 'x'", "'sae' in", "a table", "[[sae]]"),
        ("sae = ['a', 3]", "[[sae]] number 2 of", "expected a table", ""),
        ("[[sae]]\nname = 'x'", "[[sae]] number 1 of", "'ref' is missing", "Add"),
        ("[[sae]]\nref = 'x'\nstie = 'y'", "[[sae]] number 1 of", "'stie'", "'site'"),
        ("[[sae]]\nref = 'x'\n[sae.gates]\nl1 = '<'", "gates of [[sae]] number 1", "no limit", ""),
        ("[[sae]]\nref = 'x'\n[sae.gates]\nL0 = '5'", "gates of [[sae]] number 1", "'L0'", "'l0'"),
        ("sae = [{ref='a', name='n'}, {ref='b', name='n'}]", "[[sae]] of", "'n'", "own name"),
        ("[waiver]\nsae = 'x'", "'waiver' in", "a table", "[[waiver]]"),
        ("[[waiver]]\nsae = 'x'", "[[waiver]] of", "'metric' is missing", "Add"),
    ],
)
def test_what_does_not_fit_the_schema_names_the_place_and_the_remedy(
    text: str, place: str, found: str, next_step: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert place in caught.value.asked
    assert "saebench.toml" in caught.value.asked
    assert found in caught.value.found
    assert next_step in caught.value.next_step


@pytest.mark.parametrize(
    ("key", "line", "found"),
    [
        ("metric", "metric = 'fev'", "unknown value 'fev'"),
        ("reason", "reason = ' '", "empty text"),
        ("reason", "", "'reason' is missing"),
        ("expires", "", "'expires' is missing"),
        ("expires", "expires = 'soon'", "found 'soon'"),
        ("expires", "expires = 2027", "expected a date"),
        ("expires", "expires = 2027-01-31T12:00:00", "expected a date"),
        ("until", "until = 2027-01-31", "unknown key 'until'"),
    ],
)
def test_a_waiver_says_what_why_and_until_when(key: str, line: str, found: str) -> None:
    lines = {
        "sae": "sae = 'x'",
        "metric": "metric = 'fve'",
        "reason": "reason = 'r'",
        "expires": "expires = '2027-01-31'",
    }
    whole = load("[[waiver]]\n" + "\n".join(lines.values())).waivers
    assert whole == (Waiver("x", "fve", "r", date(2027, 1, 31)),)
    with pytest.raises(ConfigError) as caught:
        load("[[waiver]]\n" + "\n".join({**lines, key: line}.values()))
    assert found in caught.value.found
