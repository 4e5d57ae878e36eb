"""What a file is by its name."""

from __future__ import annotations

import pytest

from saebench.layout.names import (
    is_run_config,
    is_side,
    is_side_config,
    is_step,
    namesakes,
    stems_of,
)


@pytest.mark.parametrize(
    ("config", "weights", "expected"),
    [
        ("0_cfg.json", "0.pt", True),
        ("0_cfg.json", "10.pt", False),
        ("sae.json", "sae.safetensors", True),
        ("layer3.yaml", "layer3.sae.pt", True),
        ("config_a.json", "a.pt", True),
        ("cfg.json", "a.pt", False),
        ("A-Config.JSON", "a.pth", True),
    ],
)
def test_a_config_may_be_the_namesake_of_weights(config: str, weights: str, expected: bool) -> None:
    assert bool(namesakes(config) & stems_of(weights)) is expected


@pytest.mark.parametrize(
    "name",
    [
        "optimizer_0.pt",
        "lr_scheduler.pt",
        "state.pt",
        "training_args.pt",
        "rng_state_1.pth",
        "cfg.pt",
        "sparsity.safetensors",
        "examples.safetensors",
        "Optimizer.PT",
        "adapter_model.safetensors",
    ],
)
def test_what_is_no_dictionary_is_known_by_its_name(name: str) -> None:
    assert is_side(name)


@pytest.mark.parametrize(
    "name", ["sae.pt", "scaled.pt", "state_of_the_art.pt", "statedict.pt", "l1.pt", "config_a.pt"]
)
def test_what_may_be_a_dictionary_is_no_side_file(name: str) -> None:
    assert not is_side(name)


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "cfg.json",
        "hyperparams.json",
        "lm_config.json",
        "runner_cfg.json",
        "conf.yaml",
        "activation_scaler.json",
        "norm_stats.json",
        "metadata.json",
        "trainer_config.json",
        "wandb-config.yaml",
        "training_config.yaml",
        "params.json",
        "model_cfg.yaml",
    ],
)
def test_configs_that_a_format_reads_are_kept(name: str) -> None:
    assert not is_side_config(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("training_config.yaml", True),
        ("training_metrics.json", True),
        ("trainer_config.json", True),
        ("metrics.json", False),
        ("config.json", False),
    ],
)
def test_what_a_run_says_of_itself_is_known_by_its_name(name: str, expected: bool) -> None:
    assert is_run_config(name) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ae_100.pt", True),
        ("checkpoint_step5.pt", True),
        ("clt_checkpoint_7.safetensors", True),
        ("ae.pt", False),
        ("layer_5.pt", False),
        ("0.pt", False),
        ("model_final.pt", False),
    ],
)
def test_a_step_is_known_by_its_name(name: str, expected: bool) -> None:
    assert is_step(name) is expected
