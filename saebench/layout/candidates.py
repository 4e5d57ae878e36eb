"""From a listing to the checkpoints in it.

A folder that holds weights is a checkpoint, as a rule. The exceptions are rules over names, and this
module is all of them: weight-like files that are no weights (optimizers, statistics), files that make
up one checkpoint together (one per layer), files that are each one of their own, the steps of a run
beside its end, and folders of steps whose config lies above them. What a file is, an adapter says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from saebench.layout.beside import Beside, Folders
from saebench.layout.names import (
    FINAL_STEMS,
    MODEL_CONFIGS,
    STEPS_FOLDER,
    group_of,
    in_order,
    is_side,
    is_step,
    stem,
)
from saebench.weights import is_pickle, is_weights


@dataclass(frozen=True)
class Candidate:
    """The files that may make up one checkpoint.

    ``path`` is what it is referenced by: a folder ("" is the listing's own) or a weight file.
    ``names`` are relative to ``folder``, configs first; most lie directly in it. ``aside`` are the
    other weight files, relative to it as well, that a reference to their folder does not mean.
    """

    path: str
    folder: str
    names: tuple[str, ...]
    aside: tuple[str, ...] = ()

    @property
    def weights(self) -> tuple[str, ...]:
        """The names of weight files."""
        return tuple(name for name in self.names if is_weights(name))

    @property
    def configs(self) -> tuple[str, ...]:
        """The names of configs."""
        return tuple(name for name in self.names if not is_weights(name))

    @property
    def files(self) -> tuple[str, ...]:
        """The names relative to the listing, configs first."""
        return tuple(join(self.folder, name) for name in (*self.configs, *self.weights))


def candidates(names: Iterable[str], within: str = "") -> list[Candidate]:
    """The checkpoints in the folder ``within``, in order; none inside the folder of another.

    ``names`` is the whole listing: the config of a step may lie above ``within``. A language model is
    listed only where there is nothing else.
    """
    folders = _by_folder(names)
    inside = (f for f in folders if not within or f == within or f.startswith(f"{within}/"))
    found = [parts for folder in inside if (parts := _in_folder(folder, folders))]
    taken: set[str] = set()  # folders that are a checkpoint
    kept: list[Candidate] = []
    for parts in sorted(found, key=_outermost_first):
        place = parts[0].path if len(parts) == 1 else split(parts[0].path)[0]
        if not taken.isdisjoint(_with_parents(place)):
            continue
        kept += parts
        if len(parts) == 1 and not _is_language_model(parts[0], folders):
            taken.add(place)
    wanted = [item for item in kept if not _is_language_model(item, folders)] or kept
    return sorted(wanted, key=lambda item: in_order(item.path))


def candidate_of_file(names: Iterable[str], file: str) -> Candidate:
    """The checkpoint that one weight file of a listing is, or is a part of."""
    folders = _by_folder(names)
    folder, base = split(file)
    beside = [name for name in folders[folder] if is_weights(name)]
    group = group_of(base)
    mine = [name for name in beside if group is not None and group_of(name) == group] or [base]
    return _candidate(file, mine, Beside(folder, folders, mine))


def split(name: str) -> tuple[str, str]:
    """The folder of a name ("" where it has none) and its last part."""
    folder, _, base = name.rpartition("/")
    return folder, base


def join(folder: str, name: str) -> str:
    """A name in a folder, either of which may be ""."""
    return "/".join(part for part in (folder, name) if part)


def _by_folder(names: Iterable[str]) -> dict[str, list[str]]:
    folders: dict[str, list[str]] = {}
    for name in sorted(names, key=in_order):
        folder, base = split(name)
        folders.setdefault(folder, []).append(base)
    return folders


def _outermost_first(parts: Sequence[Candidate]) -> tuple[int, int]:
    """A sorting key: by what they are referenced by, then by where the weights lie."""
    weights = join(parts[0].folder, parts[0].weights[0])
    depth = (split(weights)[0] if len(parts) > 1 else parts[0].path).split("/")
    return len(list(filter(None, depth))), weights.count("/")


def _with_parents(folder: str) -> list[str]:
    """A folder and all that it lies in, down to ""."""
    parts = folder.split("/") if folder else []
    return ["/".join(parts[:depth]) for depth in range(len(parts) + 1)]


def _in_folder(folder: str, folders: Folders) -> list[Candidate]:
    """The checkpoints whose weights lie directly in a folder."""
    weights = [name for name in folders[folder] if is_weights(name)]
    parts = _apart(weights)
    if not parts:
        return []
    beside = Beside(folder, folders)
    if len(parts) > 1:
        return [_candidate(join(folder, mine[0]), mine, beside) for mine in parts]
    run, last = split(folder)
    path = folder
    if STEPS_FOLDER.fullmatch(last) and beside.root == run:
        # the end of a run that keeps its config above its steps, or the only step of one
        path = run if stem(parts[0][0]) in FINAL_STEMS else join(folder, parts[0][0])
    if path not in (folder, run):
        return [_candidate(path, parts[0], beside)]  # a file that is referenced by itself
    others = [name for name in weights if name not in parts[0] and not is_side(name)]
    return [_candidate(path, parts[0], beside, others)]


def _apart(weights: Sequence[str]) -> list[list[str]]:
    """The weight files of one folder by checkpoint: the end of a run alone, or all that are equals."""
    stems = {stem(name) for name in weights if name.lower().endswith(".safetensors")}
    groups: dict[str, list[str]] = {}
    for name in weights:
        twin = stem(name) in stems and not name.lower().endswith(".safetensors")
        if not is_side(name) and not twin:
            groups.setdefault(group_of(name) or name, []).append(name)
    together = [group for group in groups.values() if group_of(group[0]) is not None]
    others = [group for group in groups.values() if not is_step(group[0])]
    final = [group for group in others if stem(group[0]) in FINAL_STEMS]
    if together and not (final and is_pickle(together[0][0])):
        return together
    if final:
        return [min(final, key=lambda group: FINAL_STEMS.index(stem(group[0])))]
    return others or list(groups.values())


def _candidate(
    path: str, mine: Sequence[str], beside: Beside, others: Sequence[str] = ()
) -> Candidate:
    aside = tuple(join(beside.prefix, name) for name in others)
    return Candidate(path, beside.root, beside.with_weights(mine), aside)


def _is_language_model(item: Candidate, folders: Folders) -> bool:
    """Whether what lies beside the weights comes with language models only."""
    return all(
        re.match(r"model\b|pytorch_model\b", stem(split(name)[1])) for name in item.weights
    ) and any(name in MODEL_CONFIGS for name in folders[item.folder])
