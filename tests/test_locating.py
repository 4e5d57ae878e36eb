"""Which checkpoints are at a local reference, and how they are called."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from saebench.errors import BadReferenceError, CheckpointError
from saebench.files import CheckpointFiles
from saebench.loading import load_sae, open_checkpoint
from saebench.locating import bring, expand, short_names, the_checkpoint
from saebench.reference import as_reference, resolve

GOLDEN = Path(__file__).parent / "oracles" / "golden" / "saelens"
TOPK = GOLDEN / "topk-none-b_dec-subtracted"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs, of which the second has steps and side files, and a folder of several weight files."""
    for name in ("layer_2/run", "layer_10/run"):
        shutil.copytree(TOPK, tmp_path / name)
    for name in ("layer_10/run/checkpoints/step_5", "layer_10/run/checkpoints/step_10"):
        (tmp_path / name).mkdir(parents=True)
        shutil.copy(TOPK / "sae_weights.safetensors", tmp_path / name)
    (tmp_path / "layer_10" / "run" / "sparsity.safetensors").touch()
    (tmp_path / "flat").mkdir()
    for i in (2, 10):
        shutil.copy(TOPK / "sae_weights.safetensors", tmp_path / "flat" / f"{i}.safetensors")
        shutil.copy(TOPK / "cfg.json", tmp_path / "flat" / f"{i}_cfg.json")
    return tmp_path


def found(runs: Path, pattern: str) -> list[str]:
    return [Path(item.path).relative_to(runs).as_posix() for item in expand(f"{runs}/{pattern}")]


def test_numbers_in_names_are_in_order_of_size(runs: Path) -> None:
    expected = ["flat/2.safetensors", "flat/10.safetensors", "layer_2/run", "layer_10/run"]
    assert found(runs, "") == expected
    assert short_names(expand(runs)) == ["2", "10", "layer_2/run", "layer_10/run"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**", ["flat/2.safetensors", "flat/10.safetensors", "layer_2/run", "layer_10/run"]),
        ("*/run", ["layer_10/run", "layer_2/run"]),
        ("layer_*", ["layer_10/run", "layer_2/run"]),
        ("layer_10/run/*.safetensors", ["layer_10/run/sae_weights.safetensors"]),
        ("layer_10/**", ["layer_10/run"]),
        ("layer_10/run/checkpoints/*", [f"layer_10/run/checkpoints/step_{i}" for i in (10, 5)]),
        ("flat/*", ["flat/10.safetensors", "flat/2.safetensors"]),
        ("[f]lat", ["flat/2.safetensors", "flat/10.safetensors"]),
    ],
)
def test_a_pattern_finds_each_checkpoint_once(
    runs: Path, pattern: str, expected: list[str]
) -> None:
    assert found(runs, pattern) == expected


def test_a_folder_whose_name_looks_like_a_pattern_is_that_folder(runs: Path) -> None:
    (runs / "flat").rename(runs / "a[1]")
    assert found(runs, "a[1]") == ["a[1]/2.safetensors", "a[1]/10.safetensors"]


def test_each_weight_file_of_a_folder_has_its_own_config(runs: Path) -> None:
    for i in (2, 10):
        resolved = resolve(as_reference(runs / "flat" / f"{i}.safetensors"))
        assert the_checkpoint(resolved).names == (f"{i}_cfg.json", f"{i}.safetensors")
    with pytest.raises(BadReferenceError, match=r"2 of them.*2\.safetensors.*10\.safetensors"):
        load_sae(runs / "flat")


@pytest.mark.parametrize("inside", ["step_5", "step_5/sae_weights.safetensors"])
def test_a_step_loads_with_the_config_of_its_run(runs: Path, inside: str) -> None:
    step = open_checkpoint(runs / "layer_10" / "run" / "checkpoints" / inside)
    end = load_sae(runs / "layer_10" / "run")
    assert torch.equal(step.sae.W_dec, end.W_dec)
    assert set(step.digests) == {"cfg.json", "checkpoints/step_5/sae_weights.safetensors"}
    assert step.name in ("step_5", "sae_weights")


def test_a_relative_reference_stays_relative(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    assert [str(item) for item in expand("layer_2")] == ["layer_2/run"]
    assert [str(item) for item in expand("layer_*/run")] == ["layer_10/run", "layer_2/run"]
    steps = expand("layer_10/run/checkpoints")
    assert [str(item) for item in steps] == [f"layer_10/run/checkpoints/step_{i}" for i in (5, 10)]
    monkeypatch.chdir(runs / "layer_10" / "run")
    assert [str(item) for item in expand("checkpoints/step_5")] == ["checkpoints/step_5"]
    assert load_sae("checkpoints/step_5").cfg.k == 4


def test_the_steps_folder_at_the_root_of_everything_lists_no_more_than_itself(
    tmp_path: Path,
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "sae.safetensors").touch()
    with pytest.raises(CheckpointError, match="no weight file"):
        load_sae(tmp_path / "checkpoints")


def test_side_files_alone_are_no_checkpoint(tmp_path: Path) -> None:
    for name in ("sparsity.safetensors", "optimizer.pt", "cfg.json"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=r"only cfg\.json, optimizer\.pt, sparsity\.safet"):
        load_sae(tmp_path)
    with pytest.raises(CheckpointError, match="A checkpoint is a folder"):
        expand(f"{tmp_path}/*")


@pytest.mark.parametrize(
    ("name", "shown", "advice"),
    [
        ("sae_weights.dcp/__0_0.distcp", "sae_weights.dcp", r"\.dcp: .*dcp_to_torch_save"),
        ("pytorch_model.bin", "pytorch_model.bin", r"\.bin: .*save_file"),
        ("Last.CKPT", "Last.CKPT", r"\.ckpt: .*save_file"),
    ],
)
def test_weights_in_a_form_that_is_not_read_are_named_with_what_to_convert_them_to(
    tmp_path: Path, name: str, shown: str, advice: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    (tmp_path / "config.json").touch()
    expected = (
        rf"only {shown}, a kind of file that is not read here.*safetensors or \.pt \({advice}"
    )
    for load in (load_sae, expand):
        with pytest.raises(CheckpointError, match=expected):
            load(tmp_path)
    inside = tmp_path / shown  # the folder or the file itself
    with pytest.raises(CheckpointError, match=rf"is not read here.*\({advice}"):
        load_sae(inside)


def test_what_is_not_read_does_not_matter_beside_weights_that_are(runs: Path) -> None:
    (runs / "layer_2" / "run" / "pytorch_model.bin").touch()
    assert load_sae(runs / "layer_2").cfg.k == 4


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_files_that_change_while_they_are_read_are_refused(
    runs: Path, name: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = runs / "layer_2" / "run" / name
    digests = CheckpointFiles.digests

    def meanwhile(files: CheckpointFiles, names: tuple[str, ...]) -> dict[str, str]:
        found = digests(files, names)
        copy = shutil.copy(path, runs / "copy")
        path.unlink() if how == "removed" else Path(copy).replace(path)
        return found

    monkeypatch.setattr(CheckpointFiles, "digests", meanwhile)
    with pytest.raises(CheckpointError, match=rf"{name} changed while it was read\. Load it again"):
        load_sae(path.parent)


def test_a_file_that_is_gone_after_it_was_listed_is_named(runs: Path) -> None:
    resolved = resolve(as_reference(runs / "layer_2" / "run"))
    place = the_checkpoint(resolved)
    (runs / "layer_2" / "run" / "cfg.json").unlink()
    with pytest.raises(CheckpointError, match=r"file 'cfg\.json' in .*: no such file"):
        CheckpointFiles(bring(resolved, place), place.names).json("cfg.json")
