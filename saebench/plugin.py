"""The pytest plugin: options, parametrisation, fixtures and the closing table.

Loaded in every pytest session of the environment, so it imports nothing heavy and is silent until one of
its options, its marker or its fixtures is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from saebench.errors import SaebenchError

if TYPE_CHECKING:
    from saebench.sae import SAE
    from saebench.session import Entry, Measured, Session

MARKER = "saebench(suite): an item of a saebench suite, parametrised over checkpoints and gates"
PROPERTY = "saebench"
CHECKPOINT_FIXTURES = ("measured", "sae", "sae_reference")
_session_key: pytest.StashKey[Session] = pytest.StashKey()
_asked_key: pytest.StashKey[bool] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare ``--saebench-...``; the same options as ``saebench run`` has."""
    from saebench.config.options import add_options

    group = parser.getgroup("saebench", "sparse-autoencoder checkpoints")
    group.addoption(
        "--saebench-config", metavar="FILE", help="configuration (saebench.toml or pyproject.toml)"
    )
    group.addoption(
        "--saebench-sae",
        action="append",
        default=[],
        metavar="REF",
        help="checkpoint: a folder or hf:org/repo@rev:path (repeat for several)",
    )
    group.addoption(
        "--saebench-command",
        metavar="TEXT",
        help="command line that the report shows under Reproduce",
    )
    add_options(group.addoption, prefix="--saebench-", destination="saebench_")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and note whether anything of saebench was asked for."""
    config.addinivalue_line("markers", MARKER)
    given = [
        value
        for name, value in vars(config.option).items()
        if name.startswith("saebench_") and name != "saebench_command"
    ]
    config.stash[_asked_key] = any(value not in (None, [], False) for value in given)
    if not hasattr(config, "workerinput"):  # with xdist, reports arrive at the controller
        config.pluginmanager.register(Collector(config), "saebench-collector")


def session_of(config: pytest.Config) -> Session:
    """The run that the options and the configuration describe; made on first use."""
    if _session_key not in config.stash:
        from saebench.config.options import configured
        from saebench.session import Session

        option = config.option
        config.stash[_session_key] = Session(
            configured(
                option.saebench_config,
                option.saebench_sae,
                lambda keyword: getattr(option, f"saebench_{keyword}"),
            )
        )
    return config.stash[_session_key]


class Handover:
    """Gives pytest a run that was set up, and measured, before pytest started."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def pytest_configure(self, config: pytest.Config) -> None:
        """Put the run where the plugin looks for it."""
        config.stash[_session_key] = self.session


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One item per (checkpoint, gate) for ``gate``; one per checkpoint for the other fixtures."""
    names = [name for name in CHECKPOINT_FIXTURES if name in metafunc.fixturenames]
    marker = metafunc.definition.get_closest_marker("saebench")
    suite = _suite_of(marker, metafunc.definition.nodeid) if marker else None
    if not names and "gate" not in metafunc.fixturenames:
        return
    metafunc.config.stash[_asked_key] = True
    try:
        session = session_of(metafunc.config)
        if suite is not None and suite not in session.config.suites:
            cases: list[tuple[str, Any]] = []
        elif "gate" in metafunc.fixturenames:
            if suite is None:
                raise pytest.UsageError(
                    f"{metafunc.definition.nodeid} uses the fixture 'gate' without the marker: "
                    "add @pytest.mark.saebench(suite=...)."
                )
            cases = list(session.gates(suite))
        else:
            cases = [(name, None) for name in session.entries]
    except SaebenchError as error:
        raise pytest.UsageError(str(error)) from None
    _parametrize(metafunc, names, cases)


def _parametrize(metafunc: pytest.Metafunc, names: list[str], cases: list[tuple[str, Any]]) -> None:
    with_gate = "gate" in metafunc.fixturenames
    arguments = [*names, *(["gate"] if with_gate else [])]
    values = [(*[name] * len(names), *([gate] if with_gate else [])) for name, gate in cases]
    ids = [f"{name}-{gate.metric}" if gate is not None else name for name, gate in cases]
    metafunc.parametrize(arguments, values, ids=ids, indirect=arguments, scope="session")


def _suite_of(marker: pytest.Mark, nodeid: str) -> str | None:
    unknown = set(marker.kwargs) - {"suite"}
    if marker.args or unknown:
        raise pytest.UsageError(
            f"{nodeid}: write @pytest.mark.saebench(suite='...') and nothing else."
        )
    return marker.kwargs.get("suite")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drop the placeholders that pytest makes for suites with nothing to check."""
    empty = [item for item in items if _is_ours(item) and item.name.endswith("NOTSET]")]
    if empty:
        items[:] = [item for item in items if item not in empty]
        config.hook.pytest_deselected(items=empty)


def _is_ours(item: pytest.Item) -> bool:
    names = getattr(item, "fixturenames", ())
    return "gate" in names or any(name in names for name in CHECKPOINT_FIXTURES)


@pytest.fixture(scope="session")
def sae_reference(request: pytest.FixtureRequest) -> Entry:
    """The checkpoint's reference and name."""
    return session_of(request.config).entries[request.param]


@pytest.fixture(scope="session")
def sae(request: pytest.FixtureRequest) -> SAE:
    """The loaded checkpoint; a test that takes it runs once per configured checkpoint."""
    return session_of(request.config).sae(request.param)


@pytest.fixture(scope="session")
def measured(request: pytest.FixtureRequest) -> Measured:
    """What was measured on the checkpoint: ``assert measured["fve"] >= 0.8``."""
    try:
        return session_of(request.config).measured(request.param)
    except SaebenchError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def gate(request: pytest.FixtureRequest) -> Any:
    """The metric and limit that this item is about."""
    return request.param


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Attach the verdict of a suite item to its report, as plain values that junit and xdist carry."""
    try:
        return (yield)
    finally:
        if _is_ours(item):
            item.user_properties.append((PROPERTY, _entry(getattr(item, "funcargs", {}))))


def _entry(funcargs: dict[str, Any]) -> dict[str, Any]:
    """What an item was about: name, metric, status and message of its verdict where it has one."""
    if "measured" not in funcargs or "gate" not in funcargs:
        return {}
    measured, gate = funcargs["measured"], funcargs["gate"]
    if not measured.applies(gate):
        return {}
    verdict = measured.judge(gate)
    return {
        "name": verdict.name,
        "metric": gate.metric,
        "status": str(verdict.status),
        "message": verdict.message,
    }


def pytest_assertrepr_compare(
    config: pytest.Config, op: str, left: object, right: object
) -> list[str] | None:
    """Say what was measured where ``measured["fve"] >= 0.9`` fails."""
    from saebench.session import Value

    if isinstance(left, Value) and isinstance(right, (int, float)):
        return [left.explain(op, right)]
    return None


class Collector:
    """Gathers verdicts where reports arrive, then writes the report and the closing table."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.entries: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a finished item attached."""
        if report.when == "call":
            self.entries += [value for key, value in report.user_properties if key == PROPERTY]  # type: ignore[misc]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Nothing measured is a usage error, whatever else went well."""
        asked = self.config.stash[_asked_key]
        harmless = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        if asked and harmless and not self.entries and not self.config.option.collectonly:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the table of verdicts and where the report went."""
        if not self.config.stash[_asked_key] or self.config.option.collectonly:
            return
        if not self.entries:
            terminalreporter.write_line("saebench: nothing was measured, no item of a suite ran")
            return
        judged = [(entry["name"], entry["metric"]) for entry in self.entries if entry]
        if not judged:
            return
        run = session_of(self.config)
        terminalreporter.section("saebench")
        try:
            written = run.finish(
                judged,
                command=self.config.option.saebench_command,
                colour=terminalreporter.hasmarkup,
            )
        except SaebenchError as error:
            terminalreporter.write_line(f"saebench: {error}", red=True)
            return
        terminalreporter.write_line(written.table)
        for path in written.paths:
            terminalreporter.write_line(f"wrote {_relative(path)}")


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
