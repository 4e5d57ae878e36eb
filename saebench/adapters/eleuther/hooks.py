"""Where a sparsify checkpoint reads and writes: the name of its folder is the name of a module."""

from __future__ import annotations

import re

from saebench.adapters.reading.fields import Fields
from saebench.files import CheckpointFiles
from saebench.sae import Fact

TRAINING_FILE = "config.json"

_IN_BLOCK = re.compile(r"(?:\w+\.)*(?:layers|h|blocks)\.(\d{1,6})(?:\.\w+)*")
_EMBEDDING = re.compile(r"(?:\w+\.)*(?:embed_tokens|embed_in|wte)")


def hook_points(
    files: CheckpointFiles, *, transcode: bool, n_targets: int = 1
) -> dict[str, Fact | None]:
    """Facts ``site``, ``site_out`` or ``sites_out``, and ``model``, as far as files and path tell them.

    An SAE reads the output of the module that the folder is named for; a transcoder reads that
    module's input and writes its output, one of several targets those of the next layers as well.
    """
    run = training_config(files)
    facts: dict[str, Fact | None] = {"model": None if run is None else run.text("model")}
    module = _only_hook_point(run) or _from_path(files.hint)
    if module is None:
        return facts
    name, source, how = str(module.value), module.source, module.how
    if _EMBEDDING.fullmatch(name):
        note = f"{source}: the embeddings, which are the first block's input unless they are scaled"
        return facts | {"site": Fact("blocks.0.hook_resid_pre", note, "assumed")}
    if not transcode:
        return facts | {"site": Fact(name, source, how)}
    reads = f"{source}, of which a transcoder reads the input"
    facts["site"] = Fact(f"{name}:in", reads, how)
    if n_targets == 1:
        writes = f"{source}, of which a transcoder writes the output"
        return facts | {"site_out": Fact(f"{name}:out", writes, how)}
    names = tuple(f"{_moved(name, by)}:out" for by in range(n_targets))
    writes = f"{source} and the same module of the layers after it, one for each target"
    return facts | {"sites_out": Fact(names, writes, "assumed")}


def training_config(files: CheckpointFiles) -> Fields | None:
    """The config of the training run, where it lies in the same folder."""
    if TRAINING_FILE not in files.names:
        return None
    return Fields(TRAINING_FILE, files.json(TRAINING_FILE))


def _only_hook_point(run: Fields | None) -> Fact | None:
    """The hook point of a run that had only one."""
    names = None if run is None else run.value("hookpoints")
    if run is None or not isinstance(names, list) or len(names) != 1:
        return None
    return Fact(str(names[0]), f"{run.file}: hookpoints")


def _from_path(hint: str) -> Fact | None:
    """The innermost folder named for a module (below it there may be one for the seed)."""
    for part in reversed(hint.split("/")):
        if _IN_BLOCK.fullmatch(part) or _EMBEDDING.fullmatch(part):
            return Fact(part, f"the path …/{part}", "assumed")
    return None


def _moved(name: str, by: int) -> str:
    """The same module of a later layer."""
    match = _IN_BLOCK.fullmatch(name)
    if match is None:
        return name
    start, end = match.span(1)
    return f"{name[:start]}{int(match[1]) + by}{name[end:]}"
