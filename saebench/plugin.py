"""The pytest plugin: options, parametrisation, fixtures and the closing table.

Loaded in every pytest session of the environment, so it imports nothing heavy and is silent until one of
its options, its marker or its fixtures is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from saebench.errors import SaebenchError

if TYPE_CHECKING:
    from saebench.sae import Dictionary
    from saebench.session import Entry, Measured, Session, Written

T = TypeVar("T")
MARKER = "saebench(suite): an item of a saebench suite, parametrised over checkpoints and gates"
PROPERTY = "saebench"
CHECKPOINT_FIXTURES = ("measured", "sae", "sae_reference")
FIXTURES = (*CHECKPOINT_FIXTURES, "gate")
NOTHING = object()  # stands for the parameters of an item that has nothing to check
FLIPPED = {">=": "<=", "<=": ">=", ">": "<", "<": ">", "==": "=="}
_session_key: pytest.StashKey[Session] = pytest.StashKey()
_asked_key: pytest.StashKey[bool] = pytest.StashKey()
_problem_key: pytest.StashKey[str] = pytest.StashKey()


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


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse a configuration that is wrong, where one was asked for, before anything is collected."""
    if session.config.stash[_asked_key]:
        try:
            run = session_of(session.config)
            if getattr(session.config.option, "numprocesses", None):
                assert run.entries  # what a worker of xdist refuses would look like a crash
        except SaebenchError as error:
            raise pytest.UsageError(str(error)) from None


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
    names = [name for name in FIXTURES if _is_our_fixture(metafunc.definition, name)]
    marker = metafunc.definition.get_closest_marker("saebench")
    suite = _suite_of(marker) if marker else None
    if not names:
        return
    metafunc.config.stash[_asked_key] = True
    if "gate" in names and suite is None:
        pytest.fail(
            "The fixture 'gate' needs the marker: add @pytest.mark.saebench(suite='...').",
            pytrace=False,
        )
    try:
        cases = _cases(session_of(metafunc.config), suite, "gate" in names)
    except SaebenchError as error:
        metafunc.config.stash[_problem_key] = str(error)
        cases = []
    values = [tuple(gate if name == "gate" else case for name in names) for case, gate in cases]
    ids = [f"{name}-{gate.metric}" if gate is not None else name for name, gate in cases]
    if not cases:
        values, ids = [(NOTHING,) * len(names)], ["nothing"]
    metafunc.parametrize(names, values, ids=ids, indirect=names, scope="session")


def _cases(session: Session, suite: str | None, with_gate: bool) -> list[tuple[str, Any]]:
    """The (checkpoint, gate) pairs, or the checkpoints, that an item of the suite is about."""
    if suite is not None and suite not in session.config.suites:
        return []
    if with_gate:
        assert suite is not None
        return list(session.gates(suite))
    return [(name, None) for name in session.names(suite)]


def _suite_of(marker: pytest.Mark) -> str | None:
    if marker.args or set(marker.kwargs) - {"suite"}:
        pytest.fail("Write @pytest.mark.saebench(suite='...') and nothing else.", pytrace=False)
    return marker.kwargs.get("suite")


def _is_our_fixture(item: Any, name: str) -> bool:
    """Whether ``name`` means our fixture to the item: not a parameter or a fixture of its own.

    Names like ``sae`` are common; one that overrides ours and asks for it does use it.
    """
    known = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
    for definition in reversed(known.get(name, ())):
        if definition.func.__module__ == __name__:
            return True
        if name not in definition.argnames:
            break
    return False


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Iterator[None]:
    """Drop what has nothing to check, once it is known what was selected; say what is wrong."""
    yield
    empty = [item for item in items if NOTHING in _params(item).values()]
    problem = config.stash.get(_problem_key, None)
    if problem is not None and (empty or not items):
        raise pytest.UsageError(problem)
    if empty:
        items[:] = [item for item in items if item not in empty]
        config.hook.pytest_deselected(items=empty)


def _params(item: pytest.Item) -> dict[str, Any]:
    """The parameters of our fixtures that the item uses."""
    params = getattr(getattr(item, "callspec", None), "params", {})
    return {
        name: params[name] for name in FIXTURES if name in params and _is_our_fixture(item, name)
    }


def _or_fail(make: Callable[[str], T], name: str) -> T:
    """What ``make`` gives for a checkpoint; our own errors fail the test with their message alone."""
    try:
        return make(name)
    except SaebenchError as error:
        problem = str(error)
    pytest.fail(problem, pytrace=False)  # outside of the handler, so that nothing is chained


@pytest.fixture(scope="session")
def sae_reference(request: pytest.FixtureRequest) -> Entry:
    """The checkpoint's reference and name."""
    return session_of(request.config).entries[request.param]


@pytest.fixture(scope="session")
def sae(request: pytest.FixtureRequest) -> Dictionary:
    """The loaded checkpoint; a test that takes it runs once per configured checkpoint."""
    return _or_fail(session_of(request.config).sae, request.param)


@pytest.fixture(scope="session")
def measured(request: pytest.FixtureRequest) -> Measured:
    """What was measured on the checkpoint: ``assert measured["fve"] >= 0.8``."""
    return _or_fail(session_of(request.config).measured, request.param)


@pytest.fixture(scope="session")
def gate(request: pytest.FixtureRequest) -> Any:
    """The metric and limit that this item is about."""
    return request.param


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Attach the verdict of an item to its report, as plain values that junit and xdist carry."""
    checked = bool(_params(item))
    try:
        return (yield)
    except pytest.skip.Exception:
        checked = False
        raise
    finally:
        if checked:
            item.user_properties += [(f"{PROPERTY}.{k}", v) for k, v in _entry(item).items()]


def _entry(item: pytest.Item) -> dict[str, str]:
    """The checkpoint that an item was about; of a gate also metric, status and message."""
    params, funcargs = _params(item), getattr(item, "funcargs", {})
    names = [params[name] for name in CHECKPOINT_FIXTURES if name in params]
    about = {"name": names[0] if names else ""}
    if not {"measured", "gate"} <= params.keys():
        return about
    measured, gate = funcargs["measured"], funcargs["gate"]
    if not measured.applies(gate):
        return about
    verdict = measured.judge(gate)
    return {
        "name": verdict.name,
        "metric": verdict.gate.metric,
        "status": str(verdict.status),
        "message": verdict.message,
    }


def pytest_assertrepr_compare(
    config: pytest.Config, op: str, left: object, right: object
) -> list[str] | None:
    """Say what was measured where ``measured["fve"] >= 0.9`` fails."""
    from saebench.session import Value

    if isinstance(right, Value):
        left, right, op = right, left, FLIPPED.get(op, op)
    if isinstance(left, Value) and op in FLIPPED and type(right) in (int, float):
        return [left.explain(op, right)]
    return None


class Collector:
    """Gathers verdicts where reports arrive, then writes the report and the closing table."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.by_option = config.stash[_asked_key]
        self.entries: list[dict[str, Any]] = []
        self.others = 0
        self.written: Written | None = None
        self.problem = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a finished item attached; count the items that are not about checkpoints."""
        if report.when == "call":
            ours = {k: v for k, v in report.user_properties if k.startswith(f"{PROPERTY}.")}
            if ours:
                self.entries.append(ours)
            self.others += not ours and not report.skipped

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the report. Nothing measured is a usage error, and so is a report that fails.

        In a project with tests of its own it is not, unless one of our options was given: there
        somebody may well run the others only.
        """
        nothing = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        if self.config.option.collectonly:
            return
        if self.entries:
            if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
                self._write()
        elif nothing and self.config.stash[_asked_key] and (self.by_option or not self.others):
            self.problem = "nothing was measured, no item of a suite ran"
        if self.problem and nothing:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def _write(self) -> None:
        if any(f"{PROPERTY}.metric" in entry for entry in self.entries):
            terminal = self.config.pluginmanager.get_plugin("terminalreporter")
            try:
                self.written = session_of(self.config).finish(
                    command=self.config.option.saebench_command,
                    colour=terminal is not None and terminal.hasmarkup,
                )
            except SaebenchError as error:
                self.problem = str(error)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the table of verdicts and where the report went."""
        if self.written is not None:
            terminalreporter.section("saebench")
            terminalreporter.write_line(self.written.table)
            for path in self.written.paths:
                terminalreporter.write_line(f"wrote {_relative(path)}")
        if self.problem:
            terminalreporter.write_line(f"saebench: {self.problem}", red=True)


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
