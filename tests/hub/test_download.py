"""What is downloaded from the hub, when, and what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saebench.errors import ConfigError, HubError, UnknownFormatError, UnsafeFileError
from saebench.loading import load_sae, open_checkpoint
from saebench.locating import bring, the_checkpoint
from saebench.reference import Resolved, fetch, parse_reference, resolve
from tests.hub.fake_hub import FakeHub

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"


def found_at(hub: FakeHub, text: str) -> Resolved:
    return resolve(parse_reference(text), endpoint=hub.endpoint, cache=hub.cache)


def test_the_revision_is_resolved_first_and_only_files_of_the_checkpoint_are_downloaded(
    hub: FakeHub, sae_files: dict[str, bytes]
) -> None:
    others = ["README.md", "layer_2/cfg.json", "layer_1/sparsity.safetensors", "layer_1/log.json"]
    files = {f"layer_1/{name}": data for name, data in sae_files.items()}
    commit = hub.push("org/one", files | dict.fromkeys(others, b"{}"))
    found = open_checkpoint("hf:org/one:layer_1")
    assert (found.commit, found.name) == (commit, f"one@{commit[:7]}:layer_1")
    assert hub.requests[0].path == "/api/models/org/one"
    assert hub.downloads() == [f"layer_1/{CONFIG}", f"layer_1/{WEIGHTS}"]
    assert all(commit in item.path for item in hub.file_requests())


def test_a_second_load_asks_for_no_file(hub: FakeHub, sae_files: dict[str, bytes]) -> None:
    hub.push("org/one", sae_files)
    first = open_checkpoint("hf:org/one")
    hub.requests.clear()
    assert open_checkpoint("hf:org/one").digests == first.digests
    assert [item.path for item in hub.requests] == ["/api/models/org/one"]


def test_a_branch_that_moved_is_downloaded_anew_and_a_commit_stays_what_it_was(
    hub: FakeHub, sae_files: dict[str, bytes]
) -> None:
    first = hub.push("org/one", sae_files)
    assert load_sae("hf:org/one").cfg.k == 4
    changed = sae_files[CONFIG].replace(b'"k": 4', b'"k": 3')
    assert changed != sae_files[CONFIG]
    second = hub.push("org/one", sae_files | {CONFIG: changed})
    found = open_checkpoint("hf:org/one")
    assert (found.commit, found.sae.cfg.k) == (second, 3)
    assert load_sae(f"hf:org/one@{first}").cfg.k == 4
    assert hub.downloads() == [CONFIG, WEIGHTS, CONFIG], "the same weights are downloaded once"


def test_branches_and_pull_requests_are_revisions(
    hub: FakeHub, sae_files: dict[str, bytes]
) -> None:
    hub.push("org/one", {"x.json": b"{}"})
    for revision in ("v1.0", "refs/pr/1"):
        commit = hub.push("org/one", sae_files, revision)
        assert open_checkpoint(f"hf:org/one@{revision}").commit == commit


def test_names_with_pattern_characters_are_downloaded_as_they_are(
    hub: FakeHub, sae_files: dict[str, bytes]
) -> None:
    hub.push("org/odd", {f"a[1] é/{name}": data for name, data in sae_files.items()})
    assert load_sae("hf:org/odd:a[1] é").cfg.k == 4


def test_a_repository_that_names_files_outside_itself_is_refused(hub: FakeHub) -> None:
    hub.push("org/traversal", {"../../evil.json": b"{}", "sae.safetensors": b""})
    with pytest.raises(UnsafeFileError, match="evil"):
        found_at(hub, "hf:org/traversal")


class TestBeforeADownload:
    def test_the_total_size_is_checked_against_a_limit_of_the_user(
        self, hub: FakeHub, sae_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub.push("org/one", sae_files)
        monkeypatch.setenv("SAEBENCH_MAX_DOWNLOAD_GIB", "0.000001")
        with pytest.raises(HubError) as error:
            open_checkpoint("hf:org/one")
        message = str(error.value)
        assert f"KiB to download (the largest is {WEIGHTS}), above the limit of 1.05 KiB" in message
        assert "Set SAEBENCH_MAX_DOWNLOAD_GIB to allow more" in message
        assert hub.file_requests() == []
        monkeypatch.delenv("SAEBENCH_MAX_DOWNLOAD_GIB")
        load_sae("hf:org/one")
        monkeypatch.setenv("SAEBENCH_MAX_DOWNLOAD_GIB", "0")
        assert load_sae("hf:org/one").cfg.k == 4, "what is in the cache is not downloaded"

    @pytest.mark.parametrize("text", ["much", "-1", "nan"])
    def test_a_limit_that_is_no_number_is_an_error(
        self, hub: FakeHub, text: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub.push("org/one", {"sae.pt": b"x"})
        monkeypatch.setenv("SAEBENCH_MAX_DOWNLOAD_GIB", text)
        found = found_at(hub, "hf:org/one")
        with pytest.raises(ConfigError, match="a number of GiB"):
            fetch(found, found.names)

    def test_a_full_disk_is_noticed(
        self, hub: FakeHub, sae_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub.push("org/one", sae_files)
        monkeypatch.setattr("saebench.reference.download._free", lambda _: 512)
        with pytest.raises(HubError, match=r"0\.5 KiB free on the disk of .*set HF_HOME"):
            load_sae("hf:org/one")
        assert hub.file_requests() == []

    def test_pickles_are_refused_unless_allowed(self, hub: FakeHub) -> None:
        hub.push("org/pickle", {"ae.pt": b"PK", "config.json": b"{}"})
        with pytest.raises(UnsafeFileError, match="--allow-pickle"):
            open_checkpoint("hf:org/pickle")
        assert hub.file_requests() == []

    @pytest.mark.parametrize(
        "weights",
        [
            ["model.safetensors"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ],
    )
    def test_a_language_model_is_refused_by_its_config(
        self, hub: FakeHub, weights: list[str]
    ) -> None:
        config = {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2"}
        files = dict.fromkeys(["tokenizer.json", "model.safetensors.index.json"], b"{}")
        files |= {"config.json": json.dumps(config).encode()} | dict.fromkeys(weights, b"\0" * 999)
        hub.push("org/lm", files)
        with pytest.raises(UnknownFormatError, match=r"'Gemma2ForCausalLM'.*language model itself"):
            load_sae("hf:org/lm")
        assert hub.downloads() == ["config.json"]


class TestWhatArrives:
    @pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
    def test_content_with_another_checksum_is_refused_and_fetched_anew_next_time(
        self, hub: FakeHub, sae_files: dict[str, bytes], name: str
    ) -> None:
        hub.push("org/one", sae_files)
        data = bytearray(sae_files[name])
        data[-1] ^= 1
        hub.fail(name, body=bytes(data))
        with pytest.raises(
            HubError, match=rf"file {name}: content that hashes to [0-9a-f]{{12}}… whe"
        ):
            load_sae("hf:org/one")
        assert load_sae("hf:org/one").cfg.k == 4

    def test_a_cached_file_of_another_size_is_fetched_anew(
        self, hub: FakeHub, sae_files: dict[str, bytes]
    ) -> None:
        hub.push("org/one", sae_files)
        found = found_at(hub, "hf:org/one")
        path = bring(found, the_checkpoint(found)) / WEIGHTS
        path.resolve().write_bytes(b"short")
        assert load_sae("hf:org/one").cfg.k == 4
        assert path.stat().st_size == len(sae_files[WEIGHTS])


class TestOffline:
    @pytest.fixture
    def offline(self, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        return monkeypatch

    def test_what_was_downloaded_loads_by_branch_and_by_commit(
        self, hub: FakeHub, sae_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commit = hub.push("org/one", {f"layer_1/{name}": sae_files[name] for name in sae_files})
        online = open_checkpoint("hf:org/one")
        hub.requests.clear()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        for text in ("hf:org/one", f"hf:org/one@{commit}:layer_1"):
            found = open_checkpoint(text)
            assert (found.commit, found.name) == (commit, online.name)
            assert found.digests == online.digests
        assert hub.requests == []

    def test_another_commit_says_which_are_cached(
        self, hub: FakeHub, sae_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commit = hub.push("org/one", sae_files)
        load_sae("hf:org/one")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(
            HubError, match=rf"not in the cache, which has {commit}\. Unset HF_HUB_O"
        ):
            load_sae(f"hf:org/one@{'a' * 40}")

    def test_a_config_without_its_weights_is_not_enough(
        self, hub: FakeHub, sae_files: dict[str, bytes], offline: pytest.MonkeyPatch
    ) -> None:
        commit = hub.push("org/one", sae_files)
        offline.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        fetch(found_at(hub, "hf:org/one"), [CONFIG])
        offline.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(HubError, match=r"not in the cache, which has only cfg\.json"):
            load_sae(f"hf:org/one@{commit}")

    @pytest.mark.usefixtures("offline")
    def test_what_never_was_downloaded_fails_at_once(self, hub: FakeHub) -> None:
        with pytest.raises(HubError, match=r"switched off \(HF_HUB_OFFLINE\): not in the cache\."):
            load_sae("hf:org/one")
        assert hub.requests == []


def test_a_cache_that_is_elsewhere_is_left_alone(hub: FakeHub, sae_files: dict[str, bytes]) -> None:
    hub.push("org/one", sae_files)
    load_sae("hf:org/one")
    assert sorted(path.name for path in Path(hub.cache).glob("models--*")) == ["models--org--one"]
