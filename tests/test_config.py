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
    configured_gates,
    find_config,
    gates_for,
    load_config,
    merge_options,
)
from saebench.defaults import default_rules, measured_suites, metric_names, suite_names, suite_of
from saebench.errors import ConfigError
from saebench.gates import Waiver, parse_limit
from saebench.metrics.catalogue import BASELINES
from saebench.metrics.definitions import DEFINITIONS, definition
from saebench.tables import nearest

FULL = """
model = "models/tiny"
data = "text/heldout.jsonl"
out = "reports/x"
batch_size = 8
device = "cuda:1"
confidence = true
suites = ["sparsity", "reconstruction"]
[gates]
fve = ">= 0.80"
ce_recovered = { limit = ">= 0.9", confidence = false, reason = "ours" }
l0 = false
[[sae]]
ref = "saes/topk-s0"
name = "first"
site = "blocks.2.hook_resid_pre"
allow_pickle = true
[sae.gates]
l0 = "16"
[[sae]]
ref = "hf:org/repo@main:a/b"
[[waiver]]
sae = "first"
metric = "fve"
reason = "trained for a tenth of the tokens"
expires = 2027-01-31
"""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str, name: str = "saebench.toml") -> Config:
    Path(name).write_text(text, encoding="utf-8")
    return load_config(name)


def limits(config: Config, name: str = "any", k: int | None = None) -> dict[str, str]:
    return {gate.metric: str(gate.limit) for gate in gates_for(config, name, k)}


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
        model = { ref = "org/tiny", revision = "v1", dtype = "bfloat16" }
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
        ("[model]\nref = 'x'\ndtpye = 'x'", "[model] of", "'dtpye'", "'dtype'"),
        ("[model]\nref = 'x'\ndtype = 'float23'", "'dtype' in [model]", "'float23'", "'float32'"),
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


def test_the_nearest_name_is_suggested_or_all_are_listed() -> None:
    assert nearest("fv", ["fve", "l0"]) == "Did you mean 'fve'?"
    assert nearest("xyz", ["fve", "l0"]) == "Known: fve, l0."


def test_every_metric_that_is_no_baseline_belongs_to_one_suite() -> None:
    baselines = {item.id for item in BASELINES}
    assert sorted(metric_names()) == sorted(set(DEFINITIONS) - baselines)
    assert measured_suites() == ("reconstruction", "sparsity", "dead_latents")
    assert suite_names() == (*measured_suites(), "throughput")
    assert suite_of("ce_recovered") == "reconstruction"
    with pytest.raises(ConfigError, match="Did you mean 'fve'"):
        suite_of("fev")


def test_every_shipped_limit_has_a_reason_and_a_source() -> None:
    assert default_rules()
    for metric, rule in default_rules().items():
        assert definition(metric).id == metric
        assert rule is not None
        assert rule.reason.endswith(".")
        assert rule.source.endswith(".")


def test_shipped_gates_apply_where_nothing_is_configured() -> None:
    gates = {gate.metric: gate for gate in gates_for(Config(), "any", 16)}
    assert {metric: str(gate.limit) for metric, gate in gates.items()} == {
        "fve": "> 0",
        "ce_recovered": ">= 0.9",
        "l0": "16 ± 10%",
        "dead_fraction": "<= 0.5",
    }
    assert gates["fve"].confidence
    assert all(gate.shipped and gate.reason and gate.source for gate in gates.values())


def test_the_shipped_gate_on_l0_applies_only_where_there_is_a_k() -> None:
    assert "l0" not in limits(Config(), k=None)
    written = load("[gates]\nl0 = 'k ± 0.5'")
    assert limits(written, k=16)["l0"] == "16 ± 0.5"
    assert limits(written, k=None)["l0"] == "k ± 0.5"
    assert [
        str(gate.limit) for gate in configured_gates(Config(), "any") if gate.metric == "l0"
    ] == ["k ± 10%"]


def test_a_checkpoints_own_gates_win_over_common_ones_and_those_over_shipped_ones() -> None:
    config = load(
        """
        [gates]
        fve = ">= 0.80"
        mse = "< 5"
        ce_recovered = false
        dead_fraction = "<= 10%"
        [[sae]]
        ref = "saes/topk-s0"
        [sae.gates]
        fve = ">= 0.70"
        ce_recovered = ">= 0.5"
        dead_fraction = false
        [[sae]]
        ref = "saes/topk-s1"
        name = "second"
        """
    )
    assert limits(config, "topk-s0", 16) == {
        "fve": ">= 0.7",
        "mse": "< 5",
        "ce_recovered": ">= 0.5",
        "l0": "16 ± 10%",
    }
    common = {"fve": ">= 0.8", "mse": "< 5", "l0": "16 ± 10%", "dead_fraction": "<= 0.1"}
    assert limits(config, "second", 16) == common
    assert limits(config, "topk-s1", 16) == common
    of_spec = gates_for(config, "renamed", 16, config.saes[0])
    assert str(of_spec[0].limit) == ">= 0.7"
    assert not any(gate.shipped for gate in of_spec if gate.metric == "fve")


def test_confidence_is_for_all_gates_that_do_not_say_themselves() -> None:
    text = "[gates]\nfve = '> 0'\nmse = {limit = '< 5', confidence = %s}\n"
    for common, own in (("true", "false"), ("false", "true")):
        gates = gates_for(load(f"confidence = {common}\n{text % own}"), "any", 16)
        found = {gate.metric: gate.confidence for gate in gates}
        assert (found["fve"], found["mse"], found["l0"]) == (
            common == "true",
            own == "true",
            common == "true",
        )


def test_gates_come_in_the_order_of_suites_and_metrics() -> None:
    config = load("suites = ['dead_latents', 'reconstruction']\n[gates]\nmse='< 5'\nfve='> 0'")
    gates = gates_for(config, "any", 16)
    assert [(gate.suite, gate.metric) for gate in gates] == [
        ("dead_latents", "dead_fraction"),
        ("reconstruction", "fve"),
        ("reconstruction", "mse"),
        ("reconstruction", "ce_recovered"),
    ]


def test_options_win_over_the_file() -> None:
    config = merge_options(
        load(FULL),
        model="org/other",
        dtype="float16",
        data="b.txt",
        n_tokens=5000,
        out="elsewhere",
        batch_size=2,
        device="cpu",
        confidence=False,
        suites=["dead_latents", "reconstruction"],
        gates=["fve >= 0.95", "mse<5", "alive = 3..4", "dead_fraction=<= 1%", "ce_recovered=false"],
    )
    assert config.model == ModelSpec("org/other", None, "float16")
    assert config.data == DataSpec("b.txt", n_tokens=5000)
    assert (config.out, config.batch_size, config.device) == (Path("elsewhere"), 2, "cpu")
    assert limits(config, "first") == {
        "dead_fraction": "<= 0.01",
        "alive": "3..4",
        "fve": ">= 0.95",
        "mse": "< 5",
    }
    assert not config.confidence
    assert config.saes == load(FULL).saes


def test_no_options_change_nothing() -> None:
    config = load(FULL)
    assert merge_options(config) == config


def test_an_option_keeps_what_it_does_not_speak_of() -> None:
    config = load(
        "model = {ref='org/a', revision='v1', dtype='bfloat16'}\n"
        "[data]\nspec='hf:org/t'\ncontext_size=64\nn_sequences=9\nmask='none'\npack=false"
    )
    assert merge_options(config, model="org/b").model == ModelSpec("org/b", None, "bfloat16")
    assert merge_options(config, revision="v2").model == ModelSpec("org/a", "v2", "bfloat16")
    changed = merge_options(config, data="hf:org/u", n_tokens=100).data
    assert changed == DataSpec("hf:org/u", 64, None, 100, "none", False)
    assert merge_options(config, pack=True, mask="bos").data == DataSpec(
        "hf:org/t", 64, 9, None, "bos", True
    )


def test_named_checkpoints_replace_the_list_and_keep_what_the_file_says_of_them() -> None:
    config = load(FULL)
    assert merge_options(config, sae=["first"]).saes == (config.saes[0],)
    assert merge_options(config, sae=["saes/topk-s0", "new"]).saes == (
        config.saes[0],
        SAESpec("new"),
    )
    unnamed = merge_options(config, sae=["saes/b", "hf:org/c"])
    assert merge_options(unnamed, sae=["b"]).saes == (SAESpec("saes/b"),)
    Path("b").mkdir()
    assert merge_options(unnamed, sae=["b"]).saes == (SAESpec("b"),)
    assert merge_options(config, sae=["hf:org/x", "hf:org/x"]).saes == (SAESpec("hf:org/x"),)
    everywhere = merge_options(config, site="blocks.0.hook_resid_post", allow_pickle=True).saes
    assert {(spec.site, spec.allow_pickle) for spec in everywhere} == {
        ("blocks.0.hook_resid_post", True)
    }


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"gates": ["fev >= 1"]}, "unknown key 'fev'"),
        ({"gates": ["fve"]}, "no metric and limit"),
        ({"gates": [">= 1"]}, "no metric and limit"),
        ({"gates": ["fve high"]}, "no limit"),
        ({"suites": ["sparsty"]}, "unknown suite"),
        ({"batch_size": 0}, "found 0"),
        ({"device": "gpu"}, "found 'gpu'"),
        ({"dtype": "float16"}, "'ref' is missing"),
        ({"model": "m", "dtype": "f16"}, "unknown value 'f16'"),
        ({"data": "d", "context_size": 1}, "found 1"),
        ({"data": "d", "n_tokens": 5, "n_sequences": 5}, "both"),
    ],
)
def test_wrong_options_are_refused_as_in_a_file(options: dict[str, object], found: str) -> None:
    with pytest.raises(ConfigError) as caught:
        merge_options(Config(), **options)  # type: ignore[arg-type]
    assert found in caught.value.found
    assert "option" in caught.value.asked or "gate" in caught.value.asked


def test_options_may_run_fewer_suites_than_the_file_has_gates_for() -> None:
    config = merge_options(load("[gates]\nfve = '> 0.5'"), suites=["dead_latents"])
    assert limits(config) == {"dead_fraction": "<= 0.5"}


def test_a_gate_of_a_configuration_is_what_its_limit_says() -> None:
    config = load("[gates]\nfve = {limit = '≥ 85%', reason = 'agreed', source = 'the team'}")
    gate = gates_for(config, "any", None)[0]
    assert gate.limit == parse_limit(">= 0.85")
    assert (gate.reason, gate.source, gate.suite) == ("agreed", "the team", "reconstruction")
