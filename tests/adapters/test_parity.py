"""Our codes and reconstructions are the peer's own, on files that the peer's own code wrote.

Each ``tests/oracles/make_FAMILY.py`` writes checkpoints (``OUT/CASE/…``), what the peer computes on them
(``OUT/expected/CASE.safetensors``: x, codes, decoded, output) and, where files leave something open,
``OUT/settings.json``. A script whose ``LIBRARY`` is None has the published formulas written out in it,
since that family has no package that could be installed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from saebench.loading import load_sae
from saebench.sae import Dictionary
from tests.adapters.goldens import GOLDEN, given, golden_parameters

ORACLES = Path(__file__).parents[1] / "oracles"
SCRIPTS = sorted(ORACLES.glob("make_*.py"))
TOLERANCE = 1e-5  # of the largest value, in float32


def oracle_python() -> str | None:
    """The Python of the environment with the peers, if there is one."""
    named = os.environ.get("SAEBENCH_ORACLE_PYTHON")
    beside = ORACLES.parents[1] / ".venv-oracles" / "bin" / "python"
    return named or (str(beside) if beside.exists() else None)


def library_of(script: Path) -> str | None:
    """The package that a script compares with; None where it writes the formulas out itself."""
    found = re.search(r"^LIBRARY = (?:None|\"(\w+)\")", script.read_text(), re.MULTILINE)
    assert found is not None, f"{script.name} does not say what its LIBRARY is"
    return found[1]


@cache
def python_with(library: str | None) -> str | None:
    """The Python that can run a script, or None."""
    if library is None:
        return sys.executable
    python = oracle_python()
    if python is None:
        return None
    code = f"import importlib.util as u; raise SystemExit(u.find_spec({library!r}) is None)"
    return python if subprocess.run([python, "-c", code]).returncode == 0 else None


def cases(root: Path) -> Iterator[Path]:
    return (item for item in sorted(root.iterdir()) if item.is_dir() and item.name != "expected")


def assert_close(found: Tensor, expected: Tensor) -> None:
    worst = float((found - expected).abs().max())
    assert worst <= TOLERANCE * float(expected.abs().max()), f"worst difference {worst:.3g}"


def assert_parity(sae: Dictionary, expected: dict[str, Tensor]) -> None:
    x, codes = expected["x"], expected["codes"]
    found = sae.encode(x)
    assert torch.equal(found != 0, codes != 0), "the active sets differ"
    assert bool((codes != 0).any()), "nothing is active: the case shows nothing"
    assert bool((codes == 0).any()), "everything is active: the case shows nothing"
    assert_close(found, codes)
    assert_close(sae.decode(codes, x), expected["decoded"])
    assert_close(sae(x), expected["output"])


def assert_sparse_is_dense(sae: Dictionary, expected: dict[str, Tensor]) -> None:
    codes = expected["codes"].reshape(-1, sae.cfg.d_sae)
    if sae.needs_sequences:
        everywhere = torch.ones(expected["x"].shape[:-1], dtype=torch.bool)
        sparse, output = sae.reconstruct_sequences(expected["x"], everywhere)
    else:
        x = expected["x"].reshape(-1, sae.cfg.width_in)
        sparse, output = sae.reconstruct(x)
        decoded = sae.decode_codes(sparse, x)
        assert_close(decoded, expected["decoded"].reshape(-1, sae.cfg.width_out))
    assert_close(sparse.dense(), codes)
    assert torch.equal(sparse.counts(), (codes != 0).sum(-1).int())
    assert_close(output, expected["output"].reshape(-1, sae.cfg.width_out))


@pytest.mark.parametrize("path", golden_parameters())
def test_codes_and_reconstruction_equal_the_stored_output_of_the_peer(path: Path) -> None:
    sae = load_sae(path, **given(path))
    expected = load_file(path.parent / "expected" / f"{path.name}.safetensors")
    assert_parity(sae, expected)
    assert_sparse_is_dense(sae, expected)


@pytest.mark.oracle
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_codes_and_reconstruction_equal_the_installed_peer_on_every_combination(
    script: Path, tmp_path: Path
) -> None:
    python = python_with(library_of(script))
    if python is None:
        pytest.skip(
            "needs the peers: run tests/oracles/install.sh, or set SAEBENCH_ORACLE_PYTHON to a "
            f"Python with {library_of(script)}"
        )
    done = subprocess.run([python, str(script), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = list(cases(tmp_path))
    assert found, "the script wrote no case"
    for path in found:
        expected = load_file(tmp_path / "expected" / f"{path.name}.safetensors")
        try:
            sae = load_sae(path, **given(path))
            assert_parity(sae, expected)
            assert_sparse_is_dense(sae, expected)
        except AssertionError as error:
            raise AssertionError(f"{path.name}: {error}") from error


def test_every_family_has_golden_files_and_a_script_that_makes_them() -> None:
    made = {script.stem.removeprefix("make_") for script in SCRIPTS}
    assert made == {family.name for family in GOLDEN.iterdir()}
