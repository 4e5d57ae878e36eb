"""What lies beside the weights of one folder: their configs, and files that are read along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from saebench.layout.names import (
    MODEL_FOLDER,
    STEP_FOLDER,
    in_order,
    is_companion,
    is_config_word,
    is_run_config,
    is_side,
    is_side_config,
    is_step,
    namesakes,
    stems_of,
)
from saebench.weights import is_weights

Folders = Mapping[str, Sequence[str]]

MOST_SHARED = 32  # configs that are nobody's namesake; a folder with more holds data as well


class Beside:
    """The files beside the weights of a folder, looked up once for all of them.

    ``root`` is the folder that has the configs: the weights' own, or one above a folder of steps or of
    a model that a run left below what it says of itself.
    """

    def __init__(self, folder: str, folders: Folders, mine: Sequence[str] = ()) -> None:
        self.root = _root(folder, folders)
        self.prefix = folder[len(self.root) :].lstrip("/")
        self._companions = [name for name in folders[folder] if is_companion(name)]
        weights = [name for name in folders[folder] if is_weights(name)]
        owners: dict[str, list[str]] = {}
        for name in weights:
            if not is_side(name) or name in mine:
                for stem in stems_of(name):
                    owners.setdefault(stem, []).append(name)
        self._own: dict[str, list[str]] = {}
        self._shared: list[str] = []
        self._lent: list[str] = []
        for config in _configs(folder, self.root, folders):
            base = config.rpartition("/")[2]
            named = [name for stem in namesakes(base) for name in owners.get(stem, ())]
            for name in named:
                self._own.setdefault(name, []).append(config)
            if not named:
                self._shared.append(config)
            elif not any(map(is_step, named)):
                self._lent.append(config)
        if len(self._shared) > MOST_SHARED:
            self._shared.sort(key=lambda name: not is_config_word(name))
            self._shared = sorted(self._shared[:MOST_SHARED], key=in_order)

    def with_weights(self, mine: Sequence[str]) -> tuple[str, ...]:
        """The configs of some weight files, these, and what is read along, relative to the root.

        Their configs are their namesakes, and those that are nobody's. A step without a namesake has
        those of the weights that it is a step of.
        """
        own = dict.fromkeys(config for name in mine for config in self._own.get(name, ()))
        lent = self._lent if not own and all(map(is_step, mine)) else ()
        along = (name for name in self._companions if name not in mine)
        prefix = f"{self.prefix}/" if self.prefix else ""
        return (*own, *lent, *self._shared, *(f"{prefix}{name}" for name in (*mine, *along)))


def is_below_its_config(folder_name: str, direct: Sequence[str]) -> bool:
    """Whether a config of what a folder holds is to be looked for in the folder above it."""
    return folder_name == MODEL_FOLDER or _is_of_steps(folder_name, direct)


def is_config(name: str) -> bool:
    """Whether a file may be a config that says how to read weights."""
    return not is_weights(name) and not is_side_config(name)


def _is_of_steps(folder_name: str, direct: Sequence[str]) -> bool:
    return bool(STEP_FOLDER.fullmatch(folder_name)) and not any(map(is_config, direct))


def _root(folder: str, folders: Folders) -> str:
    above, _, last = folder.rpartition("/")
    if last == MODEL_FOLDER:
        return above if any(map(is_run_config, folders.get(above, ()))) else folder
    at = folder
    while at and _is_of_steps(at.rpartition("/")[2], folders.get(at, ())):
        at = at.rpartition("/")[0]
    return at if any(map(is_config, folders.get(at, ()))) else folder


def _configs(folder: str, root: str, folders: Folders) -> list[str]:
    """The configs of what lies in a folder, relative to the root: its own, and those of its run."""
    own = [name for name in folders[folder] if is_config(name) or is_run_config(name)]
    if root == folder:
        return own
    if folder.rpartition("/")[2] != MODEL_FOLDER:
        return [name for name in folders[root] if is_config(name) or is_run_config(name)]
    below = [f"{MODEL_FOLDER}/{name}" for name in own]
    return [*below, *filter(is_run_config, folders[root])]
