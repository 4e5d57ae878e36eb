"""Which checkpoints of a run belong to which group, and which cases there are of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from saebench.config import Config, GroupSpec
from saebench.config.defaults import about
from saebench.config.parts import groups_by_seed
from saebench.errors import ConfigError
from saebench.protocols import Group

NEEDED = 2  # checkpoints that make a pair
SIGNS = {"variants": "@", "concepts": "/"}  # between a checkpoint's name and that of a case
_HOW = {
    "variants": ("variants of the model", "--variant nf4, or [[variant]] in saebench.toml"),
    "concepts": ("texts of a concept", "--concept SPEC, or [[concept]] in saebench.toml"),
}


def case_name(checkpoint: str, case: str, kind: str) -> str:
    """What gates and records call a checkpoint under a variant (``a@nf4``) or on a concept (``a/b``)."""
    return f"{checkpoint}{SIGNS[kind]}{case}"


def case_names(config: Config, suite: str) -> tuple[str, ...]:
    """The variants or concepts that a suite is about; raises :class:`ConfigError` where there is none."""
    kind = about(suite)
    found = config.variants if kind == "variants" else config.concepts
    if not found:
        what, how = _HOW[kind]
        raise ConfigError(f"{what} for the suite {suite!r}", "none", f"Give {how}.")
    return tuple(item.name for item in found)


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
