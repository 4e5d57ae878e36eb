"""Sessions inside a session: every test here runs pytest on the shipped suites or a foreign test file."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.small_world import World, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    """The model, the text and the checkpoints that all sessions measure."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def kept(world: World) -> str:
    """An output folder that keeps its records from session to session."""
    return str(world.folder / "kept")


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch) -> Callable[..., pytest.RunResult]:
    """Run pytest in this process, without unloading what it imports (torch cannot be loaded twice)."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.setattr("saebench.report.has_matplotlib", lambda: False)
    monkeypatch.setattr(pytester, "_sys_modules_snapshot", Unloading())
    monkeypatch.setattr(pytester, "_Pytester__take_sys_modules_snapshot", Unloading)

    def run_pytest(*arguments: str | Path) -> pytest.RunResult:
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)

    return run_pytest


class Unloading:
    """Forgets the test files that a session imported, and keeps everything else."""

    def __init__(self) -> None:
        self.before = set(sys.modules)

    def restore(self) -> None:
        """Forget what was imported since."""
        for name in set(sys.modules) - self.before:
            if name.rpartition(".")[2].startswith(("test_", "conftest")):
                del sys.modules[name]


@pytest.fixture
def suites(run, pytester, world, kept) -> Callable[..., pytest.RunResult]:
    """Run the shipped suites under a configuration with these ``lines`` before its checkpoints."""

    def run_suites(
        *arguments: str, lines: tuple[str, ...] = (), saes: tuple[str, ...] = ("good", "bad")
    ) -> pytest.RunResult:
        (pytester.path / "saebench.toml").write_text(world.config(*lines, saes=saes, out=kept))
        return run("--pyargs", "saebench.suites", "--saebench-config=saebench.toml", *arguments)

    run_suites.run, run_suites.world = run, world  # type: ignore[attr-defined]
    return run_suites


def items(result: pytest.RunResult, outcome: str = "") -> set[str]:
    """The items of a verbose session, without their files: ``test_reconstruction[good-fve]``."""
    pattern = rf"::(test_\S+?\]) {outcome}"
    return {found[1] for line in result.outlines if (found := re.search(pattern, line))}
