"""Hub references against a small hub on the loopback interface."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from saebench.errors import BadReferenceError, HubError, UnsafeFileError
from saebench.loading import expand, open_checkpoint, short_name
from saebench.reference import fetch, parse_reference, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GOLDEN = Path(__file__).parent / "oracles" / "golden" / "saelens"
SAE_FILES = {
    name: (GOLDEN / "topk-none-b_dec-subtracted" / name).read_bytes()
    for name in ("cfg.json", "sae_weights.safetensors")
}
REPOS = {
    "org/one": {f"layer_1/{name}": data for name, data in SAE_FILES.items()} | {"x.py": b"evil"},
    "org/two": {f"layer_{i}/{name}": data for i in (1, 2) for name, data in SAE_FILES.items()},
    "org/pickle": {"ae.pt": b"PK", "config.json": b"{}"},
    "org/traversal": {"../../evil.json": b"{}", "sae.safetensors": b""},
    "org/odd": {f"a[1]/{name}": data for name, data in SAE_FILES.items()},
}


class Hub(BaseHTTPRequestHandler):
    """The three routes of the hub that a download uses."""

    asked: list[str]

    def __init__(self, asked: list[str], *args: object) -> None:
        self.asked = asked
        super().__init__(*args)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.asked.append(path)
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._api("/".join(parts[2:4]), parts[4:])
        else:
            data = REPOS.get("/".join(parts[:2]), {}).get("/".join(parts[4:]))
            self._refuse(404, "EntryNotFound") if data is None else self._send(data)

    def _api(self, repo: str, rest: list[str]) -> None:
        if repo == "org/gated":
            return self._refuse(403, "GatedRepo")
        if repo not in REPOS:
            return self._refuse(404, "RepoNotFound")
        if rest[:1] == ["revision"] and rest[1] not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        files = REPOS[repo]
        if rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                for name, data in files.items()
            ]
            return self._send(json.dumps(tree).encode())
        siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
        return self._send(json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode())

    def _send(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def asked() -> list[str]:
    """The paths that were asked of the hub."""
    return []


@pytest.fixture
def endpoint(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, asked))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def run_python(code: str, endpoint: str, home: Path, **extra: str) -> subprocess.CompletedProcess:
    """Run code in a process of its own: the hub's client reads its settings when imported."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"} | extra
    return subprocess.run(
        [sys.executable, "-c", code], env=inherited | settings, capture_output=True, text=True
    )


LOAD = """
from saebench.loading import open_checkpoint
found = open_checkpoint("hf:org/one")
print(found.name, found.commit, found.sae.cfg.architecture, sorted(found.digests))
"""


def test_a_repository_is_pinned_to_its_commit_and_loads_then_offline_from_the_cache(
    endpoint: str, asked: list[str], tmp_path: Path
) -> None:
    expected = f"one@0123456:layer_1 {COMMIT} topk ['cfg.json', 'sae_weights.safetensors']"
    online = run_python(LOAD.replace("org/one", "org/one:layer_1"), endpoint, tmp_path)
    assert online.stdout.strip() == expected, online.stderr
    about = [path for path in asked if "org/one" in path]
    assert about[0] == "/api/models/org/one", "the commit is asked for before any file"
    files = [path for path in asked if "/resolve/" in path]
    assert all(f"/resolve/{COMMIT}/layer_1/" in path for path in files)
    assert not any("x.py" in path for path in asked)

    offline = run_python(LOAD, "http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
    assert offline.stdout.strip() == expected, offline.stderr


def test_offline_and_not_in_the_cache_fails_at_once(tmp_path: Path) -> None:
    found = run_python(LOAD, "http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
    assert "HubError" in found.stderr
    assert "with the hub switched off (HF_HUB_OFFLINE): not in the cache" in found.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf:org/absent", "no such repository, or a private one"),
        ("hf:org/one@v9", "no revision 'v9'"),
        ("hf:org/gated", "a gated repository"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_message(
    endpoint: str, text: str, message: str
) -> None:
    with pytest.raises(HubError, match=message):
        resolve(parse_reference(text), endpoint=endpoint)


def test_a_hub_that_does_not_answer_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"Check the network; HF_HUB_OFFLINE=1"):
        resolve(parse_reference("hf:org/one"), endpoint="http://127.0.0.1:9", cache=tmp_path)


def test_a_path_that_is_not_in_the_repository_lists_what_is(endpoint: str) -> None:
    with pytest.raises(BadReferenceError, match=r"layer_9.*the repository has layer_1"):
        resolve(parse_reference("hf:org/one:layer_9"), endpoint=endpoint)


def test_a_repository_that_names_files_outside_itself_is_refused(endpoint: str) -> None:
    with pytest.raises(UnsafeFileError, match="evil"):
        resolve(parse_reference("hf:org/traversal"), endpoint=endpoint)


def test_a_download_above_the_size_limit_is_refused_before_it_starts(
    endpoint: str, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saebench.reference.MAX_DOWNLOAD_BYTES", 100)
    found = resolve(parse_reference("hf:org/one"), endpoint=endpoint, cache=tmp_path)
    with pytest.raises(HubError, match="above the limit"):
        fetch(found, found.names)
    assert not any("/resolve/" in path for path in asked)


def test_names_with_pattern_characters_are_downloaded_as_they_are(
    endpoint: str, tmp_path: Path
) -> None:
    found = resolve(parse_reference("hf:org/odd:a[1]"), endpoint=endpoint, cache=tmp_path)
    root = fetch(found, found.names)
    assert sorted(path.name for path in root.iterdir()) == ["cfg.json", "sae_weights.safetensors"]


class TestThroughTheDefaultEndpoint:
    @pytest.fixture(autouse=True)
    def _default(self, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make the fake hub the default of :func:`resolve`, as HF_ENDPOINT does in a new process."""
        default = partial(resolve, endpoint=endpoint, cache=tmp_path)
        monkeypatch.setattr("saebench.loading.resolve", default)

    def test_several_checkpoints_are_listed_with_references_that_work(
        self, asked: list[str]
    ) -> None:
        with pytest.raises(BadReferenceError) as error:
            open_checkpoint("hf:org/two")
        assert f"Reference one: hf:org/two@{COMMIT}:layer_1, " in str(error.value)
        assert not any("/resolve/" in path for path in asked), "nothing was downloaded"
        assert open_checkpoint(f"hf:org/two@{COMMIT}:layer_1").sae.cfg.k == 4

    def test_a_collection_expands_to_references_pinned_to_the_commit(self) -> None:
        found = expand("hf:org/two")
        assert [str(item) for item in found] == [
            f"hf:org/two@{COMMIT}:layer_1",
            f"hf:org/two@{COMMIT}:layer_2",
        ]
        assert [short_name(item) for item in found] == [
            "two@0123456:layer_1",
            "two@0123456:layer_2",
        ]

    def test_pickles_are_refused_before_they_are_downloaded(self, asked: list[str]) -> None:
        with pytest.raises(UnsafeFileError, match="--allow-pickle"):
            open_checkpoint("hf:org/pickle")
        assert not any("/resolve/" in path for path in asked)
