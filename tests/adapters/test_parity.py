"""Our codes and reconstructions are the peer's own, on files that the peer's own code wrote."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from saebench.loading import load_sae
from saebench.sae import SAE

ORACLES = Path(__file__).parents[1] / "oracles"
PEERS = ("saelens", "dictionary_learning")
TOLERANCE = 1e-5  # of the largest value, in float32


def oracle_python() -> str | None:
    """The Python of the environment with the peers, if there is one."""
    named = os.environ.get("SAEBENCH_ORACLE_PYTHON")
    beside = ORACLES.parents[1] / ".venv-oracles" / "bin" / "python"
    return named or (str(beside) if beside.exists() else None)


def cases(root: Path) -> Iterator[Path]:
    return (path for path in sorted(root.iterdir()) if path.name != "expected")


def golden_cases() -> list[object]:
    return [
        pytest.param(path, id=f"{peer}-{path.name}")
        for peer in PEERS
        for path in cases(ORACLES / "golden" / peer)
    ]


def assert_close(found: Tensor, expected: Tensor) -> None:
    worst = float((found - expected).abs().max())
    assert worst <= TOLERANCE * float(expected.abs().max()), f"worst difference {worst:.3g}"


def assert_parity(sae: SAE, expected: dict[str, Tensor]) -> None:
    x, codes = expected["x"], expected["codes"]
    found = sae.encode(x)
    assert torch.equal(found != 0, codes != 0), "the active sets differ"
    assert bool((codes != 0).any()), "nothing is active: the case shows nothing"
    assert bool((codes == 0).any()), "everything is active: the case shows nothing"
    assert_close(found, codes)
    assert_close(sae.decode(codes, x), expected["decoded"])
    assert_close(sae(x), expected["output"])


def assert_sparse_is_dense(sae: SAE, expected: dict[str, Tensor]) -> None:
    x, codes = expected["x"], expected["codes"]
    sparse, output = sae.reconstruct(x)
    assert_close(sparse.dense(), codes)
    assert torch.equal(sparse.counts(), (codes != 0).sum(-1).int())
    assert_close(output, expected["output"])
    assert_close(sae.decode_codes(sparse, x), expected["decoded"])
    values, indices = sae.encode_sparse(x)
    assert_close(sae.decode_sparse(values, indices, x), expected["decoded"])


@pytest.mark.parametrize("path", golden_cases())
def test_codes_and_reconstruction_equal_the_stored_output_of_the_peer(path: Path) -> None:
    sae = load_sae(path, allow_pickle=True)
    expected = load_file(path.parent / "expected" / f"{path.name}.safetensors")
    assert_parity(sae, expected)
    assert_sparse_is_dense(sae, expected)


@pytest.mark.oracle
@pytest.mark.skipif(
    oracle_python() is None,
    reason="set SAEBENCH_ORACLE_PYTHON to a Python with the peers (pip install saebench-suites[oracles])",
)
@pytest.mark.parametrize("peer", PEERS)
def test_codes_and_reconstruction_equal_the_installed_peer_on_every_combination(
    peer: str, tmp_path: Path
) -> None:
    script = ORACLES / f"make_{peer}.py"
    done = subprocess.run(
        [str(oracle_python()), str(script), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = list(cases(tmp_path))
    assert len(found) >= 7
    for path in found:
        expected = load_file(tmp_path / "expected" / f"{path.name}.safetensors")
        try:
            sae = load_sae(path, allow_pickle=True)
            assert_parity(sae, expected)
            assert_sparse_is_dense(sae, expected)
        except AssertionError as error:
            raise AssertionError(f"{path.name}: {error}") from error
