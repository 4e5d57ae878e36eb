"""Download the chosen files of a repository, and no others, into the cache of the hub's client.

What is in the cache is not asked for again. What arrives is compared with the size and the checksum
that the hub lists; a file that differs is removed from the cache, so that the next attempt is whole.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from saebench.errors import ConfigError, HubError
from saebench.reference.grammar import COMMIT
from saebench.reference.hub import TRANSIENT, repository_folder, snapshot_folder
from saebench.reference.hub_errors import MIRROR, explain, with_retries
from saebench.reference.resolved import Resolved
from saebench.weights import is_weights

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

LIMIT_VARIABLE = "SAEBENCH_MAX_DOWNLOAD_GIB"
DEFAULT_LIMIT = 64.0  # GiB

_ETAG = re.compile(r"[A-Za-z0-9_-]{1,128}")  # the client names files after it
_TRANSIENT = ("ReadError", "WriteError")  # the others the client has tried again itself
_GIB = 2**30


def fetch(resolved: Resolved, names: Iterable[str]) -> Path:
    """The local folder that holds ``names``, downloaded from the hub where they are not there yet.

    Configs come first. Raises :class:`HubError` when the download fails, would exceed the size limit
    (:func:`check_size`) or the disk, or when what arrived is not what the hub lists.
    """
    if resolved.root is not None:
        return resolved.root
    missing = check_size(resolved, names)
    reference, commit = resolved.reference, str(resolved.commit)
    root = snapshot_folder(str(reference.repo), commit, resolved.cache)
    for name in sorted(missing, key=lambda name: (is_weights(name), missing.index(name))):
        try:
            _download(resolved, name)
            _check_content(resolved, root / name, name)
        except OSError as error:
            raise explain(f"{reference} on the hub", error, name) from None
    _remember(root, reference.revision or "main")
    return root


def check_size(resolved: Resolved, names: Iterable[str]) -> list[str]:
    """Those of the names that are not in the cache, once it is clear that they may be downloaded.

    Raises :class:`HubError` when they are larger together than the limit (64 GiB, or the number in
    the environment variable ``SAEBENCH_MAX_DOWNLOAD_GIB``) or than the space on the disk.
    """
    if resolved.root is not None:
        return []
    root = snapshot_folder(str(resolved.reference.repo), str(resolved.commit), resolved.cache)
    missing = [name for name in names if not _is_here(resolved, root, name)]
    total = sum(resolved.sizes.get(name, 0) for name in missing)
    largest = max(missing, key=lambda name: resolved.sizes.get(name, 0), default="")
    asked, found = f"files of {resolved.reference}", f"{_size(total)} to download"
    limit = _limit()
    if total > limit * _GIB:
        raise HubError(
            asked,
            f"{found} (the largest is {largest}), above the limit of {_size(limit * _GIB)}",
            f"Set {LIMIT_VARIABLE} to allow more, or reference a local folder.",
        )
    if total and total > (free := _free(root)):
        raise HubError(
            asked,
            f"{found}, and {_size(free)} free on the disk of {root.parents[2]}",
            "Free some, or set HF_HOME to another disk.",
        )
    return missing


def _download(resolved: Resolved, name: str) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import OfflineModeIsEnabled

    repo, commit, endpoint = str(resolved.reference.repo), resolved.commit, resolved.endpoint

    def look() -> None:
        url = hf_hub_url(repo, name, revision=commit, endpoint=endpoint)
        _check_promise(resolved, name, get_hf_file_metadata(url, endpoint=endpoint))

    def ask() -> str:
        return hf_hub_download(
            repo, name, revision=commit, endpoint=endpoint, cache_dir=resolved.cache
        )

    asked = f"{resolved.reference} on the hub"
    try:
        with_retries(asked, look, TRANSIENT, name)
        _check_place(resolved, name, Path(with_retries(asked, ask, _TRANSIENT, name)))
    except OfflineModeIsEnabled:
        raise HubError(
            f"{asked}, file {name}", "the hub is switched off", "Unset HF_HUB_OFFLINE."
        ) from None


def _check_promise(resolved: Resolved, name: str, promised: HfFileMetadata) -> None:
    """Raise :class:`HubError` for an ETag or a commit that the client must not make a path of."""
    if not _ETAG.fullmatch(promised.etag or ""):
        problem = f"the ETag {promised.etag!r:.80}"
    elif promised.commit_hash != resolved.commit:
        problem = f"the commit {promised.commit_hash!r:.80} where {resolved.commit} was asked for"
    else:
        return
    raise HubError(f"{resolved.reference} on the hub, file {name}", problem, MIRROR)


def _check_place(resolved: Resolved, name: str, path: Path) -> None:
    """Raise :class:`HubError` where a file was not put into the cache."""
    folder = repository_folder(str(resolved.reference.repo), resolved.cache).resolve()
    target = path.resolve()
    if not target.is_relative_to(folder):
        asked = f"{resolved.reference} on the hub, file {name}"
        raise HubError(asked, f"it was put at {target}", MIRROR)


def _check_content(resolved: Resolved, path: Path, name: str) -> None:
    """Raise :class:`HubError`, and forget the file, when it is not what the hub lists."""
    size, expected = path.stat().st_size, resolved.sizes.get(name)
    kind, _, checksum = resolved.checksums.get(name, "").partition(":")
    found = _digest(path, kind, size) if checksum else ""
    if expected in (None, size) and found == checksum:
        return
    _forget(path)
    what = f"{size:,} bytes where the hub lists {expected:,}" if expected != size else ""
    raise HubError(
        f"{resolved.reference} on the hub, file {name}",
        what or f"content that hashes to {found[:12]}… where the hub lists {checksum[:12]}…",
        "It was damaged on the way and is removed from the cache; try again.",
    )


def _digest(path: Path, kind: str, size: int) -> str:
    """The SHA-256 of a file, or git's SHA-1 of it as a blob."""
    digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1(usedforsecurity=False)
    if kind == "git":
        digest.update(f"blob {size}\0".encode())
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _is_here(resolved: Resolved, root: Path, name: str) -> bool:
    """Whether a file need not be downloaded; :class:`HubError` where the cache cannot be changed."""
    try:
        return _is_cached(root / name, resolved.sizes.get(name))
    except OSError as error:
        raise explain(f"{resolved.reference} on the hub", error, name) from None


def _is_cached(path: Path, size: int | None) -> bool:
    """Whether the cache has a file of the listed size; one of another size is forgotten."""
    if not path.is_file():
        return False
    if size is None or path.stat().st_size == size:
        return True
    _forget(path)
    return False


def _forget(path: Path) -> None:
    """Remove a file from the cache: the entry in the snapshot, and the blob that it points to."""
    blob = path.resolve()
    path.unlink(missing_ok=True)
    if blob.parent.name == "blobs":
        blob.unlink(missing_ok=True)


def _remember(snapshot: Path, revision: str) -> None:
    """Note in the cache which commit a revision was, so that it is found again offline.

    The hub's client does so only when it resolves the revision itself.
    """
    if COMMIT.fullmatch(revision):
        return
    ref = snapshot.parents[1] / "refs" / revision
    with suppress(OSError):  # a cache that is read only serves what it has
        ref.parent.mkdir(parents=True, exist_ok=True)
        draft = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
        draft.write_text(snapshot.name)
        draft.replace(ref)


def _limit() -> float:
    """The limit in GiB; :class:`ConfigError` where the variable is no number."""
    text = os.environ.get(LIMIT_VARIABLE, "")
    if not text.strip():
        return DEFAULT_LIMIT
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not limit >= 0:
        raise ConfigError(f"{LIMIT_VARIABLE}, a number of GiB", repr(text), "Write 64, or 0.5.")
    return limit


def _free(folder: Path) -> float:
    """Bytes free on the disk where a folder is, or will be."""
    for place in (folder, *folder.parents):
        if place.is_dir():
            return shutil.disk_usage(place).free
    return math.inf


def _size(bytes_: float) -> str:
    """Bytes in the unit that suits them."""
    unit, name = next(
        ((size, name) for size, name in ((_GIB, "GiB"), (2**20, "MiB")) if bytes_ >= size),
        (2**10, "KiB"),
    )
    return f"{bytes_ / unit:.3g} {name}"
