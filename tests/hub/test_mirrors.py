"""A mirror that answers as the hub never does: one message each, and nothing outside the cache."""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from saebench.errors import HubError
from saebench.loading import load_sae
from saebench.reference import fetch, parse_reference, resolve
from tests.hub.fake_hub import FakeHub

WEIGHTS = "sae_weights.safetensors"
LISTING = "/api/models/org/one"


@pytest.fixture(autouse=True)
def _repository(hub: FakeHub, sae_files: dict[str, bytes]) -> None:
    hub.push("org/one", sae_files)


def refused() -> str:
    with pytest.raises(HubError) as error:
        load_sae("hf:org/one")
    assert error.value.__suppress_context__ or error.value.__context__ is None
    return str(error.value)


def promise(hub: FakeHub, data: bytes, times: int = 99, **headers: str) -> None:
    """Answer questions about the weights with other headers than the hub's."""
    commit = hub.commit("org/one")
    usual = {
        "Location": f"{hub.cdn}/cdn/{commit}/{WEIGHTS}?X-Amz-Signature=1",
        "X-Repo-Commit": commit,
        "X-Linked-Size": str(len(data)),
        "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
    }
    hub.fail(WEIGHTS, method="HEAD", status=302, times=times, headers=usual | headers)


def outside(hub: FakeHub) -> list[Path]:
    """What lies beside the repository's own folder and the client's locks."""
    own = ("models--org--one", ".locks", "CACHEDIR.TAG")
    beside = [path for path in hub.cache.iterdir() if path.name not in own] if hub.cache else []
    return beside + [path for path in hub.cache.parent.iterdir() if path != hub.cache]


@pytest.mark.parametrize(
    "etag", ['"../../../../evil"', '"/evil"', '"a/b"', '""', '"..\\evil"', f'"{"x" * 200}"', '"é"']
)
def test_an_etag_that_is_no_plain_word_is_refused_before_the_download(
    hub: FakeHub, sae_files: dict[str, bytes], etag: str
) -> None:
    promise(hub, sae_files[WEIGHTS], **{"X-Linked-Etag": etag})
    message = refused()
    assert f"file {WEIGHTS}: the ETag " in message
    assert "check what HF_ENDPOINT points to" in message
    assert WEIGHTS not in hub.downloads()
    assert outside(hub) == []


@pytest.mark.parametrize("commit", ["../../evil", "0" * 40, ""])
def test_a_file_of_another_commit_is_refused_before_the_download(
    hub: FakeHub, sae_files: dict[str, bytes], commit: str
) -> None:
    promise(hub, sae_files[WEIGHTS], **{"X-Repo-Commit": commit})
    assert f"the commit {commit!r} where {hub.commit('org/one')} was asked for" in refused()
    assert WEIGHTS not in hub.downloads()
    assert outside(hub) == []


def test_a_file_that_was_put_outside_the_cache_is_not_read(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "evil").write_bytes(b"{}")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(tmp_path / "evil"))
    assert f"file cfg.json: it was put at {tmp_path / 'evil'}" in refused()


@pytest.mark.parametrize(
    ("sibling", "message"),
    [
        ({"rfilename": None}, "None where the name of a file should be"),
        ({"rfilename": 5}, "5 where the name of a file should be"),
        ({"rfilename": "1" * 300 + ".json"}, "a file name of 305 characters, '111"),
        ({"rfilename": "a/" * 2000 + "x.json"}, "a file name of 4,006 characters"),
        ({"size": "abc"}, "'abc' where the size of 'x.json' should be"),
        ({"size": -5}, "-5 where the size"),
        ({"size": 1.5}, "1.5 where the size"),
        ({"size": True}, "True where the size"),
        ({"lfs": "x"}, "TypeError"),
        ({"lfs": {"oid": "x"}}, "KeyError"),
    ],
)
def test_a_listing_of_what_cannot_be_a_file_is_refused(
    hub: FakeHub, sibling: dict[str, Any], message: str
) -> None:
    listed = {"rfilename": "x.json", "size": 1, "blobId": "0" * 40, **sibling}
    about = {"id": "org/one", "sha": hub.commit("org/one"), "siblings": [listed]}
    hub.fail(LISTING, body=json.dumps(about).encode())
    assert message in refused()
    assert hub.file_requests() == []


@pytest.mark.parametrize(
    "body", [b"[]", b"null", b"<html>", b'{"id": "org/one", "siblings": {"a": 1}}']
)
def test_what_is_no_listing_is_refused(hub: FakeHub, body: bytes) -> None:
    hub.fail(LISTING, body=body)
    assert "hf:org/one on the hub: " in refused()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(errno.EACCES, "denied", "the/file"), "no permission to write the/file"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x"), "a name too long for this disk"),
    ],
)
def test_a_damaged_file_in_a_cache_that_is_read_only_is_a_failure_in_our_words(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, error: OSError, message: str
) -> None:
    def refuse(_: Path) -> None:
        raise error

    found = resolve(parse_reference("hf:org/one"), endpoint=hub.endpoint, cache=hub.cache)
    (fetch(found, found.names) / WEIGHTS).resolve().write_bytes(b"short")
    monkeypatch.setattr("saebench.reference.download._forget", refuse)
    assert f"file {WEIGHTS}: {message}" in refused()


def test_a_mirror_that_changes_its_mind_is_not_believed(
    hub: FakeHub, sae_files: dict[str, bytes]
) -> None:
    promise(hub, sae_files[WEIGHTS], times=1)
    promise(hub, sae_files[WEIGHTS], **{"X-Repo-Commit": "0" * 40})
    assert f"file {WEIGHTS}: " in refused()
