"""The checkpoints at a reference: all of them, or the one that it means, and how to call them."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path

from saebench.errors import BadReferenceError, CheckpointError, UnknownFormatError
from saebench.files import CheckpointFiles, list_files
from saebench.layout import Candidate, candidate_of_file, candidates
from saebench.layout.names import is_side
from saebench.reference import Reference, Resolved, as_reference, check_size, fetch, resolve
from saebench.weights import UNREAD_SUFFIXES, is_unread, is_weights

SAVE_ITS_TENSORS = "save its tensors with safetensors.torch.save_file"
CONVERT = {  # what makes a file that is read, by suffix
    ".dcp": "torch.distributed.checkpoint.format_utils.dcp_to_torch_save(FOLDER, 'weights.pt')",
    ".bin": SAVE_ITS_TENSORS,
    ".ckpt": SAVE_ITS_TENSORS,
}
SHOWN = 12  # checkpoints listed in an error
HINT_PARTS = 4  # folders of a local path that may say something about the checkpoint
MODEL_KINDS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForMaskedLM")


def expand(ref: str | Path | Reference) -> list[Reference]:
    """Every checkpoint at a reference, a folder of them, or a local pattern (``runs/*/trainer_0``).

    Folders inside the folder of a checkpoint (the steps of a run) are not entered, nor are the steps
    listed that lie beside its end. Several checkpoints in one folder come back as their weight files,
    references on the hub pinned to the commit. Raises :class:`BadReferenceError` when nothing is
    there and :class:`CheckpointError` when no checkpoint is.
    """
    reference = as_reference(ref)
    path = Path(reference.path).expanduser()
    if reference.kind == "local" and glob.has_magic(str(path)) and not path.exists():
        matches = sorted(glob.glob(str(path), recursive=True))
        found = _expand_pattern(matches)
        if not found:
            raise _no_weights(reference, matches)
        return found
    resolved = resolve(reference)
    if resolved.file is not None:
        return [resolved.pinned(the_checkpoint(resolved).path)]
    inside = _inside(resolved)
    if not inside:
        raise _nothing(resolved)
    return [resolved.pinned(item.path) for item in inside]


def the_checkpoint(resolved: Resolved) -> Candidate:
    """The one checkpoint referenced.

    Raises :class:`BadReferenceError` when there are several, listing them, and
    :class:`CheckpointError` when there is none.
    """
    if resolved.file is not None:
        if is_unread(resolved.file):
            raise _no_weights(resolved.reference, [resolved.file])
        if not is_weights(resolved.file):
            raise BadReferenceError(
                f"weights at {resolved.reference}",
                "a file that holds no weights",
                "Reference the folder it is in.",
            )
        return candidate_of_file(resolved.names, resolved.file)
    found = _inside(resolved)
    if not found:
        raise _nothing(resolved)
    if len(found) > 1:
        references = [str(resolved.pinned(item.path)) for item in found[:SHOWN]]
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        raise BadReferenceError(
            f"one checkpoint at {resolved.reference}",
            f"{len(found)} of them",
            "Reference one: " + ", ".join(references + more) + ".",
        )
    return found[0]


def bring(resolved: Resolved, found: Candidate) -> Path:
    """The local folder that the names of a checkpoint are relative to, its files downloaded.

    Raises :class:`HubError` when the download fails, and :class:`UnknownFormatError`, before any
    weights are downloaded, when the config is that of a language model.
    """
    if resolved.root is None:
        check_size(resolved, found.files)
        configs = [name for name in found.files if not is_weights(name)]
        folder = fetch(resolved, configs) / found.folder
        _refuse_language_model(resolved, CheckpointFiles(folder, found.configs))
    return fetch(resolved, found.files) / found.folder


def hint(resolved: Resolved, found: Candidate) -> str:
    """The path that a checkpoint goes by, of a local one without what lies far above it."""
    reference = resolved.pinned(found.path)
    if reference.kind == "hub":
        return "/".join(part for part in (str(reference.repo), reference.path) if part)
    path = Path(reference.path).expanduser().resolve()
    return "/".join(path.parts[-HINT_PARTS:])


def left_aside(found: Candidate) -> tuple[str, ...]:
    """A note that names the weight files of the folder that are not read; none where there are none."""
    if not found.aside:
        return ()
    more = len(found.aside) - SHOWN
    shown = ", ".join(found.aside[:SHOWN]) + (f" and {more} more" if more > 0 else "")
    each = "it by itself" if len(found.aside) == 1 else "one of them by itself"
    return (f"also in the folder, not read: {shown} (reference {each} to load it)",)


def short_name(reference: Reference) -> str:
    """A short name: ``trainer_0`` of a local path, ``repo@abcdef1:layer_13`` on the hub."""
    if reference.kind == "local":
        path = Path(reference.path).expanduser().resolve()
        return path.stem if is_weights(path.name) else path.name
    revision = reference.revision or ""
    short = revision[:7] if len(revision) == 40 else revision
    name = str(reference.repo).split("/")[1] + (f"@{short}" if short else "")
    return f"{name}:{reference.path}" if reference.path else name


def short_names(references: Sequence[Reference]) -> list[str]:
    """A short name for each, with as many parent folders as it takes to tell them apart.

    ``layer_13/trainer_0`` and ``layer_24/trainer_0`` where both would be ``trainer_0``; the same
    reference twice keeps one name.
    """
    paths = [_parts(reference) for reference in references]
    names = [short_name(reference) for reference in references]
    for depth in range(2, max(map(len, paths), default=0) + 1):
        owners: dict[str, set[str]] = {}
        for name, reference in zip(names, references, strict=True):
            owners.setdefault(name, set()).add(str(reference))
        names = [
            "/".join(parts[-depth:]) if len(owners[name]) > 1 and parts else name
            for name, parts in zip(names, paths, strict=True)
        ]
    return names


def _parts(reference: Reference) -> tuple[str, ...]:
    """The folders of a local path, without its root; empty on the hub, where names are whole already."""
    if reference.kind != "local":
        return ()
    path = Path(reference.path).expanduser().resolve()
    return (path.with_suffix("") if is_weights(path.name) else path).parts[1:]


def _expand_pattern(matches: Iterable[str]) -> list[Reference]:
    """The checkpoints at the matches of a pattern, each once, none inside the folder of another."""
    kept: list[Reference] = []
    weights: set[Path] = set()
    folders: set[Path] = set()
    for match in map(Path, matches):
        if match.is_file() and (not is_weights(match.name) or is_side(match.name)):
            continue
        resolved = resolve(as_reference(match))
        found = [the_checkpoint(resolved)] if resolved.file else _inside(resolved)
        for item in found:
            reference = resolved.pinned(item.path)
            place = Path(reference.path)
            files = {Path(resolved.base.path, item.folder, name) for name in item.weights}
            if folders.isdisjoint(place.parents) and weights.isdisjoint(files):
                kept.append(reference)
                weights |= files
                if place.is_dir():
                    folders.add(place)
    return kept


def _inside(resolved: Resolved) -> list[Candidate]:
    return candidates(resolved.names, resolved.within)


def _nothing(resolved: Resolved) -> CheckpointError:
    prefix = f"{resolved.within}/" if resolved.within else ""
    unread = resolved.unread
    if resolved.root is not None:
        found = list_files(resolved.root / resolved.within, is_unread)
        unread = tuple(f"{prefix}{name}" for name in found)
    names = [name for name in (*unread, *resolved.names) if name.startswith(prefix)]
    return _no_weights(resolved.reference, [name.removeprefix(prefix) for name in names])


def _no_weights(reference: Reference, names: Sequence[str]) -> CheckpointError:
    if unread := [name for name in names if is_unread(name) and not is_side(Path(name).name)]:
        return _not_read(reference, unread)
    return CheckpointError(
        f"weights at {reference}",
        f"only {', '.join(names[:SHOWN])}" if names else "no weight file",
        "A checkpoint is a folder with a config and a .safetensors (or .pt) file.",
    )


def _not_read(reference: Reference, names: Sequence[str]) -> CheckpointError:
    """The error where all weights are in forms that other libraries write."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        folder, dcp, _ = name.partition(".dcp")
        end = next((end for end in UNREAD_SUFFIXES if name.lower().endswith(end)), ".dcp")
        kinds.setdefault(end, []).append(f"{folder}{dcp}" if dcp else name)
    shown = list(dict.fromkeys(name for several in kinds.values() for name in several))
    how = "; ".join(f"{end}: {CONVERT[end]}" for end in kinds)
    return CheckpointError(
        f"weights at {reference} as .safetensors, .npz, .pt, .pth or .pkl",
        f"only {', '.join(shown[:SHOWN])}, a kind of file that is not read here",
        f"Convert it to safetensors or .pt ({how}).",
    )


def _refuse_language_model(resolved: Resolved, files: CheckpointFiles) -> None:
    """Raise where a config is a language model's, of which the weights are not downloaded then."""
    for name in files.names:
        try:
            data = files.json(name) if name == "config.json" else {}
        except CheckpointError:
            continue  # whoever reads it says what is wrong with it
        kinds = [str(kind) for kind in _listed(data.get("architectures"))]
        if any(kind.endswith(MODEL_KINDS) for kind in kinds):
            raise UnknownFormatError(
                f"a checkpoint at {resolved.reference}",
                f"{name} has 'architectures' {', '.join(kinds)!r:.80}, as that of a language model",
                "Reference the folder of an SAE here; this looks like the language model itself.",
            )


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []
