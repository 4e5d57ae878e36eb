"""One run: the checkpoints a configuration names, measured once, judged as often as asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saebench.config import Config, GroupSpec, SAESpec, configured_gates, group_gates
from saebench.config.defaults import about, shipped_for
from saebench.errors import ConfigError, SaebenchError
from saebench.gates import Gate, Verdict, judge
from saebench.grouping import case_name, case_names, groups_of
from saebench.record import Measurement, Record

if TYPE_CHECKING:
    from saebench.measure import Results
    from saebench.sae import Dictionary

GROUPS_SUITE = "seeds"


@dataclass(frozen=True)
class Entry:
    """One checkpoint of the run: its reference, the name it goes by, and what the config says of it."""

    name: str
    ref: str
    spec: SAESpec

    @property
    def allow_pickle(self) -> bool:
        """Whether ``.pt`` files may be read."""
        return self.spec.allow_pickle

    def load(self) -> Dictionary:
        """The checkpoint, with what the configuration says of it."""
        from saebench.loading import load_sae

        return load_sae(
            self.ref,
            site=self.spec.site,
            allow_pickle=self.spec.allow_pickle,
            settings=self.spec.settings,
            tensors=self.spec.tensors,
        )


@dataclass(frozen=True)
class Measured:
    """What was measured on a checkpoint, group or case; ``measured["fve"]`` is a :class:`Value`."""

    record: Record
    config: Config

    def __getitem__(self, metric: str) -> Value:
        measurement = self.record.get(metric)
        if measurement is None:
            from saebench.metrics.definitions import definition

            found = definition(metric)  # an unknown name raises with the nearest one
            measurement = Measurement(found.metric, None, reason="this run did not measure it")
        return Value(measurement)

    def applies(self, gate: Gate) -> bool:
        """Whether the gate can be asked of this checkpoint.

        A shipped limit on k needs a k, and one meant for checkpoints over two models such a checkpoint.
        """
        return gate.at(self._k) is not None and self._meant(gate)

    def judge(self, gate: Gate) -> Verdict:
        """The verdict of a gate, with the waivers of the configuration; skips one that does not apply."""
        resolved = gate.at(self._k)
        if resolved is None or not self._meant(gate):
            import pytest

            why = "states no k" if resolved is None else "is of another kind"
            pytest.skip(
                f"the checkpoint {why}, so the shipped limit on {gate.metric} does not apply"
            )
        return judge(
            resolved,
            self.record.get(gate.metric),
            name=self.record.name,
            waivers=self.config.waivers,
        )

    def check(self, gate: Gate) -> tuple[bool, str]:
        """Whether the gate lets the checkpoint through, and the line that says why."""
        verdict = self.judge(gate)
        return verdict.passed, verdict.message

    @property
    def _k(self) -> int | None:
        return self.record.checkpoint.get("cfg", {}).get("k")

    def _meant(self, gate: Gate) -> bool:
        """Whether a limit is the user's own, or meant for this kind of checkpoint."""
        cfg = self.record.checkpoint.get("cfg", {})
        kind = "sae"
        if cfg.get("difference"):
            kind = "difference"
        elif cfg.get("n_sources", 1) > 1 and not cfg.get("sites"):
            kind = "crosscoder"
        return not gate.shipped or shipped_for(gate.metric, kind)


@dataclass(frozen=True, eq=False)
class Value:
    """A measurement that compares like its estimate; what could not be measured compares as False."""

    measurement: Measurement

    @property
    def value(self) -> float | None:
        """The estimate."""
        return self.measurement.value

    def __eq__(self, other: object) -> bool:
        return self.value is not None and self.value == other

    def __ne__(self, other: object) -> bool:
        return self.value is not None and self.value != other

    __hash__ = None  # type: ignore[assignment]

    def __ge__(self, limit: float) -> bool:
        return self.value is not None and self.value >= limit

    def __le__(self, limit: float) -> bool:
        return self.value is not None and self.value <= limit

    def __gt__(self, limit: float) -> bool:
        return self.value is not None and self.value > limit

    def __lt__(self, limit: float) -> bool:
        return self.value is not None and self.value < limit

    def __float__(self) -> float:
        if self.value is None:
            raise ConfigError(
                f"the value of {self.measurement.metric}",
                str(self.measurement.reason),
                "Gate on something that this run can measure.",
            )
        return self.value

    def explain(self, operator: str, limit: object) -> str:
        """The line that stands for a failed comparison with ``limit``."""
        from saebench.gates import Gate, parse_limit

        gate = Gate(self.measurement.metric, parse_limit(f"{operator} {limit}"))
        return judge(gate, self.measurement).message


@dataclass(frozen=True)
class Written:
    """What a run leaves behind: the closing table and the files of the report."""

    table: str
    paths: tuple[Path, ...]


@dataclass
class Session:
    """The state of a run: what was configured, what was found, what was measured."""

    config: Config
    _results: Results | None = None
    _loaded: dict[str, Any] = field(default_factory=dict)
    _failure: SaebenchError | None = None

    @cached_property
    def entries(self) -> Mapping[str, Entry]:
        """The checkpoints by name, folders of several opened up, in a fixed order.

        Raises :class:`ConfigError` when there is none, or two go by one name.
        """
        from saebench.loading import expand, short_names

        opened = [(spec, expand(spec.ref)) for spec in self.config.saes]
        names = iter(short_names([reference for _, found in opened for reference in found]))
        found: dict[str, Entry] = {}
        for spec, references in opened:
            for reference in references:
                name = next(names)
                if spec.name is not None:
                    name = spec.name if len(references) == 1 else f"{spec.name}-{name}"
                if name in found:
                    raise ConfigError(
                        "a name of its own for each checkpoint",
                        f"{found[name].ref} and {reference} are both called {name!r}",
                        "Name it once, or give one of the two a name in [[sae]].",
                    )
                found[name] = Entry(name, str(reference), replace(spec, name=name))
        if not found:
            raise ConfigError(
                "checkpoints to measure",
                "none",
                "Name one (saebench run REF, --saebench-sae REF), or list them in saebench.toml.",
            )
        return found

    @cached_property
    def groups(self) -> Mapping[str, tuple[GroupSpec, tuple[str, ...]]]:
        """The groups of checkpoints by name, with their members; none unless their suite is asked for.

        Raises :class:`ConfigError` where the suite is asked for and there is no group.
        """
        if GROUPS_SUITE not in self.config.suites:
            return {}
        return groups_of(self.config, tuple(self.entries))

    def names(self, suite: str | None) -> tuple[str, ...]:
        """What a suite is about: checkpoints, groups of them, or cases of each."""
        kind = "checkpoints" if suite is None else about(suite)
        if kind == "checkpoints":
            return tuple(self.entries)
        return tuple(self.groups) if kind == "groups" else tuple(self.cases(str(suite)))

    def cases(self, suite: str) -> Mapping[str, Entry]:
        """The checkpoint of each case of a suite, by the name of the case.

        Raises :class:`ConfigError` where no variant or concept is named.
        """
        names = case_names(self.config, suite)
        found = {
            case_name(entry.name, case, about(suite)): entry
            for entry in self.entries.values()
            for case in names
        }
        for name in found:
            if name in self.entries or name in self.groups:
                raise ConfigError(
                    f"the case {name!r} of the suite {suite!r}",
                    "a checkpoint or a group goes by that name",
                    "Give that one another name: name = in its table.",
                )
        return found

    def gates(self, suite: str) -> list[tuple[str, Gate]]:
        """Every (checkpoint, group or case, gate) of a suite, in a fixed order."""
        kind = about(suite)
        if kind == "groups":
            pairs = [
                (name, group_gates(self.config, spec)) for name, (spec, _) in self.groups.items()
            ]
        else:
            entries = self.entries if kind == "checkpoints" else self.cases(suite)
            pairs = [
                (name, configured_gates(self.config, entry.name, entry.spec))
                for name, entry in entries.items()
            ]
        return [(name, gate) for name, gates in pairs for gate in gates if gate.suite == suite]

    def measured(self, name: str) -> Measured:
        """What was measured on a checkpoint, group or case; the first call measures all in one pass."""
        return Measured(self.measure_all().about(name), self.config)

    def measure_all(self) -> Results:
        """Measure whatever has no record yet, in one pass; done once, and a failure stays one."""
        from saebench.measure import measure

        if self._failure is not None:
            raise self._failure
        if self._results is None:
            wanted = [(entry.name, entry.ref, entry.spec) for entry in self.entries.values()]
            try:
                members = {name: members for name, (_, members) in self.groups.items()}
                self._results = measure(self.config, wanted, members)
            except SaebenchError as error:
                self._failure = error
                raise
        return self._results

    def sae(self, name: str) -> Dictionary:
        """The checkpoint, loaded once."""
        if name not in self._loaded:
            self._loaded = {name: self.entries[name].load()}
        return self._loaded[name]

    def finish(self, *, command: str | None, colour: bool = False) -> Written:
        """Write the report on every checkpoint and every configured gate.

        Whatever items were selected: a card that shows only the gates somebody picked would mislead, and
        judging the others costs nothing. Raises :class:`~saebench.errors.OutputError` when it cannot
        be written.
        """
        from saebench.report import terminal_table, write_report, write_summary

        results = self.measure_all()
        cases = list(results.cases.values())
        measured = {
            name: self.measured(name) for name in (*self.entries, *self.groups, *results.cases)
        }
        verdicts = [
            measured[name].judge(gate)
            for suite in self.config.suites
            for name, gate in self.gates(suite)
            if measured[name].applies(gate)
        ]
        records = [measured[name].record for name in self.entries]
        groups = [measured[name].record for name in self.groups]
        paths = write_report(
            records, verdicts, self.config.out, command=command or "", groups=groups, cases=cases
        )
        write_summary([*records, *groups, *cases], verdicts)
        table = terminal_table([*records, *groups, *cases], verdicts, colour=colour)
        return Written(table, tuple(paths))
