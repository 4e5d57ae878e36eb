"""What saebench wrote of a checkpoint under its own key is read from the configs of other layouts, too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from saebench.errors import CheckpointError
from saebench.loading import load_sae

GOLDEN = Path(__file__).parents[1] / "oracles" / "golden"
SAELENS = GOLDEN / "saelens" / "jumprelu-none-b_dec-subtracted"
HUB = GOLDEN / "difference_sae" / "global"


def saelens(root: Path, **reads: Any) -> Path:
    shutil.copytree(SAELENS, root, dirs_exist_ok=True)
    config = json.loads((root / "cfg.json").read_text())
    (root / "cfg.json").write_text(json.dumps({**config, "saebench": {"reads": reads}}))
    return root


def test_a_difference_and_its_models(tmp_path: Path) -> None:
    cfg = load_sae(saelens(tmp_path, difference="0-1", models=["org/a", "org/b"])).cfg
    assert (cfg.difference, cfg.models, cfg.n_models) == ("0-1", ("org/a", "org/b"), 2)
    assert cfg.facts["models"].source == "cfg.json: saebench.reads.models"


def test_without_the_key_one_activation_is_read(tmp_path: Path) -> None:
    cfg = load_sae(saelens(tmp_path)).cfg
    assert (cfg.difference, cfg.models) == (None, ())


@pytest.mark.parametrize(
    "reads",
    [{"difference": "2-1"}, {"difference": 1}, {"models": "org/a"}, {"models": [1, 2]}],
)
def test_values_of_the_wrong_kind_are_refused(tmp_path: Path, reads: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"saebench\.reads"):
        load_sae(saelens(tmp_path, **reads))


def test_a_number_of_models_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="as many as are read: 2"):
        load_sae(saelens(tmp_path, difference="1-0", models=["org/a"]))


def test_the_user_overrules_what_is_written(tmp_path: Path) -> None:
    root = saelens(tmp_path, difference="1-0", models=["org/a", "org/b"])
    cfg = load_sae(root, settings={"direction": "difference_bft"}).cfg
    assert cfg.difference == "0-1"


def test_the_training_config_of_a_folder_for_the_hub(tmp_path: Path) -> None:
    shutil.copytree(HUB, tmp_path, dirs_exist_ok=True)
    (tmp_path / "training_config.yaml").write_text(
        "target: difference_ftb\nlayer: 3\n"
        "saebench: {reads: {difference: 1-0, models: [org/a, org/b]}, seeds: {weights: 4}}\n"
    )
    cfg = load_sae(tmp_path).cfg
    assert (cfg.difference, cfg.models) == ("1-0", ("org/a", "org/b"))
    assert cfg.site == "blocks.3.hook_resid_post"
    assert cfg.provenance["saebench"]["seeds"] == {"weights": 4}
    assert "saebench" not in cfg.provenance["training_config.yaml"]


@pytest.mark.parametrize("target", ["base", "ft"])
def test_a_run_that_read_one_model_leaves_nothing_open(tmp_path: Path, target: str) -> None:
    shutil.copytree(HUB, tmp_path, dirs_exist_ok=True)
    (tmp_path / "training_config.yaml").write_text(f"target: {target}\nlayer: 3\n")
    cfg = load_sae(tmp_path).cfg
    assert cfg.difference is None
    assert not [note for note in cfg.notes if "--set" in note]


def test_as_many_models_as_sources_are_those_of_a_crosscoder(tmp_path: Path) -> None:
    shutil.copytree(
        GOLDEN / "dictionary_crosscoders" / "three_layers", tmp_path, dirs_exist_ok=True
    )
    config = json.loads((tmp_path / "config.json").read_text())
    config["trainer"] |= {"layer": 2, "lm_name": ["org/a", "org/b", "org/c"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    cfg = load_sae(tmp_path, allow_pickle=True).cfg
    assert (cfg.models, cfg.site) == (("org/a", "org/b", "org/c"), "blocks.2.hook_resid_post")
