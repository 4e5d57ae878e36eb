"""A reference in, an SAE out: resolve, find the one checkpoint, recognise its format, read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from saebench.adapters import Choices, Claim, claim
from saebench.adapters.reading.places import with_places
from saebench.adapters.reading.training import with_training
from saebench.diagnosis import diagnose
from saebench.files import CheckpointFiles
from saebench.inspection import Inspection
from saebench.locating import (
    bring,
    expand,
    hint,
    left_aside,
    short_name,
    short_names,
    the_checkpoint,
)
from saebench.reference import Reference, as_reference, resolve
from saebench.sae import Dictionary
from saebench.unchanged import check_unchanged, stamps
from saebench.weights import TensorInfo, is_pickle, refuse_pickle

__all__ = [
    "Checkpoint",
    "as_reference",
    "expand",
    "inspect",
    "load_sae",
    "open_checkpoint",
    "short_name",
    "short_names",
]


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
    settings: Mapping[str, Any] | None = None,
    tensors: Mapping[str, str] | None = None,
) -> Dictionary:
    """The SAE at a reference (``hf:org/repo@revision:path``, or a local folder or weight file).

    ``site`` names the hook point where the files do not, or overrules them. ``allow_pickle``
    admits ``.pt`` and ``.pkl`` files, read as data only. ``settings`` say what the files leave open
    (``{"k": 10}``), ``tensors`` which tensor has which role (``{"encoder": "W_enc"}``). Raises
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
    settings: Mapping[str, Any] | None = None,
    tensors: Mapping[str, str] | None = None,
    outline: bool = False,
) -> Checkpoint:
    """The checkpoint at a reference: :func:`load_sae` with files, digests, commit and name.

    In an ``outline`` matrices have shapes and no values, and files no digests: headers, configs and
    vectors are all that is read.
    """
    resolved = resolve(as_reference(ref))
    place = the_checkpoint(resolved)
    if not allow_pickle and all(map(is_pickle, place.weights)):
        raise refuse_pickle(place.weights[0])  # before gigabytes are downloaded for nothing
    files = CheckpointFiles(
        bring(resolved, place), place.names, allow_pickle, hint(resolved, place), outline
    )
    before = stamps(files)
    adapter, found = claim(files)
    choices = Choices(settings, tensors)
    sae = adapter.read(files, found, choices)
    cfg = with_training(with_places(sae.cfg, choices, site), choices)
    sae.cfg = replace(cfg, notes=(*cfg.notes, *left_aside(place)))
    choices.check_used(found.format)
    digests = {} if outline else files.digests(found.files)
    check_unchanged(files, before)
    return Checkpoint(
        reference=resolved.reference,
        files=files,
        claim=found,
        commit=resolved.commit,
        digests=digests,
        sae=sae.eval(),
        name=short_name(resolved.pinned(place.path)),
        given={
            "site": site,
            "allow_pickle": allow_pickle and any(map(is_pickle, found.weights)),
            **choices.given,
        },
    )


def inspect(
    ref: str | Path | Reference,
    *,
    site: str | None = None,
    allow_pickle: bool = False,
    settings: Mapping[str, Any] | None = None,
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


def _headers(checkpoint: Checkpoint) -> dict[str, TensorInfo]:
    """The tensors of all weight files; of several, named by file as well."""
    weights, files = checkpoint.claim.weights, checkpoint.files
    if len(weights) == 1:
        return files.header(weights[0])
    return {f"{name}: {key}": item for name in weights for key, item in files.header(name).items()}
