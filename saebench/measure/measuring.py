"""Measuring what a configuration asks for and has no record of yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from saebench.config import Config, SAESpec
from saebench.errors import OutputError
from saebench.measure import (
    causal,
    concepts,
    crosscoder,
    cv_probing,
    difference,
    fake_features,
    main_pass,
    portability,
    probing,
    seeds,
    steering,
)
from saebench.measure.cases import Case, CasePart, once, with_names
from saebench.measure.jobs import Job, Part, run_jobs
from saebench.measure.run import Run, Target, prepare
from saebench.record import Record, united
from saebench.store import RecordStore


class MainPart(Part):
    """The part on the run's own text, for which a record that observed more will do."""

    def keys(self, run: Run) -> dict[str, str]:
        """The key of the record of each target."""
        return main_pass.keys(run)


MAIN = MainPart("", main_pass.identity, main_pass.MainJob)
# the parts that run only where their suite is asked for
BY_SUITE = {
    "fake_features": Part("fake_features", fake_features.identity, fake_features.FakeFeaturesJob),
    "probing": Part("probing", probing.identity, probing.ProbingJob),
    "crosscoder": Part("crosscoder", crosscoder.identity, crosscoder.CrosscoderJob),
    "difference": Part("difference", difference.identity, difference.DifferenceJob),
    "causal": Part("causal", causal.identity, causal.CausalJob),
}
# the same, of parts about a checkpoint under a variant of its model, or on a concept
CASES_BY_SUITE = {
    "portability": CasePart(
        "portability",
        lambda run, case: once(
            run, "variants identified", case.case, lambda: portability.identity(run, case.case)
        ),
        portability.PortabilityJob,
        retried=True,
    ),
    "concepts": CasePart("concepts", concepts.identity, concepts.ConceptsJob),
    "cv_probing": CasePart(
        "cv_probing", cv_probing.identity, cv_probing.CvProbingJob, names=cv_probing.names
    ),
    "steering": CasePart("steering", steering.identity, steering.SteeringJob),
}

Groups = Mapping[str, Sequence[str]]  # names of checkpoints by the name of their group
Keys = Mapping[str, Mapping[str, str]]  # by part, then by checkpoint
Cases = Mapping[
    str, tuple[Sequence[Case], Mapping[str, str]]
]  # by suite: all of them, and their keys


@dataclass(frozen=True)
class Results:
    """What was measured: a record for each checkpoint, its parts united, for each group and each case.

    ``cases`` are by the name of the case, its parts united.
    """

    records: Mapping[str, Record]
    groups: Mapping[str, Record] = field(default_factory=dict)
    cases: Mapping[str, Record] = field(default_factory=dict)

    def about(self, name: str) -> Record:
        """The record of a checkpoint, a group or a case."""
        return {**self.records, **self.cases, **self.groups}[name]


def measure(
    config: Config, entries: Sequence[tuple[str, str, SAESpec]], groups: Groups | None = None
) -> Results:
    """Records of every checkpoint ``(name, reference, spec)``: kept ones, or else measured in one pass.

    ``groups`` are compared too, each with a record of its own. Only one process measures at a time;
    others wait and find the records. Raises the errors of whatever is missing or does not fit together.
    """
    run = prepare(config, entries)
    by_name = {target.name: target for target in run.targets}
    members = {name: [by_name[one] for one in names] for name, names in (groups or {}).items()}
    for name, targets in members.items():
        seeds.check_group(name, targets)
    keys = {part.name: part.keys(run) for part in parts(config)}
    group_keys = {name: seeds.group_key(run, name, targets) for name, targets in members.items()}

    cases = {part.suite: (part.cases(run), part.keys(run)) for part in case_parts(config)}

    def lacking() -> tuple[dict[str, list[Target]], list[str], dict[str, list[Case]]]:
        unmatched = [name for name, key in group_keys.items() if run.store.read(key) is None]
        return missing_targets(run, keys), unmatched, missing_cases(run, cases)

    if any(lacking()):
        with run.store.lock():
            # another process may have measured some meanwhile
            wanted, unmatched, wanted_cases = lacking()
            jobs: list[Job] = [
                part.job(run, wanted[part.name]) for part in parts(config) if part.name in wanted
            ]
            jobs += [
                part.job(run, wanted_cases[part.suite])
                for part in case_parts(config)
                if part.suite in wanted_cases
            ]
            if unmatched:
                jobs.append(seeds.SeedsJob(run, [(name, members[name]) for name in unmatched]))
            for record in run_jobs(run, jobs) if jobs else ():
                run.store.write(record)
    records = {
        target.name: united(
            [_kept(run.store, target, found[target.name]) for found in keys.values()]
        )
        for target in run.targets
    }
    matched = {name: _group(run.store, config, name, key) for name, key in group_keys.items()}
    return Results(records, matched, _cases(run, cases))


def parts(config: Config) -> list[Part]:
    """The parts of a run, the one on its own text first."""
    return [MAIN, *(part for suite, part in BY_SUITE.items() if suite in config.suites)]


def missing_targets(run: Run, keys: Keys) -> dict[str, list[Target]]:
    """The targets without a record of a part, by the name of the part."""
    found = {
        part: [target for target in run.targets if run.store.read(by_name[target.name]) is None]
        for part, by_name in keys.items()
    }
    return {part: targets for part, targets in found.items() if targets}


def case_parts(config: Config) -> list[CasePart]:
    """The parts of a run that are about cases."""
    return [part for suite, part in CASES_BY_SUITE.items() if suite in config.suites]


def missing_cases(run: Run, cases: Cases) -> dict[str, list[Case]]:
    """The cases without a record, by suite, and those that something prevented which may have passed."""

    def lacks(suite: str, key: str) -> bool:
        record = run.store.read(key)
        return record is None or CASES_BY_SUITE[suite].to_try_again(record)

    found = {
        suite: [case for case in every if lacks(suite, by_name[case.name])]
        for suite, (every, by_name) in cases.items()
    }
    return {suite: missing for suite, missing in found.items() if missing}


def _cases(run: Run, cases: Cases) -> dict[str, Record]:
    """The record of each case; parts about one case are united."""
    found: dict[str, list[Record]] = {}
    for suite, (every, by_name) in cases.items():
        for case in every:
            record = run.store.read(by_name[case.name])
            if record is None:
                raise _gone(case.name, run.store)
            found.setdefault(case.name, []).append(
                with_names(record, case, CASES_BY_SUITE[suite].names(run, case))
            )
    return {name: united(records) for name, records in found.items()}


def _kept(store: RecordStore, target: Target, key: str) -> Record:
    """A record of a target, under the name and reference that it goes by in this run."""
    record = store.read(key)
    if record is None:
        raise _gone(target.name, store)
    here = {"name": target.name, "reference": str(target.checkpoint.reference)}
    return replace(record, checkpoint={**record.checkpoint, **here})


def _group(store: RecordStore, config: Config, name: str, key: str) -> Record:
    """The record of a group, with what the configuration says it is to be compared as."""
    record = store.read(key)
    if record is None:
        raise _gone(name, store)
    known = {spec.group.name: spec.group for spec in config.groups}
    group = known.get(name)
    said = {"source": group.label, "block": group.block} if group else {"source": name, "block": ""}
    return replace(record, checkpoint={**record.checkpoint, "name": name, **said})


def _gone(name: str, store: RecordStore) -> OutputError:
    return OutputError(
        f"the record of {name} in {store.out}",
        "it was written and is gone",
        "Check that nothing else cleans that folder, and run again.",
    )
