"""Seed reproducibility as a part of a run: groups of checkpoints compared after the pass they share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from saebench.environment import environment
from saebench.errors import ConfigError, SiteError
from saebench.evals.seeds import CodeSample, FiringCounts, Member, SeedsEval
from saebench.measure.jobs import Pass
from saebench.measure.progress import counted
from saebench.measure.records import identity as model_identity
from saebench.measure.run import Run, Target, contract
from saebench.metrics.definitions import definition
from saebench.models.names import hub_id
from saebench.passes import SiteObserver, Stack, SubjectObserver
from saebench.record import Measurement, Record
from saebench.sae import SAEConfig, Source
from saebench.sites import parse_site
from saebench.store import record_key

PART = "seeds"

Groups = Sequence[tuple[str, Sequence[Target]]]


def identity(run: Run) -> dict[str, Any]:
    """What the numbers depend on beside checkpoints, model and text: the protocol of matching."""
    return {"seeds": run.config.seeds.to_json()}


def group_key(run: Run, name: str, targets: Sequence[Target]) -> str:
    """The key of a group's record: its members with their names, in any order, and what all keys hold."""
    members = {target.name: contract(target.checkpoint) for target in targets}
    return record_key(
        checkpoint={"group": name, "members": members}, **run.common(PART, identity(run))
    )


class SeedsJob:
    """Codes and firings of every member on the run's own text, then every pair of each group.

    ``groups`` are ``(name, members)``; a checkpoint may be in several. Raises :class:`ConfigError` for a
    group whose members cannot be compared (see :func:`check_group`).
    """

    def __init__(self, run: Run, groups: Groups) -> None:
        for name, targets in groups:
            check_group(name, targets)
        self.groups = [(name, list(targets)) for name, targets in groups]
        by_name = {target.name: target for _, targets in self.groups for target in targets}
        self.targets = list(by_name.values())
        widths = {name: target.checkpoint.sae.cfg.d_sae for name, target in by_name.items()}
        n_tokens = run.config.seeds.n_tokens
        self.firings = {name: FiringCounts(width) for name, width in widths.items()}
        self.samples = {name: CodeSample(width, n_tokens) for name, width in widths.items()}

    @property
    def site_observers(self) -> Mapping[Stack, Sequence[SiteObserver]]:
        """None: only codes are looked at."""
        return {}

    @property
    def subject_observers(self) -> Mapping[str, Sequence[SubjectObserver]]:
        """Firings and the first codes of each member."""
        return {name: [self.firings[name], self.samples[name]] for name in self.firings}

    def finish(self, run: Run, done: Pass) -> Iterator[Record]:
        """The record of each group."""
        for name, targets in self.groups:
            started = time.perf_counter()
            found = SeedsEval(
                [self._member(target) for target in targets],
                run.config.seeds,
                partial(counted, what=f"comparing the seeds of {name}", unit="pair"),
            )
            n_tokens = self.firings[targets[0].name].n_tokens
            measured = found.measurements(
                n_tokens=n_tokens, n_sequences=run.stream.n_sequences or 0
            )
            yield make_group_record(
                run,
                name,
                targets,
                measured,
                details={PART: found.details()},
                done=done,
                seconds=done.seconds + time.perf_counter() - started,
            )

    def _member(self, target: Target) -> Member:
        name = target.name
        return Member(name, target.checkpoint.sae, self.firings[name], self.samples[name])


def make_group_record(
    run: Run,
    name: str,
    targets: Sequence[Target],
    measurements: dict[str, Measurement],
    *,
    details: Mapping[str, Any],
    done: Pass,
    seconds: float,
) -> Record:
    """The record of one group, whose ``checkpoint`` names the members and the digests of their files."""
    return Record(
        key=group_key(run, name, targets),
        checkpoint={
            "name": name,
            "members": [target.name for target in targets],
            "files": {target.name: dict(target.checkpoint.digests) for target in targets},
        },
        part=PART,
        model=model_identity(run.models),
        data=run.stream.describe(),
        policy={
            **run.policy,
            **identity(run),
            "resampling": "checkpoints",
            "calibration_tokens": done.calibration.n_tokens,
        },
        passes=dict(done.calls),
        measurements=measurements,
        definitions={metric: definition(metric).to_json() for metric in measurements},
        details=details,
        environment=environment(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
    )


def check_group(name: str, targets: Sequence[Target]) -> None:
    """Check that the members of a group can be compared latent by latent.

    Numbers of latents may differ: the matching is rectangular then. Raises :class:`ConfigError` for a
    group of one, and for members of different width, hook point or language model.
    """
    names = [target.name for target in targets]
    if len(set(names)) < 2:
        raise ConfigError(
            f"two or more checkpoints in the group {name!r}",
            f"only {names[0]}" if names else "none",
            "Add checkpoints that were trained with other seeds, or take the group out.",
        )
    configs = {target.name: target.checkpoint.sae.cfg for target in targets}
    _check_same(name, configs, "width", _widths, "Group checkpoints of one width only.")
    _check_same(name, configs, "hook point", _hooks, "Group checkpoints of one hook point only.")
    stated = {key: cfg for key, cfg in configs.items() if cfg.models or cfg.model}
    _check_same(name, stated, "language model", _models, "Group checkpoints of one model only.")


def _check_same(
    name: str,
    configs: Mapping[str, SAEConfig],
    what: str,
    fact: Callable[[SAEConfig], str],
    next_step: str,
) -> None:
    by_fact: dict[str, list[str]] = {}
    for member, cfg in configs.items():
        by_fact.setdefault(fact(cfg), []).append(member)
    if len(by_fact) > 1:
        raise ConfigError(
            f"checkpoints of one {what} in the group {name!r}",
            "; ".join(f"{value}: {', '.join(members)}" for value, members in by_fact.items()),
            f"{next_step} Latents are compared where they read and write the same activations.",
        )


def _widths(cfg: SAEConfig) -> str:
    read, written = (
        f"{count} × {width}" if count > 1 else str(width)
        for count, width in ((cfg.n_sources, cfg.d_in), (cfg.n_targets, cfg.d_out))
    )
    return f"d_in {read}" if read == written else f"d_in {read}, d_out {written}"


def _hooks(cfg: SAEConfig) -> str:
    read, written = (", ".join(map(_hook, sources)) for sources in (cfg.reads, cfg.writes))
    return read if read == written else f"{read} → {written}"


def _hook(source: Source) -> str:
    """One activation, whatever of its names the files use."""
    try:
        site = str(parse_site(source.site or "").canonical)
    except SiteError:
        site = str(source.site)
    model = f" of model {source.model}" if source.model or source.minus is not None else ""
    return site + model + ("" if source.minus is None else f" − model {source.minus}")


def _models(cfg: SAEConfig) -> str:
    return ", ".join(_model(str(model)) for model in cfg.models or (cfg.model,))


def _model(name: str) -> str:
    """One name for one model: a hub id, or where its folder is."""
    return str(Path(name).resolve()) if Path(name).exists() else hub_id(name)
