"""Measuring what a configuration asks for and has no record of yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from saebench.config import Config, SAESpec
from saebench.errors import OutputError
from saebench.measure import main_pass
from saebench.measure.jobs import Job, Part, run_jobs
from saebench.measure.run import Run, Target, prepare
from saebench.record import Record, united
from saebench.store import RecordStore

MAIN = Part("", main_pass.identity, main_pass.MainJob)
BY_SUITE: Mapping[str, Part] = {}  # parts that only run when their suite is asked for


@dataclass(frozen=True)
class Results:
    """What was measured: a record for each checkpoint, its parts united, and one for each group."""

    records: Mapping[str, Record]
    groups: Mapping[str, Record] = field(default_factory=dict)


def measure(
    config: Config,
    entries: Sequence[tuple[str, str, SAESpec]],
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Results:
    """Records of every checkpoint ``(name, reference, spec)``: kept ones, or else measured in one pass.

    ``groups`` are names of checkpoints by the name of their group; each gets a record of its own.

    Only one process measures at a time; others wait and find the records. Raises the errors of whatever
    is missing or does not fit together.
    """
    run = prepare(config, entries)
    keys = {part.name: part.keys(run) for part in parts(config)}
    if missing_targets(run, keys):
        with run.store.lock():
            wanted = missing_targets(run, keys)  # another process may have measured some meanwhile
            jobs: list[Job] = [
                part.job(run, wanted[part.name]) for part in parts(config) if part.name in wanted
            ]
            for record in run_jobs(run, jobs) if jobs else ():
                run.store.write(record)
    return Results(
        {
            target.name: united(
                [_kept(run.store, target, found[target.name]) for found in keys.values()]
            )
            for target in run.targets
        }
    )


def parts(config: Config) -> list[Part]:
    """The parts of a run, the one on its own text first."""
    return [MAIN, *(part for suite, part in BY_SUITE.items() if suite in config.suites)]


def missing_targets(run: Run, keys: Mapping[str, Mapping[str, str]]) -> dict[str, list[Target]]:
    """The targets without a record of a part, by the name of the part."""
    found = {
        part: [target for target in run.targets if run.store.read(by_name[target.name]) is None]
        for part, by_name in keys.items()
    }
    return {part: targets for part, targets in found.items() if targets}


def _kept(store: RecordStore, target: Target, key: str) -> Record:
    """A record of a target, under the name and reference that it goes by in this run."""
    record = store.read(key)
    if record is None:
        raise _gone(target.name, store)
    here = {"name": target.name, "reference": str(target.checkpoint.reference)}
    return replace(record, checkpoint={**record.checkpoint, **here})


def _gone(name: str, store: RecordStore) -> OutputError:
    return OutputError(
        f"the record of {name} in {store.out}",
        "it was written and is gone",
        "Check that nothing else cleans that folder, and run again.",
    )
