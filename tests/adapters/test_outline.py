"""``inspect --headers-only`` says what the full inspection says, and reads no matrix for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from saebench.cli import main
from saebench.loading import inspect, open_checkpoint
from saebench.weights.stored import HeldTensor, MappedTensor, Opened, Stored
from tests.adapters.goldens import GOLDEN, given, golden_parameters, is_matrix
from tests.adapters.rewriting import change_tensors

every_golden = pytest.mark.parametrize("path", golden_parameters())


@every_golden
def test_headers_alone_give_the_same_facts(path: Path) -> None:
    whole, outline = inspect(path, **given(path)), inspect(path, headers_only=True, **given(path))
    for name in ("format", "evidence", "facts", "notes", "tensors", "provenance", "name"):
        assert getattr(outline, name) == getattr(whole, name), name
    assert whole.norms is not None
    assert (outline.norms, outline.findings, outline.digests) == (None, (), {})


@every_golden
def test_no_matrix_is_read_for_an_outline(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[int, ...]] = []
    for kind in (MappedTensor, HeldTensor):

        def recorded(self: Stored, original: Any = kind.open) -> Opened:
            opened.append(self.shape)
            return original(self)

        monkeypatch.setattr(kind, "open", recorded)
    sae = open_checkpoint(path, outline=True, **given(path)).sae
    assert not [shape for shape in opened if is_matrix(shape)]
    large = {name: value for name, value in sae.named_buffers() if is_matrix(tuple(value.shape))}
    assert large, "the model has no matrix"
    assert not [name for name, value in large.items() if not value.is_meta]


@every_golden
@pytest.mark.parametrize("more", [(), ("--headers-only",)], ids=["whole", "headers"])
def test_inspect_prints_every_format_as_text_and_as_strict_json(
    path: Path, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["inspect", str(path), "--allow-pickle", *more]
    for option, key in (("--set", "settings"), ("--map", "tensors")):
        for name, value in given(path).get(key, {}).items():
            arguments += [option, f"{name}={value}"]
    if "site" in given(path):
        arguments += ["--site", given(path)["site"]]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["format"] in text
    assert all(item["how"] in ("file", "user", "assumed") for item in found["facts"].values())
    assert found["evidence"]
    assert found["tensors"]


@pytest.mark.parametrize(
    ("case", "key"),
    [
        ("generic/standardised-dimensions", "x_mean"),
        ("generic/logarithms-of-thresholds", "threshold"),
        ("generic/gate-that-shares-the-encoder", "b_gate"),
    ],
)
def test_a_vector_stored_with_one_more_dimension_is_read_for_an_outline(
    case: str, key: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(GOLDEN / case, tmp_path / "case"))
    change_tensors(folder, lambda name, values: values[None] if key in name else values)
    whole = inspect(folder, **given(GOLDEN / case))
    outline = inspect(folder, headers_only=True, **given(GOLDEN / case))
    assert any(key in name and item.shape[0] == 1 for name, item in whole.tensors.items())
    assert outline.facts == whole.facts
