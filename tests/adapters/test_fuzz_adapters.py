"""Mutated checkpoints of every family: our own errors or a working model, and nothing else happens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = 700
SEED = 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures memory as Linux does")
def test_a_mutated_checkpoint_of_any_format_loads_and_encodes_or_is_refused_with_our_error(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.adapters.fuzzing", tmp_path, str(EXAMPLES), str(SEED)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-5000:]
    counts = json.loads(done.stdout)
    assert counts["loaded"] > EXAMPLES / 20  # settings and unused keys leave a checkpoint usable
    assert counts["refused"] > EXAMPLES / 10


@pytest.mark.parametrize(
    "action",
    ["open(sys.argv[1], 'w')", "__import__('os').system('true')", "exec('pass')"],
)
def test_the_watch_over_mutated_checkpoints_ends_the_process(action: str, tmp_path: Path) -> None:
    code = (
        "import sys; from tests.adapters import fuzzing; sys.addaudithook(fuzzing.watch); "
        f"fuzzing.look(lambda: {action}, 'done')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "written"],
        capture_output=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 7
    assert not list(tmp_path.iterdir())
