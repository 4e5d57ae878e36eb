"""What goes wrong on the way from the hub: what is tried again, and what is said about the rest."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from saebench.errors import BadReferenceError, CheckpointError, HubError
from saebench.loading import load_sae, open_checkpoint
from saebench.reference import fetch, parse_reference, resolve
from saebench.reference.hub_errors import redacted
from tests.hub.fake_hub import FakeHub

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
LISTING = "/api/models/org/one"
TOKEN = "hf_abcdefghijklmnopqrstuvwxyz012345"


@pytest.fixture(autouse=True)
def _repository(hub: FakeHub, sae_files: dict[str, bytes]) -> None:
    hub.push("org/one", sae_files)


def refused(text: str = "hf:org/one") -> str:
    """The message with which a reference is refused."""
    with pytest.raises(HubError) as error:
        load_sae(text)
    assert error.value.__suppress_context__, "the client's error may quote what is secret"
    return str(error.value)


class TestWhatPasses:
    """Failures that pass are waited for."""

    @pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
    @pytest.mark.parametrize(
        ("path", "method"), [(LISTING, "GET"), (CONFIG, "HEAD"), (CONFIG, "GET"), (WEIGHTS, "GET")]
    )
    def test_a_hub_with_a_problem_of_its_own_is_asked_again(
        self, hub: FakeHub, waits: list[float], status: int, path: str, method: str
    ) -> None:
        fault = hub.fail(path, method=method, status=status, times=2)
        assert load_sae("hf:org/one").cfg.k == 4
        assert fault.times == 0
        assert 1 <= len(waits) <= 2

    @pytest.mark.parametrize("path", [LISTING, CONFIG, WEIGHTS])
    def test_a_wait_that_the_hub_asks_for_is_kept(
        self, hub: FakeHub, waits: list[float], path: str
    ) -> None:
        hub.fail(path, status=429, headers={"Retry-After": "17"})
        assert load_sae("hf:org/one").cfg.k == 4
        assert sum(waits) >= 17

    def test_a_rate_limit_of_the_hub_is_kept(self, hub: FakeHub, waits: list[float]) -> None:
        hub.fail(LISTING, status=429, headers={"RateLimit": '"api";r=0;t=23'})
        assert load_sae("hf:org/one").cfg.k == 4
        assert waits == [23]

    @pytest.mark.usefixtures("waits")
    def test_a_file_cut_in_the_middle_goes_on_where_it_was_cut(
        self, hub: FakeHub, sae_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)
        hub.fail(WEIGHTS, cut_after=700)
        assert load_sae("hf:org/one").cfg.k == 4
        asked = [r.headers.get("range") for r in hub.requests if r.server == "cdn"]
        assert asked == [None, "bytes=700-"]
        assert len(sae_files[WEIGHTS]) > 700

    @pytest.mark.usefixtures("waits")
    def test_files_that_are_whole_are_kept_when_another_fails(self, hub: FakeHub) -> None:
        fault = hub.fail(WEIGHTS, status=500, times=99)
        refused()
        fault.times = 0
        hub.requests.clear()
        load_sae("hf:org/one")
        assert hub.downloads() == [WEIGHTS]

    @pytest.mark.usefixtures("waits")
    def test_a_hub_that_falls_silent_is_asked_again(
        self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
        monkeypatch.setattr("saebench.reference.hub.TIMEOUT", 0.1)
        hub.fail(LISTING, silent=True)
        hub.fail(WEIGHTS, silent=True)
        assert load_sae("hf:org/one").cfg.k == 4


@pytest.mark.usefixtures("waits")
class TestWhatStays:
    """Failures that stay are one message each."""

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("hf:org/absent", "no such repository, or a private one. Check org/repo; for a"),
            ("hf:org/one@v9", "hf:org/one@v9 on the hub: no such revision. Check the part after @"),
            ("hf:org/gated", "a gated repository. Accept its terms on its page and log in with: "),
            ("hf:org/private", "no such repository, or a private one"),
        ],
    )
    def test_what_is_not_there_or_not_open(
        self, hub: FakeHub, sae_files: dict[str, bytes], text: str, message: str
    ) -> None:
        hub.push("org/gated", sae_files)
        hub.push("org/private", sae_files)
        hub.gated.add("org/gated")
        hub.private.add("org/private")
        assert message in refused(text)

    def test_a_path_that_is_not_in_the_repository_lists_what_is(self, hub: FakeHub) -> None:
        hub.push("org/two", {"layer_1/ae.pt": b"", "layer_2/ae.pt": b"", "README.md": b""})
        with pytest.raises(
            BadReferenceError, match=r"layer_9.*the repository has layer_1, layer_2\."
        ):
            load_sae("hf:org/two:layer_9")

    @pytest.mark.parametrize("path", ["", ":layer_1", ":layer_1/w.dcp", ":layer_1/b.bin"])
    def test_weights_in_a_form_that_is_not_read(self, hub: FakeHub, path: str) -> None:
        names = ("layer_1/w.dcp/__0_0.distcp", "layer_1/b.bin", "layer_1/config.json")
        hub.push("org/unread", dict.fromkeys(names, b"{}"))
        with pytest.raises(CheckpointError, match="is not read here"):
            load_sae(f"hf:org/unread{path}")

    def test_a_file_that_is_gone_although_it_is_listed(self, hub: FakeHub) -> None:
        hub.fail(WEIGHTS, method="HEAD", status=404, headers={"X-Error-Code": "EntryNotFound"})
        assert f"on the hub: no file {WEIGHTS} at this revision. The repository" in refused()

    @pytest.mark.parametrize(
        ("status", "message"),
        [
            (401, "the hub does not accept the login (401). Check HF_TOKEN"),
            (403, "the hub forbids access (403). The login needs read access"),
            (429, "too many requests (429). Try again later"),
            (500, "the hub has a problem of its own (500), still after 4 attempts. Try again"),
            (418, "the hub answered with status 418. Check the network"),
        ],
    )
    def test_a_listing_that_is_refused(self, hub: FakeHub, status: int, message: str) -> None:
        hub.fail(LISTING, status=status, times=99)
        assert message in refused()

    @pytest.mark.parametrize(
        ("status", "message"),
        [
            (403, f"file {WEIGHTS}: the hub forbids access (403)"),
            (429, f"file {WEIGHTS}: too many requests (429)"),
            (503, f"file {WEIGHTS}: the hub has a problem of its own (503)"),
        ],
    )
    @pytest.mark.parametrize("method", ["HEAD", "GET"])
    def test_a_file_that_is_refused(
        self, hub: FakeHub, status: int, message: str, method: str
    ) -> None:
        hub.fail(WEIGHTS, method=method, status=status, times=99)
        assert message in refused()

    def test_a_wait_that_is_too_long_is_named_and_not_kept(
        self, hub: FakeHub, waits: list[float]
    ) -> None:
        hub.fail(LISTING, status=429, headers={"Retry-After": "3600"})
        assert "too many requests (429). Try again in 3600 seconds" in refused()
        assert waits == []

    def test_a_file_that_is_cut_again_and_again(self, hub: FakeHub) -> None:
        hub.fail(WEIGHTS, cut_after=0, times=999)
        assert f"file {WEIGHTS}: the connection was cut" in refused()

    @pytest.mark.parametrize("extra", [-1, 1])
    def test_a_file_of_another_size(
        self, hub: FakeHub, sae_files: dict[str, bytes], extra: int
    ) -> None:
        data = sae_files[WEIGHTS]
        hub.fail(WEIGHTS, body=data[:-1] if extra < 0 else data + b"x", times=999)
        assert f"file {WEIGHTS}: another size than the hub says" in refused()

    def test_a_hub_that_is_silent(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("saebench.reference.hub.TIMEOUT", 0.05)
        hub.fail(LISTING, silent=True, times=99)
        assert "the hub stopped answering (timeout)" in refused()

    def test_a_hub_that_is_not_there(self, hub: FakeHub) -> None:
        with pytest.raises(HubError, match=r"no connection to the hub.*HF_HUB_OFFLINE=1 uses only"):
            resolve(parse_reference("hf:org/one"), endpoint="http://127.0.0.1:9", cache=hub.cache)

    def test_a_disk_that_fills_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
        assert f"file {CONFIG}: no space left for the download. Free some" in refused()


@pytest.mark.usefixtures("waits")
class TestLogin:
    """The login is the one of the hub's client, and stays with it."""

    @pytest.fixture
    def _closed(self, hub: FakeHub, sae_files: dict[str, bytes]) -> None:
        hub.push("org/gated", sae_files)
        hub.push("org/private", sae_files)
        hub.gated.add("org/gated")
        hub.private.add("org/private")
        hub.token = TOKEN

    @pytest.mark.usefixtures("_closed")
    @pytest.mark.parametrize("name", ["gated", "private"])
    def test_who_is_logged_in_reads_closed_repositories(
        self, hub: FakeHub, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "log in with: hf auth login" in refused(f"hf:org/{name}")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        found = open_checkpoint(f"hf:org/{name}")
        assert found.sae.cfg.k == 4
        assert TOKEN not in repr(found)
        sent = {item.server: item.headers.get("authorization") for item in hub.requests}
        assert sent == {"hub": f"Bearer {TOKEN}", "cdn": None}

    @pytest.mark.usefixtures("_closed")
    def test_a_login_that_is_not_valid_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", TOKEN.replace("abc", "xyz"))
        assert "the hub does not accept the login (401). Check HF_TOKEN" in refused()

    @pytest.mark.parametrize("status", [400, 401, 403, 429, 500])
    @pytest.mark.parametrize("path", [LISTING, WEIGHTS])
    def test_a_token_that_a_server_sends_back_is_not_repeated(
        self,
        hub: FakeHub,
        status: int,
        path: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        hub.token = TOKEN
        said = f"Invalid credentials in Authorization header: Bearer {TOKEN}"
        hub.fail(path, method="GET", status=status, headers={"X-Error-Message": said}, times=99)
        with pytest.raises(HubError) as error:
            load_sae("hf:org/one")
        text = "".join(traceback.format_exception(error.value))
        assert TOKEN not in text
        assert "X-Amz-Signature" not in text
        ours = [record for record in caplog.records if record.name.startswith("saebench")]
        assert TOKEN not in str(ours)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (f"sent {TOKEN}.", "sent <token>."),
            ("Bearer abc.def for x", "Bearer <token> for x"),
            ("at https://u:p@h.co/f?sig=1&x=2 now", "at https://h.co/f now"),
            ("a hf_hub_download", "a <token>"),  # rather too much than too little
            ("nothing to hide?", "nothing to hide?"),
        ],
    )
    def test_secrets_are_taken_out_of_a_text(self, text: str, expected: str) -> None:
        assert redacted(text) == expected


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ("Network is blocked.", "RuntimeError: Network is blocked. Check the network"),
        ("", "RuntimeError: no message. Check the network"),
        ("word " * 100, "word …. Check the network"),
    ],
)
def test_a_message_of_the_client_is_relayed_in_whole_words_with_one_full_stop(
    monkeypatch: pytest.MonkeyPatch, message: str, found: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    text = refused()
    assert found in text
    assert ".." not in text


def test_one_listing_above_all_limits_of_patience_costs_seconds_not_minutes(
    hub: FakeHub, waits: list[float]
) -> None:
    hub.fail(WEIGHTS, method="HEAD", status=503, times=999)
    refused()
    assert sum(waits) < 60


def test_endpoint_and_cache_are_those_of_the_hubs_client(hub: FakeHub) -> None:
    code = "from saebench.loading import open_checkpoint as o; print(o('hf:org/one').commit)"
    settings = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    settings |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(hub.cache)}  # read when imported
    done = subprocess.run(
        [sys.executable, "-c", code], env=settings, capture_output=True, text=True
    )
    assert done.stdout.strip() == hub.commit("org/one"), done.stderr
    assert (hub.cache / "hub" / "models--org--one").is_dir()


def test_nothing_is_asked_of_a_hub_when_the_files_are_local(
    hub: FakeHub, sae_files: dict[str, bytes], tmp_path: Path
) -> None:
    for name, data in sae_files.items():
        (tmp_path / name).write_bytes(data)
    found = resolve(parse_reference(str(tmp_path)))
    assert fetch(found, found.names) == tmp_path
    assert hub.requests == []
