"""References to checkpoints: ``hf:org/repo@revision:path/in/repo`` or a local path.

The grammar is parsed once into a frozen :class:`Reference`. Resolving one finds its files without
reading weights: a local folder is listed, a hub repository is pinned to a commit and listed, and
only then are the files of the one checkpoint that was chosen downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

from saebench.errors import BadReferenceError, HubError, UnsafeFileError
from saebench.files import check_inside, is_allowed, list_files

GRAMMAR = "Write hf:org/repo, hf:org/repo@revision:path/in/repo, or a local path."
MAX_DOWNLOAD_BYTES = 64 * 2**30

_REPO = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][\w./+-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Reference:
    """Where a checkpoint, or a folder of them, is; ``str`` gives the text it is parsed from.

    ``path`` is relative to the repository ("" is all of it) or a local path. Raises
    :class:`BadReferenceError` when a part is malformed.
    """

    kind: Literal["hub", "local"]
    repo: str | None
    revision: str | None
    path: str

    def __post_init__(self) -> None:
        if self.kind == "local":
            problem = _local_problem(self.path)
        else:
            problem = _hub_problem(self.repo, self.revision, self.path)
        if problem:
            raise BadReferenceError("a reference to a checkpoint", problem, GRAMMAR)

    def __str__(self) -> str:
        if self.kind == "local":
            return f"./{self.path}" if self.path.startswith("hf:") else self.path
        revision = f"@{self.revision}" if self.revision else ""
        path = f":{self.path}" if self.path else ""
        return f"hf:{self.repo}{revision}{path}"

    def within(self, name: str, commit: str | None = None) -> Reference:
        """The reference to ``name`` ("" is this one) below, pinned to ``commit`` on the hub."""
        if self.kind == "local":
            return Reference("local", None, None, str(Path(self.path) / name))
        path = "/".join(part for part in (self.path, name) if part)
        return Reference("hub", self.repo, commit or self.revision, path)


@dataclass(frozen=True)
class Resolved:
    """The allowed files at a reference, nothing read yet.

    ``names`` are relative to the folder referenced (of a reference to one file: to its folder,
    ``file`` is its name). ``commit`` is the 40-hex revision on the hub. ``root`` is the local
    folder; None while the files are only on the hub (:func:`fetch` brings them).
    """

    reference: Reference
    commit: str | None
    names: tuple[str, ...]
    root: Path | None
    file: str | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    folder: str = ""
    endpoint: str | None = None
    cache: Path | None = None


def parse_reference(text: str) -> Reference:
    """The reference in a text; raises :class:`BadReferenceError` when it is malformed."""
    if not text.startswith("hf:"):
        return Reference("local", None, None, str(Path(text)) if text.strip() else "")
    head, colon, path = text.removeprefix("hf:").partition(":")
    repo, at, revision = head.partition("@")
    if (at and not revision) or (colon and not path):
        raise BadReferenceError(f"the reference {text!r}", "a part that is empty", GRAMMAR)
    return Reference("hub", repo, revision or None, path.rstrip("/"))


def resolve(
    reference: Reference, *, endpoint: str | None = None, cache: Path | None = None
) -> Resolved:
    """The files at a reference: a listing, and on the hub the commit it is of.

    ``endpoint`` and ``cache`` override the hub and the cache folder of ``huggingface_hub``, whose
    offline switch (``HF_HUB_OFFLINE``) makes this look into the cache only. Raises
    :class:`BadReferenceError` when nothing is there and :class:`HubError` when the hub refuses.
    """
    if reference.kind == "hub":
        return _resolve_hub(reference, endpoint, cache)
    path = Path(reference.path).expanduser()
    if path.is_dir():
        return Resolved(reference, None, list_files(path), path)
    if path.is_file():
        names = tuple(sorted(item.name for item in path.parent.iterdir() if is_allowed(item.name)))
        return Resolved(reference, None, names, path.parent, file=path.name)
    hint = f" For the hub write hf:{reference.path}." if _REPO.fullmatch(reference.path) else ""
    raise BadReferenceError(
        f"a checkpoint at {reference.path!r}", "no such file or folder", f"Check the path.{hint}"
    )


def fetch(resolved: Resolved, names: Iterable[str]) -> Path:
    """The local folder that holds ``names``, downloaded from the hub where they are not there yet.

    Raises :class:`HubError` when the download fails or would exceed the size limit.
    """
    if resolved.root is not None:
        return resolved.root
    from glob import escape

    from huggingface_hub import snapshot_download

    reference, chosen = resolved.reference, tuple(names)
    total = sum(resolved.sizes.get(name, 0) for name in chosen)
    if total > MAX_DOWNLOAD_BYTES:
        raise HubError(
            f"files of {reference}",
            f"{total / 2**30:.0f} GiB to download, above the limit of {MAX_DOWNLOAD_BYTES >> 30}",
            "Download them yourself and reference the local folder.",
        )
    try:
        snapshot = snapshot_download(
            str(reference.repo),
            revision=resolved.commit,
            allow_patterns=[escape(_join(resolved.folder, name)) for name in chosen],
            endpoint=resolved.endpoint,
            cache_dir=resolved.cache,
        )
    except Exception as error:  # transport errors differ between versions of the client
        raise _hub_error(reference, error) from error
    _remember(Path(snapshot), reference.revision or "main")
    return Path(snapshot) / resolved.folder


def _local_problem(path: str) -> str | None:
    if not path.strip():
        return "an empty text"
    if "\0" in path:
        return f"a NUL character in {path!r}"
    if "://" in path or path.startswith(("https:/", "http:/")):
        return f"an address: {path!r}"
    return None


def _hub_problem(repo: str | None, revision: str | None, path: str) -> str | None:
    if not repo or not _REPO.fullmatch(repo) or ".." in repo:
        return f"{repo!r} where org/repo should be"
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        return f"{revision!r} where a revision should be"
    parts = path.split("/") if path else []
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or not path.isprintable():
        return f"{path!r} where a path in the repository should be"
    return None


def _resolve_hub(reference: Reference, endpoint: str | None, cache: Path | None) -> Resolved:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    api = HfApi(endpoint=endpoint)
    try:
        info = api.model_info(
            str(reference.repo), revision=reference.revision, files_metadata=True, timeout=30
        )
    except OfflineModeIsEnabled:
        return _resolve_cached(reference, cache)
    except Exception as error:  # transport errors differ between versions of the client
        raise _hub_error(reference, error) from error
    commit = str(info.sha)
    if not _COMMIT.fullmatch(commit):
        raise HubError(f"the commit of {reference}", repr(commit), "Name a revision with @.")
    sizes = {item.rfilename: int(item.size or 0) for item in info.siblings or []}
    for name in sizes:
        check_inside(name)
    folder, names, file = _below(reference, sizes)
    inside = {name: sizes[_join(folder, name)] for name in names}
    return Resolved(reference, commit, names, None, file, inside, folder, endpoint, cache)


def _resolve_cached(reference: Reference, cache: Path | None) -> Resolved:
    """The files of a repository that earlier downloads left in the cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    wanted = reference.revision or "main"
    try:
        repos = [repo for repo in scan_cache_dir(cache).repos if repo.repo_id == reference.repo]
    except CacheNotFound:
        repos = []
    for repo in repos:
        for revision in repo.revisions:
            if wanted == revision.commit_hash or wanted in revision.refs:
                names = list_files(revision.snapshot_path)
                folder, names, file = _below(reference, names)
                root = revision.snapshot_path / folder
                return Resolved(reference, revision.commit_hash, names, root, file, folder=folder)
    commits = ", ".join(r.commit_hash for repo in repos for r in repo.revisions)
    raise HubError(
        f"{reference} with the hub switched off (HF_HUB_OFFLINE)",
        f"not in the cache, which has {commits}" if commits else "not in the cache",
        "Unset HF_HUB_OFFLINE, or reference a local folder.",
    )


def _remember(snapshot: Path, revision: str) -> None:
    """Note in the cache which commit a revision was, so that it is found again offline.

    The hub's client does so only when it resolves the revision itself.
    """
    if not _COMMIT.fullmatch(revision):
        ref = snapshot.parent.parent / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(snapshot.name)


def _below(reference: Reference, every: Iterable[str]) -> tuple[str, tuple[str, ...], str | None]:
    """The folder referenced, the allowed names relative to it, and the file if it is one."""
    allowed = sorted(name for name in every if is_allowed(name))
    path, file = reference.path, None
    if path in allowed:
        path, _, file = path.rpartition("/")
        prefix = f"{path}/" if path else ""
        beside = (n.removeprefix(prefix) for n in allowed if n.startswith(prefix))
        return path, tuple(name for name in beside if "/" not in name), file
    prefix = f"{path}/" if path else ""
    names = tuple(name.removeprefix(prefix) for name in allowed if name.startswith(prefix))
    if not names:
        tops = sorted({name.split("/")[0] for name in allowed})
        shown = ", ".join(tops[:12]) + (", …" if len(tops) > 12 else "")
        raise BadReferenceError(
            f"a checkpoint at {reference}",
            f"no weights or configs there; the repository has {shown or 'none at all'}",
            "Check the path after the second colon.",
        )
    return path, names, None


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _hub_error(reference: Reference, error: Exception) -> Exception:
    """The error of the hub's client in our words; its own message stays attached as the cause."""
    from huggingface_hub import errors

    if isinstance(error, UnsafeFileError):
        return error
    asked = f"{reference} on the hub"
    known: list[tuple[Any, str, str]] = [
        (
            errors.GatedRepoError,
            "a gated repository",
            "Accept its terms on its page and log in with: hf auth login.",
        ),
        (
            errors.RevisionNotFoundError,
            f"no revision {reference.revision!r}",
            "Check the part after @; leave it out for the newest.",
        ),
        (
            errors.RepositoryNotFoundError,
            "no such repository, or a private one",
            "Check org/repo; for a private repository log in with: hf auth login.",
        ),
    ]
    for kind, found, next_step in known:
        if isinstance(error, kind):
            return HubError(asked, found, next_step)
    first = shorten((str(error).strip().split("\n") or [""])[0], 200, placeholder=" …")
    return HubError(
        asked,
        f"{type(error).__name__}: {first or 'no message'}".rstrip(". "),
        "Check the network; HF_HUB_OFFLINE=1 uses only what is in the cache.",
    )
