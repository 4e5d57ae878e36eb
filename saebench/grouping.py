"""Which checkpoints of a run belong to which group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from saebench.config import Config, GroupSpec
from saebench.config.parts import groups_by_seed
from saebench.errors import ConfigError
from saebench.protocols import Group

NEEDED = 2  # checkpoints that make a pair


def groups_of(
    config: Config, names: Sequence[str]
) -> Mapping[str, tuple[GroupSpec, tuple[str, ...]]]:
    """The groups of a run with the names of their members, in the order of ``names``.

    Those configured or, where none is, checkpoints whose names differ in a seed only. Raises
    :class:`ConfigError` where there is none, one has a single member, or goes by a checkpoint's name.
    """
    if not config.groups:
        found = groups_by_seed(names)
        if found:
            return {
                name: (GroupSpec(Group(name, members)), members) for name, members in found.items()
            }
        raise ConfigError(
            "groups of checkpoints that differ in their seed",
            f"no group is configured, and no two names differ in a seed only: {', '.join(names)}",
            "Name them: --group 'topk=topk-*', or [[group]] with name and saes in saebench.toml.",
        )
    groups = {}
    for spec in config.groups:
        patterns = spec.group.saes
        members = tuple(n for n in names if any(n == p or fnmatchcase(n, p) for p in patterns))
        _check(spec.group.name, patterns, members, names)
        groups[spec.group.name] = (spec, members)
    return groups


def _check(
    name: str, patterns: Sequence[str], members: Sequence[str], names: Sequence[str]
) -> None:
    if name in names:
        raise ConfigError(
            f"the group {name!r}", "a checkpoint goes by that name", "Give the group another one."
        )
    if len(members) < NEEDED:
        found = f"only {members[0]}" if members else f"none of {', '.join(names)}"
        raise ConfigError(
            f"two or more checkpoints in group {name!r} ({', '.join(patterns)})",
            found,
            "Add checkpoints trained with other seeds, or correct the patterns.",
        )
