"""A reference in, an SAE out: resolve, find the one checkpoint, recognise its format, read it."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saebench.adapters import Choices, Claim, claim
from saebench.adapters.places import with_places
from saebench.diagnosis import diagnose
from saebench.errors import BadReferenceError, CheckpointError
from saebench.files import CheckpointFiles, group_checkpoints
from saebench.inspection import Inspection
from saebench.reference import GRAMMAR, Reference, Resolved, fetch, parse_reference, resolve
from saebench.sae import Dictionary
from saebench.weights import TensorInfo, is_pickle, is_weights, refuse_pickle

SHOWN = 12  # checkpoints listed in an error
HINT_PARTS = 4  # folders of a local path that may say something about the checkpoint


@dataclass(frozen=True)
class Checkpoint:
    """An SAE with where it came from: ``name`` is short and stable, as in test ids.

    ``commit`` is the hub revision (None for local files), ``digests`` the SHA-256 of the config
    and weight files by name, ``given`` what the user said about it.
    """

    reference: Reference
    files: CheckpointFiles
    claim: Claim
    commit: str | None
    digests: Mapping[str, str]
    sae: Dictionary
    name: str
    given: Mapping[str, Any] = field(default_factory=dict)


def load_sae(
    ref: str | Path | Reference,
    *,
    site: str | None = None,
    allow_pickle: bool = False,
    settings: Mapping[str, str] | None = None,
    tensors: Mapping[str, str] | None = None,
) -> Dictionary:
    """The SAE at a reference (``hf:org/repo@revision:path``, or a local folder or weight file).

    ``site`` names the hook point where the files do not, or overrules them. ``allow_pickle``
    admits ``.pt`` files, read with ``weights_only=True``. ``settings`` say what the files leave open
    (``{"k": "10"}``), ``tensors`` which tensor has which role (``{"encoder": "W_enc"}``). Raises
    :class:`BadReferenceError` when nothing, or more than one checkpoint, is there,
    :class:`CheckpointError` when the files are not a usable checkpoint, and :class:`ConfigError` for
    a setting that the format does not take.
    """
    return open_checkpoint(
        ref, site=site, allow_pickle=allow_pickle, settings=settings, tensors=tensors
    ).sae


def open_checkpoint(
    ref: str | Path | Reference,
    *,
    site: str | None = None,
    allow_pickle: bool = False,
    settings: Mapping[str, str] | None = None,
    tensors: Mapping[str, str] | None = None,
    outline: bool = False,
) -> Checkpoint:
    """The checkpoint at a reference: :func:`load_sae` with files, digests, commit and name.

    In an ``outline`` matrices have shapes and no values, and files no digests: headers, configs and
    vectors are all that is read.
    """
    resolved = resolve(as_reference(ref))
    folder, names = _the_checkpoint(resolved)
    weights = [name for name in names if is_weights(name)]
    if not allow_pickle and all(map(is_pickle, weights)):
        raise refuse_pickle(weights[0])  # before gigabytes are downloaded for nothing
    wanted = [name for name in names if allow_pickle or not is_pickle(name)]
    root = fetch(resolved, [f"{folder}/{name}" if folder else name for name in wanted])
    files = CheckpointFiles(
        root / folder, tuple(names), allow_pickle, _hint(resolved.reference, folder), outline
    )
    adapter, found = claim(files)
    choices = Choices(settings, tensors)
    sae = adapter.read(files, found, choices)
    sae.cfg = with_places(sae.cfg, choices, site)
    choices.check_used(found.format)
    return Checkpoint(
        reference=resolved.reference,
        files=files,
        claim=found,
        commit=resolved.commit,
        digests={} if outline else files.digests(found.files),
        sae=sae.eval(),
        name=short_name(_pinned(resolved, folder)),
        given={
            "site": site,
            "allow_pickle": allow_pickle and any(map(is_pickle, found.weights)),
            "settings": dict(settings or {}),
            "tensors": dict(tensors or {}),
        },
    )


def inspect(
    ref: str | Path | Reference,
    *,
    site: str | None = None,
    allow_pickle: bool = False,
    settings: Mapping[str, str] | None = None,
    tensors: Mapping[str, str] | None = None,
    headers_only: bool = False,
) -> Inspection:
    """What the checkpoint at a reference is, and what its weights show.

    With ``headers_only`` no matrix is read: there are no norms, findings and digests then. Raises
    what :func:`load_sae` raises.
    """
    checkpoint = open_checkpoint(
        ref,
        site=site,
        allow_pickle=allow_pickle,
        settings=settings,
        tensors=tensors,
        outline=headers_only,
    )
    cfg = checkpoint.sae.cfg
    norms = None if headers_only else checkpoint.sae.decoder_norms()
    return Inspection(
        reference=str(checkpoint.reference),
        name=checkpoint.name,
        commit=checkpoint.commit,
        format=cfg.format,
        evidence=checkpoint.claim.evidence,
        facts=cfg.facts,
        notes=cfg.notes,
        tensors=_headers(checkpoint),
        norms=None
        if norms is None
        else (float(norms.min()), float(norms.mean()), float(norms.max())),
        digests=checkpoint.digests,
        provenance=cfg.provenance,
        findings=() if headers_only else tuple(diagnose(checkpoint.sae)),
    )


def expand(ref: str | Path | Reference) -> list[Reference]:
    """Every checkpoint at a reference, a folder of them, or a local pattern (``runs/*/trainer_0``).

    Folders inside the folder of a checkpoint (the steps of a run) are not entered. References on
    the hub come back pinned to the commit. Raises :class:`BadReferenceError` when there is none.
    """
    reference = as_reference(ref)
    path = Path(reference.path).expanduser()
    if reference.kind == "local" and glob.has_magic(str(path)) and not path.exists():
        matches = sorted(glob.glob(str(path), recursive=True))
        found = [item for match in matches for item in _expand_path(Path(match))]
        if not found:
            raise _nothing(reference, matches)
        return found
    resolved = resolve(reference)
    folders = _folders(resolved)
    if not folders:
        raise _nothing(reference, resolved.names)
    return [_pinned(resolved, folder) for folder in folders]


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


def as_reference(ref: str | Path | Reference) -> Reference:
    """The reference meant; :class:`BadReferenceError` where it is no text, path or reference."""
    if isinstance(ref, Reference):
        return ref
    if isinstance(ref, Path):
        return Reference("local", None, None, str(ref))
    if not isinstance(ref, str):
        raise BadReferenceError(
            "a reference to a checkpoint (a text or a path)",
            f"{ref!r:.60} ({type(ref).__name__})",
            GRAMMAR,
        )
    return parse_reference(ref)


def _expand_path(path: Path) -> list[Reference]:
    if path.is_file() and not is_weights(path.name):
        return []
    resolved = resolve(as_reference(path))
    return [_pinned(resolved, folder) for folder in _folders(resolved)]


def _pinned(resolved: Resolved, folder: str) -> Reference:
    return resolved.reference.within(folder, resolved.commit)


def _folders(resolved: Resolved) -> list[str]:
    """The checkpoint folders that are not inside another one ("" is the folder referenced)."""
    if resolved.file is not None:
        return [""]
    kept: list[str] = []
    for folder in group_checkpoints(resolved.names):
        if not any(outer == "" or folder.startswith(f"{outer}/") for outer in kept):
            kept.append(folder)
    return kept


def _the_checkpoint(resolved: Resolved) -> tuple[str, tuple[str, ...]]:
    """The folder (relative) and files of the one checkpoint referenced."""
    if resolved.file is not None:
        if not is_weights(resolved.file):
            raise BadReferenceError(
                f"weights at {resolved.reference}",
                "a file that holds no weights",
                "Reference the folder it is in.",
            )
        configs = (name for name in resolved.names if not is_weights(name))
        return "", (*configs, resolved.file)
    folders = _folders(resolved)
    if not folders:
        raise _nothing(resolved.reference, resolved.names)
    if len(folders) > 1:
        references = [str(_pinned(resolved, folder)) for folder in folders[:SHOWN]]
        more = [f"and {len(folders) - SHOWN} more"] if len(folders) > SHOWN else []
        raise BadReferenceError(
            f"one checkpoint at {resolved.reference}",
            f"{len(folders)} of them",
            "Reference one: " + ", ".join(references + more) + ".",
        )
    return folders[0], group_checkpoints(resolved.names)[folders[0]]


def _nothing(reference: Reference, names: Sequence[str]) -> CheckpointError:
    return CheckpointError(
        f"weights at {reference}",
        f"only {', '.join(names[:SHOWN])}" if names else "no weight file",
        "A checkpoint is a folder with a config and a .safetensors (or .pt) file.",
    )


def _headers(checkpoint: Checkpoint) -> dict[str, TensorInfo]:
    """The tensors of all weight files; of several, named by file as well."""
    weights, files = checkpoint.claim.weights, checkpoint.files
    if len(weights) == 1:
        return files.header(weights[0])
    return {f"{name}: {key}": item for name in weights for key, item in files.header(name).items()}


def _hint(reference: Reference, folder: str) -> str:
    """The path that a checkpoint goes by, of a local one without what lies far above it."""
    if reference.kind == "hub":
        return "/".join(part for part in (str(reference.repo), reference.path, folder) if part)
    path = (Path(reference.path).expanduser() / folder).resolve()
    return "/".join(path.parts[-HINT_PARTS:])
