"""Gates of a configuration, and options that win over its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from saebench.config import (
    Config,
    DataSpec,
    ModelSpec,
    SAESpec,
    configured_gates,
    gates_for,
    merge_options,
)
from saebench.config.defaults import (
    default_rules,
    measured_suites,
    metric_names,
    suite_names,
    suite_of,
)
from saebench.config.tables import nearest
from saebench.errors import ConfigError
from saebench.gates import parse_limit
from saebench.metrics.catalogue import BASELINES
from saebench.metrics.definitions import DEFINITIONS, definition
from tests.config.configurations import FULL, limits, load


def test_the_nearest_name_is_suggested_or_all_are_listed() -> None:
    assert nearest("fv", ["fve", "l0"]) == "Did you mean 'fve'?"
    assert nearest("xyz", ["fve", "l0"]) == "Known: fve, l0."


def test_every_metric_that_is_no_baseline_belongs_to_one_suite() -> None:
    baselines = {item.id for item in BASELINES}
    assert sorted(metric_names()) == sorted(set(DEFINITIONS) - baselines)
    assert measured_suites() == ("reconstruction", "sparsity", "dead_latents")
    on_request = ("seeds", "fake_features", "probing")
    on_request += ("portability", "concepts", "cv_probing", "steering")
    on_request += ("difference", "crosscoder", "causal")
    assert suite_names() == (*measured_suites(), *on_request, "throughput")
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
        precision="float16",
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
        "model = {ref='org/a', revision='v1', precision='bfloat16'}\n"
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
        ({"precision": "float16"}, "'ref' is missing"),
        ({"model": "m", "precision": "f16"}, "f16"),
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
