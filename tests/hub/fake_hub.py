"""A hub on the loopback interface: the routes that its client uses to list and download files.

Large files redirect to a second server, as the hub's do to its content network, and every request is
kept. Faults (a status, a cut, other bytes, silence) are planted for the next requests of a path::

    with FakeHub({"org/name": {"layer_1/cfg.json": b"{}"}}) as hub:
        resolve(parse_reference("hf:org/name"), endpoint=hub.endpoint, cache=hub.cache)
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

Files = Mapping[str, bytes]
_CONTENT = re.compile(r"(?:/cdn|/[^/]+/[^/]+/resolve)/[0-9a-f]{40}/(.+)")
LARGE = (".safetensors", ".pt", ".pth", ".npz")  # kept as large files, whatever their size


@dataclass(frozen=True)
class Request:
    """One request: to the hub itself, or to its content network (``cdn``)."""

    server: str
    method: str
    path: str
    headers: Mapping[str, str]


@dataclass
class Fault:
    """What happens to the next ``times`` requests whose path ends in ``path``."""

    path: str
    method: str = "GET"
    times: int = 1
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    body: bytes | None = None
    silent: bool = False


class FakeHub:
    """Repositories by name, each a mapping of paths to contents; a context manager.

    ``gated`` ones list their files and refuse them, ``private`` ones do not exist, both but for who
    sends ``token``. ``endpoint`` is its address, ``cache`` an empty folder for the client.
    """

    def __init__(
        self,
        repos: Mapping[str, Files],
        *,
        gated: Iterable[str] = (),
        private: Iterable[str] = (),
        token: str | None = None,
    ) -> None:
        self.gated, self.private, self.token = set(gated), set(private), token
        self.revisions: dict[str, dict[str, str]] = {}
        self.commits: dict[str, Files] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.closing = threading.Event()
        for repo, files in repos.items():
            self.push(repo, files)

    def push(self, repo: str, files: Files, revision: str = "main") -> str:
        """Make ``files`` what a revision of a repository is now; gives the commit."""
        before = self.revisions.setdefault(repo, {})
        listed = [(name, hashlib.sha1(data).hexdigest()) for name, data in sorted(files.items())]
        commit = hashlib.sha1(repr((repo, len(self.commits), listed)).encode()).hexdigest()
        self.commits[commit] = dict(files)
        before[revision] = before[commit] = commit
        return commit

    def fail(self, path: str, **how: object) -> Fault:
        """Plant a fault: see :class:`Fault`."""
        fault = Fault(path, **how)  # type: ignore[arg-type]
        self.faults.append(fault)
        return fault

    def commit(self, repo: str, revision: str = "main") -> str:
        """The commit that a revision is now."""
        return self.revisions[repo][revision]

    def downloads(self) -> list[str]:
        """The files whose contents were asked for, in order, each as often as it was."""
        paths = [item.path for item in self.requests if item.method == "GET"]
        return [match[1] for path in paths if (match := _CONTENT.fullmatch(path))]

    def file_requests(self) -> list[Request]:
        """Every request for a file or about one."""
        return [item for item in self.requests if not item.path.startswith("/api/")]

    def __enter__(self) -> FakeHub:
        self._folder = tempfile.TemporaryDirectory()
        self.cache = Path(self._folder.name) / "cache"
        self._servers = [
            ThreadingHTTPServer(("127.0.0.1", 0), partial(kind, self)) for kind in (Hub, Cdn)
        ]
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
            for server in self._servers
        ]
        for thread in self._threads:
            thread.start()
        self.endpoint, self.cdn = (f"http://127.0.0.1:{s.server_port}" for s in self._servers)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()
        self._folder.cleanup()


class Server(BaseHTTPRequestHandler):
    """What both servers do: keep the request, let a fault have it, else answer."""

    name = ""
    timeout = 10

    def __init__(self, hub: FakeHub, *args: object) -> None:
        self.hub = hub
        super().__init__(*args)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        sent = {key.lower(): value for key, value in self.headers.items()}
        self.hub.requests.append(Request(self.name, self.command, path, sent))
        fault = self._fault(path)
        if fault is None:
            self.answer(path)
        elif fault.silent:
            self.hub.closing.wait(5)
            self.close_connection = True
        elif fault.status is not None:
            self.refuse(fault.status, **fault.headers)
        elif fault.body is not None:
            self.content(fault.body)
        else:
            self.cut_after = fault.cut_after
            self.answer(path)

    cut_after: int | None = None

    def answer(self, path: str) -> None:
        """Answer a request that no fault has taken."""
        raise AssertionError(path)

    def _fault(self, path: str) -> Fault | None:
        for fault in self.hub.faults:
            if fault.times > 0 and fault.method == self.command and path.endswith(fault.path):
                fault.times -= 1
                return fault
        return None

    def content(self, data: bytes, **headers: str) -> None:
        """Send bytes, or the range of them that was asked for, or only the first ones."""
        start = 0
        if asked := self.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        body = data[start:]
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body if self.cut_after is None else body[: self.cut_after])
            self.close_connection = True

    def refuse(self, status: int, **headers: str) -> None:
        """Send a status without content."""
        self.send_response(status)
        for key, value in {"Content-Length": "0", **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


class Hub(Server):
    """The hub itself: listings, what is known about a file, and small files."""

    name = "hub"

    def answer(self, path: str) -> None:
        parts = path.strip("/").split("/")
        listing = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if listing else parts[:2])
        rest = parts[4:] if listing else parts[2:]
        allowed = self.hub.token and self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if self.headers.get("Authorization") and not allowed:
            message = "Invalid credentials in Authorization header"
            return self.refuse(401, X_Error_Message=message)
        if repo not in self.hub.revisions or (repo in self.hub.private and not allowed):
            return self.refuse(401, X_Error_Code="RepoNotFound")
        known = self.hub.revisions[repo]
        name = rest[1] if len(rest) > 1 else "main"
        if rest[1:3] == ["refs", "pr"]:
            rest[1:4] = [name := "/".join(rest[1:4])]
        if name not in known:
            return self.refuse(404, X_Error_Code="RevisionNotFound")
        commit = known[name]
        if listing:
            return self._list(repo, commit)
        if repo in self.hub.gated and not allowed:
            return self.refuse(403, X_Error_Code="GatedRepo")
        return self._file(commit, "/".join(rest[2:]))

    def _list(self, repo: str, commit: str) -> None:
        siblings = [_sibling(name, data) for name, data in self.hub.commits[commit].items()]
        about = {"id": repo, "sha": commit, "siblings": siblings}
        self.content(json.dumps(about).encode())

    def _file(self, commit: str, name: str) -> None:
        data = self.hub.commits[commit].get(name)
        if data is None:
            return self.refuse(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        if not name.endswith(LARGE):
            return self.content(data, **{"X-Repo-Commit": commit, "ETag": f'"{_git(data)}"'})
        return self.refuse(
            302,
            Location=f"{self.hub.cdn}/cdn/{commit}/{name}?X-Amz-Signature=0a1b2c3d",
            X_Repo_Commit=commit,
            X_Linked_Size=str(len(data)),
            X_Linked_Etag=f'"{hashlib.sha256(data).hexdigest()}"',
        )


class Cdn(Server):
    """The content network: bytes at addresses that carry a signature and need no login."""

    name = "cdn"

    def answer(self, path: str) -> None:
        _, _, commit, name = path.split("/", 3)
        if self.headers.get("Authorization") or "?X-Amz-Signature=" not in self.path:
            return self.refuse(400)
        return self.content(self.hub.commits[commit][name])


def _sibling(name: str, data: bytes) -> dict[str, object]:
    """A file as the hub lists it."""
    about: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": _git(data)}
    if name.endswith(LARGE):
        digest = hashlib.sha256(data).hexdigest()
        about["blobId"] = _git(f"oid sha256:{digest}".encode())
        about["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 130}
    return about


def _git(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
