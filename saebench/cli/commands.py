"""What each command does: from parsed arguments to an exit code. What is heavy is imported when used."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saebench.config.defaults import gated_suites
from saebench.config.options import OPTIONS, as_arguments, configured
from saebench.config.reading import pairs
from saebench.errors import ConfigError


def demo(values: argparse.Namespace) -> int:
    """Run the shipped configuration."""
    blank = dict.fromkeys(option.keyword for option in OPTIONS)
    blank["out"] = values.out
    again = argparse.Namespace(
        **{**vars(values), **blank}, saes=[], config=str(_fixture("demo.toml"))
    )
    return run(again)


def _fixture(name: str) -> Path:
    """A file of the shipped fixtures: in the installed package, or in the checkout."""
    from importlib.resources import files

    return Path(str(files("saebench.fixtures").joinpath(name)))


def _session(values: argparse.Namespace) -> Any:
    from saebench.session import Session

    return Session(configured(values.config, values.saes, lambda keyword: getattr(values, keyword)))


def run(values: argparse.Namespace) -> int:
    """Measure, then let pytest judge and the plugin write the report."""
    import pytest

    from saebench.plugin import Handover

    session = _session(values)
    if set(session.config.suites) & set(gated_suites()):
        session.measure_all()
    arguments = [
        "-p",
        "saebench",  # also where the environment loads no plugins by itself
        "-c",
        str(_suite_folder() / "pytest.ini"),
        f"--rootdir={_suite_folder()}",
        *([f"--saebench-config={values.config}"] if values.config else []),
        *(f"--saebench-sae={ref}" for ref in values.saes),
        *as_arguments(values, prefix="--saebench-"),
        f"--saebench-command={values.command_line}",
        *_benchmark_arguments(session.config.suites, session.config.out),
        "-q",
        *[str(_suite_folder() / f"test_{suite}.py") for suite in session.config.suites],
        *values.pytest_arguments,
    ]
    return int(pytest.main(arguments, plugins=[Handover(session)]))


def _benchmark_arguments(suites: Sequence[str], out: Path) -> list[str]:
    """Keep pytest-benchmark's folder out of the current one: with the report, or not at all."""
    if "throughput" not in suites:
        return ["-p", "no:benchmark"]
    return [f"--benchmark-storage=file://{out.absolute() / 'benchmarks'}"]


def _suite_folder() -> Path:
    from importlib.resources import files

    return Path(str(files("saebench.suites")))


def plan(values: argparse.Namespace) -> int:
    """Print what a run would do."""
    from saebench.plan import plan as planned

    session = _session(values)
    entries = [(e.name, e.ref, e.spec) for e in session.entries.values()]
    groups = {name: members for name, (_, members) in session.groups.items()}
    print(planned(session.config, entries, groups))
    return 0


def inspect(values: argparse.Namespace) -> int:
    """Print what a checkpoint is."""
    import json

    from saebench.loading import inspect as inspected

    found = inspected(
        values.ref,
        site=values.site,
        allow_pickle=bool(values.allow_pickle),
        settings=pairs(values.settings or (), "--set k=10"),
        tensors=pairs(values.tensors or (), "--map encoder=W_enc"),
        headers_only=values.headers_only,
    )
    print(json.dumps(found.to_json(), indent=2) if values.json else found.to_text())
    return 0


def train(values: argparse.Namespace) -> int:
    """Train the SAEs of the recipes; says how far it is on stderr, terminal or not."""
    from saebench.train import train_recipes

    recipes = [Path(recipe) for recipe in values.recipe]
    progress = None if sys.stderr.isatty() else _say
    for line in train_recipes(recipes, overwrite=values.overwrite, progress=progress):
        print(line, flush=True)
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def card(values: argparse.Namespace) -> int:
    """Write a card again from a report."""
    from saebench.report import write_card

    folder = Path(values.reports)
    if not folder.is_dir():
        raise ConfigError(
            f"the report folder {folder}", "there is none", "Name the --out folder of a run."
        )
    print(
        f"wrote {write_card(folder, Path(values.output) if values.output else folder / 'README.md')}"
    )
    return 0
