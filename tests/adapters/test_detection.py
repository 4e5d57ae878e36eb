"""One adapter claims each checkpoint, by content, whatever its folder is called; two are an error."""

from __future__ import annotations

import pkgutil
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy
import pytest
import torch
from safetensors.torch import save_file

import saebench.adapters
from saebench.adapters import ADAPTERS, FALLBACK, claim
from saebench.adapters.reading.claims import Adapter, Claim
from saebench.errors import UnknownFormatError
from saebench.files import CheckpointFiles, list_files
from saebench.loading import load_sae
from tests.adapters.goldens import GOLDEN, files_of, golden_parameters, golden_paths

PACKAGE = saebench.adapters

# Without a config all that its folder says is in its name: then nobody knows the format, and asks.
BY_NAME = "gpt2-small_blocks.8.hook_resid_pre_20_topk_4_0.0003_42_faithful-gpt2-small_128_24413"


def module_name(adapter: Adapter) -> str:
    assert isinstance(adapter, ModuleType)
    return adapter.__name__.removeprefix("saebench.adapters.")


def claims(files: CheckpointFiles) -> list[str]:
    return [adapter.FORMAT for adapter in ADAPTERS if adapter.sniff(files) is not None]


@pytest.mark.parametrize("path", golden_parameters())
def test_exactly_one_adapter_claims_a_checkpoint(path: Path) -> None:
    files = files_of(path)
    expected = [] if path.parent.name == "generic" else [claim(files)[1].format]
    assert claims(files) == expected
    if not expected:
        assert claim(files)[0] is FALLBACK


@pytest.mark.parametrize("path", golden_parameters())
def test_the_format_is_found_whatever_the_folder_is_called(path: Path, tmp_path: Path) -> None:
    shutil.copytree(path, tmp_path / "x7")
    known = files_of(path)
    inside = known.root.relative_to(path)
    files = CheckpointFiles(tmp_path / "x7" / inside, known.names, allow_pickle=True, hint="x7")
    adapter, found = claim(files)
    if path.name == BY_NAME:
        assert adapter is FALLBACK
    else:
        assert (adapter, found) == claim(known)


def test_every_adapter_has_a_golden_checkpoint() -> None:
    found = {module_name(claim(files_of(path))[0]) for path in golden_paths()}
    assert found == {module_name(adapter) for adapter in (*ADAPTERS, FALLBACK)}


def test_the_order_of_detection_is_the_one_documented() -> None:
    table = re.findall(r"^([\w.]+) +\S.*$", saebench.adapters.__doc__.split("\n=")[1], re.MULTILINE)
    assert table == [module_name(adapter) for adapter in (*ADAPTERS, FALLBACK)]


def test_the_names_of_formats_differ() -> None:
    formats = [adapter.FORMAT for adapter in (*ADAPTERS, FALLBACK)]
    assert len(set(formats)) == len(formats)


@pytest.mark.parametrize(
    "name", [item.name for item in pkgutil.walk_packages(PACKAGE.__path__, f"{PACKAGE.__name__}.")]
)
def test_a_room_and_its_modules_can_be_imported_by_their_names(name: str) -> None:
    scope: dict[str, ModuleType] = {}
    exec(f"import {name} as found", scope)
    assert scope["found"] is sys.modules[name]


class Greedy:
    """An adapter that claims everything."""

    def __init__(self, name: str) -> None:
        self.FORMAT = name

    def sniff(self, files: CheckpointFiles) -> Claim | None:
        return Claim(self.FORMAT, (f"{files.names[0]}: seen by {self.FORMAT}",), files.names[:1])

    def read(self, files: CheckpointFiles, claim: Claim, choices: object) -> object:
        raise AssertionError("an adapter was asked to read what two of them claim")


def test_two_adapters_that_claim_the_same_files_are_named_with_their_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"W": torch.ones(2, 2)}, tmp_path / "w.safetensors")
    monkeypatch.setattr(saebench.adapters, "ADAPTERS", (Greedy("one"), Greedy("two")))
    with pytest.raises(UnknownFormatError) as error:
        load_sae(tmp_path)
    assert "one by w.safetensors: seen by one" in error.value.found
    assert "two by w.safetensors: seen by two" in error.value.found
    assert str(tmp_path) in error.value.asked
    assert "Move the files" in error.value.next_step


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("gemma_scope/residual", "saelens/standard-none-b_dec-subtracted"),
        ("dictionary_learning/BatchTopKSAE", "saelens/topk-none-b_dec-subtracted"),
        ("openai/topk", "goodfire/float32"),
        ("crosscode/two_models", "circuit_tracer/relu"),
    ],
)
def test_the_files_of_two_formats_in_one_folder_are_refused_with_both(
    first: str, second: str, tmp_path: Path
) -> None:
    both = []
    for name in (first, second):
        _, found = claim(files_of(GOLDEN / name))
        both.append(found)
        for file in found.files:
            target = tmp_path / file
            assert not target.exists(), "one would hide the other"
            shutil.copy(GOLDEN / name / file, target)
    files = CheckpointFiles(tmp_path, list_files(tmp_path), allow_pickle=True)
    with pytest.raises(UnknownFormatError, match="more than one fits") as error:
        claim(files)
    for found in both:
        assert f"{found.format} by {found.evidence[0]}" in error.value.found


def test_where_nothing_fits_the_files_their_keys_and_their_tensors_are_listed(
    tmp_path: Path,
) -> None:
    save_file({"alpha": torch.ones(2), "beta": torch.ones(3, 4, 5)}, tmp_path / "w.safetensors")
    numpy.savez(tmp_path / "more.npz", gamma=numpy.ones((2, 3)))
    (tmp_path / "cfg.json").write_text('{"width": 3}')
    (tmp_path / "run.yaml").write_text("seed: 1\n")
    with pytest.raises(UnknownFormatError) as error:
        claim(CheckpointFiles(tmp_path, list_files(tmp_path)))
    for text in (
        "w.safetensors ('alpha' [2], 'beta' [3, 4, 5])",
        "more.npz ('gamma' [2, 3])",
        "cfg.json ('width')",
        "run.yaml ('seed')",
    ):
        assert text in error.value.found
