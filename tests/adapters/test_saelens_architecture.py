"""A SAELens config whose architecture is lost or contradicted never loads as a ReLU SAE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from saebench.loading import load_sae
from tests.adapters.test_saelens import D_SAE, METADATA, config, refused, tensors, write

LOST: list[tuple[object, str]] = [
    (..., "no such key, which means standard"),
    (None, "null, which means standard"),
    ("standard", "'standard'"),
]
SIGNS: list[tuple[dict[str, Any], str]] = [
    ({"k": 3}, "cfg.json: k is 3"),
    ({"activation_fn_kwargs": {"k": 3}}, "cfg.json: activation_fn_kwargs.k is 3"),
    (
        {"activation_fn": "relu", "activation_fn_str": "topk"},
        "cfg.json: activation_fn_str is 'topk'",
    ),
    (
        {"metadata": {"training_architecture_details": {"k": 3}}},
        "cfg.json: metadata.training_architecture_details.k is 3",
    ),
    *(
        (
            {"metadata": {"training_architecture": name}},
            f"cfg.json: metadata.training_architecture is '{name}'",
        )
        for name in ("topk", "batchtopk", "matryoshka_batchtopk", "jumprelu", "gated", "abstopk")
    ),
]


@pytest.mark.parametrize(("architecture", "found"), LOST)
@pytest.mark.parametrize(("keys", "sign"), SIGNS)
def test_another_key_that_belongs_to_another_architecture_is_refused(
    tmp_path: Path, architecture: object, found: str, keys: dict[str, Any], sign: str
) -> None:
    cfg = config() | {"architecture": architecture} | keys
    cfg = {key: value for key, value in cfg.items() if value is not ...}
    message = refused(tmp_path, cfg, tensors())
    assert sign in message
    assert f": {found}. " in message
    assert "Name the architecture it was trained as" in message


@pytest.mark.parametrize(
    "name", ["threshold", "log_threshold", "topk_threshold", "b_gate", "r_mag", "W_skip"]
)
def test_a_tensor_that_a_relu_sae_has_no_use_for_is_refused(tmp_path: Path, name: str) -> None:
    message = refused(tmp_path, config(), tensors(**{name: torch.ones(D_SAE)}))
    assert f"sae_weights.safetensors has a tensor '{name}'" in message


@pytest.mark.parametrize("trained", [..., None, "standard", "my_own_l1_sae"])
def test_a_standard_sae_may_name_what_it_was_trained_as(tmp_path: Path, trained: object) -> None:
    known = METADATA if trained is ... else METADATA | {"training_architecture": trained}
    cfg = config(metadata=known, activation_fn="relu", activation_fn_kwargs={}, k=None)
    assert load_sae(write(tmp_path, cfg, tensors())).cfg.architecture == "standard"


@pytest.mark.parametrize("key", ["activation_fn", "activation_fn_str"])
@pytest.mark.parametrize("architecture", [..., "standard", "topk"])
def test_topk_as_the_activation_of_an_older_config_still_means_topk(
    tmp_path: Path, key: str, architecture: object
) -> None:
    cfg = config(activation_fn_kwargs={"k": 2}, metadata=..., **{key: "topk"})
    cfg |= {"architecture": architecture}
    cfg = {name: value for name, value in cfg.items() if value is not ...}
    found = load_sae(write(tmp_path, cfg, tensors())).cfg
    assert (found.architecture, found.k) == ("topk", 2)


def test_topk_as_the_activation_of_an_architecture_with_its_own_is_refused(tmp_path: Path) -> None:
    cfg = config("jumprelu", activation_fn_str="topk", k=2)
    message = refused(tmp_path, cfg, tensors(threshold=torch.ones(D_SAE)))
    assert "cfg.json: activation_fn_str is 'topk'" in message
    assert ": 'jumprelu'. " in message
