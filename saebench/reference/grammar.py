"""The grammar of references, and what to write instead of an address in a browser."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from saebench.errors import BadReferenceError

GRAMMAR = "Write hf:org/repo, hf:org/repo@revision:path/in/repo, or a local path."

REPOSITORY = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"[A-Za-z0-9_][\w./+-]*", re.ASCII)
_ADDRESS = re.compile(r"(?:hf:)?(?:https?:/{1,2}|hf://)", re.IGNORECASE)
_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")


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


def parse_reference(text: str) -> Reference:
    """The reference in a text; raises :class:`BadReferenceError` when it is malformed."""
    if _ADDRESS.match(text):
        shown = re.sub(r"//[^/@]*@", "//", text.partition("?")[0])  # without what may be secret
        raise BadReferenceError(
            "a reference to a checkpoint", f"an address: {shown!r:.200}", _reform(text)
        )
    if not text.startswith("hf:"):
        return Reference("local", None, None, str(Path(text)) if text.strip() else "")
    head, colon, path = text.removeprefix("hf:").partition(":")
    repo, at, revision = head.partition("@")
    if (at and not revision) or (colon and not path):
        raise BadReferenceError(f"the reference {text!r}", "a part that is empty", GRAMMAR)
    return Reference("hub", repo, revision or None, path.rstrip("/"))


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


def _reform(text: str) -> str:
    """What to write for an address on the hub; the grammar for any other."""
    rest = text.strip().removeprefix("hf:")
    if rest.lower().startswith("//"):  # hf://org/repo
        parts = rest.strip("/").split("/")
    else:
        address = urlsplit(re.sub(r"^(https?):/+", r"\1://", rest, flags=re.IGNORECASE))
        if address.netloc.lower() not in _HUB_HOSTS:
            return GRAMMAR
        parts = address.path.strip("/").split("/")
    if parts[0] in ("datasets", "spaces", "collections", "docs", "papers"):
        return f"That is no model repository. {GRAMMAR}"
    repo, kind, revision, path = "/".join(parts[:2]), parts[2:3], parts[3:4], parts[4:]
    if kind and kind[0] not in ("tree", "blob", "resolve", "raw"):
        revision = path = []
    if revision == ["refs"] and len(path) >= 2:  # refs/pr/1, not quoted
        revision, path = ["/".join(["refs", *path[:2]])], path[2:]
    version = f"@{unquote(revision[0])}" if revision and revision[0] != "main" else ""
    try:
        meant = parse_reference(
            f"hf:{repo}{version}" + (f":{unquote('/'.join(path))}" if path else "")
        )
    except BadReferenceError:
        return GRAMMAR
    return f"Write {meant}"


def _local_problem(path: str) -> str | None:
    if not path.strip():
        return "an empty text"
    if "\0" in path:
        return f"a NUL character in {path!r}"
    if "://" in path or path.startswith(("https:/", "http:/")):
        return f"an address: {path!r}"
    return None


def _hub_problem(repo: str | None, revision: str | None, path: str) -> str | None:
    if not repo or not REPOSITORY.fullmatch(repo) or ".." in repo:
        return f"{repo!r} where org/repo should be"
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        return f"{revision!r} where a revision should be"
    parts = path.split("/") if path else []
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or not path.isprintable():
        return f"{path!r} where a path in the repository should be"
    return None
