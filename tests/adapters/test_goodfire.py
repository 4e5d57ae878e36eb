"""Goodfire's SAEs: two Linear modules, a ReLU, and a layer that only the name has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from saebench.adapters.single_file import goodfire
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.loading import load_sae

GOLDEN = Path(__file__).parents[1] / "oracles" / "golden" / "goodfire"


def edited(folder: Path, name: str = "sae.pt", **changes: Any) -> Path:
    stored = next((GOLDEN / "float32").iterdir())
    content = torch.load(stored, weights_only=True) | changes
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({k: v for k, v in content.items() if v is not ...}, folder / name)
    return folder


@pytest.mark.parametrize(
    ("case", "layer", "model"),
    [("float32", 19, "Llama-3.1-8B-Instruct"), ("bfloat16", 50, "Llama-3.3-70B-Instruct")],
)
def test_layer_and_model_are_assumed_from_the_name(case: str, layer: int, model: str) -> None:
    cfg = load_sae(GOLDEN / case, allow_pickle=True).cfg
    assert (cfg.site, cfg.model) == (f"blocks.{layer}.hook_resid_post", f"meta-llama/{model}")
    assert {cfg.facts[name].how for name in ("site", "model", "architecture")} == {"assumed"}
    assert (cfg.dtype, cfg.facts["dtype"].how) == (case, "file")


def test_sixteen_bit_weights_are_computed_with_in_float32() -> None:
    assert load_sae(GOLDEN / "bfloat16", allow_pickle=True).dtype == torch.float32


def test_a_name_without_a_layer_leaves_the_site_open(tmp_path: Path) -> None:
    cfg = load_sae(edited(tmp_path), allow_pickle=True).cfg
    assert cfg.site is None
    assert any("no layer" in note for note in cfg.notes)


def test_widths_are_the_lengths_of_the_biases() -> None:
    facts = load_sae(GOLDEN / "float32", allow_pickle=True).cfg.facts
    assert facts["d_in"].source.endswith("length of decoder_linear.bias")
    assert facts["d_sae"].source.endswith("length of encoder_linear.bias")


def test_a_missing_bias_is_named(tmp_path: Path) -> None:
    folder = edited(tmp_path, **{"decoder_linear.bias": ...})
    with pytest.raises(CheckpointError, match=r"tensor 'decoder_linear\.bias' in sae\.pt"):
        load_sae(folder, allow_pickle=True)


def test_a_transposed_decoder_is_refused(tmp_path: Path) -> None:
    folder = edited(tmp_path, **{"decoder_linear.weight": torch.ones(20, 8)})
    with pytest.raises(CheckpointError, match=r"'decoder_linear\.weight' of sae\.pt with shape"):
        load_sae(folder, allow_pickle=True)


def test_other_tensors_are_noted(tmp_path: Path) -> None:
    cfg = load_sae(edited(tmp_path, scale=torch.ones(1)), allow_pickle=True).cfg
    assert any(note.endswith("not used: scale") for note in cfg.notes)


def test_several_files_are_listed(tmp_path: Path) -> None:
    edited(tmp_path, "b.pt")
    files = CheckpointFiles(edited(tmp_path, "a.pt"), ("a.pt", "b.pt"), allow_pickle=True)
    with pytest.raises(CheckpointError, match=r"a\.pt, b\.pt.*Reference one"):
        goodfire.sniff(files)


def test_other_linears_are_not_claimed(tmp_path: Path) -> None:
    torch.save({"encoder.weight": torch.ones(2, 2)}, tmp_path / "a.pt")
    assert goodfire.sniff(CheckpointFiles(tmp_path, ("a.pt",), allow_pickle=True)) is None
