"""A hub for every test here: no other network, no waiting, no login but the test's own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from saebench.reference import resolve
from tests.hub.fake_hub import FakeHub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub without repositories, which :func:`resolve` takes for the hub."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "SAEBENCH_MAX_DOWNLOAD_GIB"):
        monkeypatch.delenv(name, raising=False)
    with FakeHub({}) as found:
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(found.cache / "token"))
        default = partial(resolve, endpoint=found.endpoint, cache=found.cache)
        monkeypatch.setattr("saebench.loading.resolve", default)
        monkeypatch.setattr("saebench.locating.resolve", default)
        yield found


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited for, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.fixture
def sae_files() -> dict[str, bytes]:
    """The files of a small SAE."""
    golden = Path(__file__).parents[1] / "oracles" / "golden" / "saelens"
    folder = golden / "topk-none-b_dec-subtracted"
    return {n: (folder / n).read_bytes() for n in ("cfg.json", "sae_weights.safetensors")}
