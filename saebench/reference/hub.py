"""The files of a hub repository at a commit, or those that earlier downloads left in the cache."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from saebench.errors import BadReferenceError, HubError
from saebench.files import check_inside, is_allowed, list_files
from saebench.reference.grammar import COMMIT, Reference
from saebench.reference.hub_errors import MIRROR, with_retries
from saebench.reference.resolved import Resolved
from saebench.weights import is_unread, is_weights

TIMEOUT = 30.0  # seconds for a listing, which of a repository of thousands of files takes some
LONGEST_PART, LONGEST_NAME = 255, 2048  # bytes of a file name on usual disks, and of a whole path
TRANSIENT = ("TimeoutException", "NetworkError", "RemoteProtocolError")


def resolve_hub(reference: Reference, endpoint: str | None, cache: Path | None) -> Resolved:
    """The files of a repository at the commit that its revision is now.

    Raises :class:`HubError` when the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    repo, revision = str(reference.repo), reference.revision

    def ask() -> tuple[str, dict[str, Any]]:
        info = HfApi(endpoint=endpoint).model_info(
            repo, revision=revision, files_metadata=True, timeout=TIMEOUT
        )
        return str(info.sha), _listed(reference, info.siblings or [])

    try:
        commit, siblings = with_retries(f"{reference} on the hub", ask, TRANSIENT)
    except OfflineModeIsEnabled:
        return _resolve_cached(reference, cache)
    if not COMMIT.fullmatch(commit):
        raise HubError(f"the commit of {reference}", repr(commit), "Name a revision with @.")
    names, file = _at(reference, siblings)
    return Resolved(
        reference=reference,
        base=Reference("hub", reference.repo, reference.revision, ""),
        names=names,
        commit=commit,
        within=reference.path,
        file=file,
        unread=tuple(filter(is_unread, siblings)),
        sizes={name: siblings[name].size or 0 for name in names},
        checksums={name: sum_ for name in names if (sum_ := _checksum(siblings[name]))},
        endpoint=endpoint,
        cache=cache,
    )


def _listed(reference: Reference, siblings: Iterable[Any]) -> dict[str, Any]:
    """The files of a listing by name, once each is one that can be: a mirror may send anything."""
    found: dict[str, Any] = {}
    for item in siblings:
        name, size = item.rfilename, item.size
        if not isinstance(name, str):
            problem = f"{name!r:.40} where the name of a file should be"
        elif _is_too_long(name):
            problem = f"a file name of {len(name):,} characters, {name!r:.40}…"
        elif size is not None and (type(size) is not int or size < 0):
            problem = f"{size!r:.40} where the size of {name!r:.80} should be"
        else:
            check_inside(name)
            found[name] = item
            continue
        raise HubError(f"the files of {reference} on the hub", problem, MIRROR)
    return found


def _is_too_long(name: str) -> bool:
    """Whether a name cannot be written to usual disks; what is not text in UTF-8 counts as it is."""
    data = name.encode("utf-8", "surrogatepass")
    return len(data) > LONGEST_NAME or max(map(len, data.split(b"/"))) > LONGEST_PART


def snapshot_folder(repo: str, commit: str, cache: Path | None) -> Path:
    """Where the hub's client keeps the files of a repository at a commit."""
    return repository_folder(repo, cache) / "snapshots" / commit


def repository_folder(repo: str, cache: Path | None) -> Path:
    """Where the hub's client keeps what it has of a repository."""
    from huggingface_hub import constants

    root = Path(constants.HF_HUB_CACHE if cache is None else cache).expanduser()
    return root / f"models--{repo.replace('/', '--')}"


def _resolve_cached(reference: Reference, cache: Path | None) -> Resolved:
    """The files of a repository that earlier downloads left in the cache."""
    repo, wanted = str(reference.repo), reference.revision or "main"
    folder = repository_folder(repo, cache)
    commit = wanted if COMMIT.fullmatch(wanted) else _noted(folder / "refs" / wanted)
    root = None if commit is None else snapshot_folder(repo, commit, cache)
    if commit is None or root is None or not root.is_dir():
        commits = ", ".join(sorted(path.name for path in folder.glob("snapshots/*")))
        raise _not_cached(reference, f"which has {commits}" if commits else "")
    names, file = _at(reference, list_files(root))
    if not any(map(is_weights, names)):
        raise _not_cached(reference, f"which has only {', '.join(names[:6])}")
    return Resolved(
        reference=reference,
        base=Reference("hub", reference.repo, reference.revision, ""),
        names=names,
        commit=commit,
        root=root,
        within=reference.path,
        file=file,
    )


def _noted(ref: Path) -> str | None:
    """The commit that the cache says a revision was."""
    try:
        text = ref.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if COMMIT.fullmatch(text) else None


def _not_cached(reference: Reference, found: str) -> HubError:
    return HubError(
        f"{reference} with the hub switched off (HF_HUB_OFFLINE)",
        f"not in the cache, {found}" if found else "not in the cache",
        "Unset HF_HUB_OFFLINE, or reference a local folder.",
    )


def _checksum(sibling: Any) -> str | None:
    """What the hub says the content hashes to: SHA-256 of a large file, git's SHA-1 of a small one."""
    lfs = getattr(sibling, "lfs", None)
    if lfs is not None:
        return f"sha256:{lfs.sha256}"
    blob = getattr(sibling, "blob_id", None)
    return f"git:{blob}" if blob else None


def _at(reference: Reference, every: Iterable[str]) -> tuple[tuple[str, ...], str | None]:
    """The allowed names of a repository, and the file referenced; an error where nothing is there."""
    every = tuple(every)
    names = tuple(sorted(name for name in every if is_allowed(name)))
    path, unread = reference.path, tuple(filter(is_unread, every))
    if path in names or path in unread:
        return names, path
    if not any(not path or name.startswith(f"{path}/") for name in (*names, *unread)):
        tops = sorted({name.split("/")[0] for name in names})
        shown = ", ".join(tops[:12]) + (", …" if len(tops) > 12 else "")
        raise BadReferenceError(
            f"a checkpoint at {reference}",
            f"no weights or configs there; the repository has {shown or 'none at all'}",
            "Check the path after the second colon.",
        )
    return names, None
