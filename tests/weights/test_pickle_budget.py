"""Small pickles that would cost hours or all memory, because what is shared is copied: refused."""

from __future__ import annotations

import pickle
import signal
import struct
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saebench.errors import CheckpointError, SaebenchError, UnsafeFileError
from saebench.weights import read_pickle, torch_file

MEMORY = 2 * 2**30
SECONDS = 20

# An assembler of pickles (protocol 2).
START = b"\x80\x02"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def large_number(size: int) -> bytes:
    return b"\x8b" + struct.pack("<I", size) + b"\x01" * size


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def put(index: int) -> bytes:
    return b"r" + struct.pack("<I", index)


def get(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


def storage(key: bytes, size: bytes) -> bytes:
    start = b"(" + text("storage") + name("torch", "FloatStorage")
    return start + key + text("cpu") + size + b"tQ"


TENSOR = (
    *(name("torch._utils", "_rebuild_tensor_v2"), b"(", storage(text("0"), number(4)), number(0)),
    *(number(4), b"\x85", number(1), b"\x85\x89", name("collections", "OrderedDict"), b")RtR"),
)
T = b"".join(TENSOR)
END = b"}" + text("w") + T + b"s."


def doubled(step: bytes) -> bytes:
    """A value that a step makes of two of itself, forty times."""
    return START + text("a" * 100) + put(0) + b"0" + (step + put(0) + b"0") * 40


PAIRS = doubled(b"(" + get(0) + get(0) + b"t")
OLD_HEAD = b"".join(
    pickle.dumps(item, 2)
    for item in (torch_file.MAGIC, torch_file.PROTOCOL, {"little_endian": True})
)
OLD_START = OLD_HEAD + START + END
NESTED = OLD_HEAD + START + b"N0" * 50_000 + b"N." + pickle.dumps([], 2)
RECORD = name("sae_lens", "X")
IN_ARCHIVES = {
    "paths of paths": doubled(name("pathlib", "PosixPath") + get(0) + get(0) + b"\x86R") + END,
    "devices of devices": doubled(name("torch", "device") + get(0) + get(0) + b"\x86R") + END,
    "a size of pairs of pairs": PAIRS + storage(text("0"), get(0)) + b".",
    "a storage's key of pairs of pairs": PAIRS + storage(get(0), number(4)) + b".",
    "copies of a text": START
    + (text("a" * 2_000_000) + put(0) + name("_codecs", "encode") + put(1) + text("latin1"))
    + (put(2) + b"(" + (get(1) + get(0) + get(2) + b"\x86R") * 2000 + b"l0" + END),
    "copies of a list": START
    + (b"(" + b"N" * 200_000 + b"l" + put(0) + name("builtins", "list") + put(1) + b"(")
    + ((get(1) + get(0) + b"\x85R") * 5000 + b"l0" + END),
    "attributes set again": START
    + (b"(" + b"".join(text(f"{i}") + b"N" for i in range(50_000)) + b"d" + put(0) + b"(")
    + ((RECORD + b")R" + get(0) + b"b") * 5000 + b"l0" + END),
    "arguments passed again": START
    + (b"(" + b"N" * 200_000 + b"t" + put(0) + RECORD + put(1))
    + ((get(1) + get(0) + b"R0") * 100_000 + END),
    "a large number as a key": START
    + (large_number(1_000_000) + put(0) + b"N\x86" + put(1) + name("collections", "OrderedDict"))
    + (b"(" + get(1) * 300_000 + b"l\x85R0" + END),
    "a large number in a set": START + b"\x8f(" + large_number(3000) + b"\x90.",
    "a long text as a key": START + b"}" + text("a" * 1001) + b"Ns.",
    "numbers that may collide": START
    + (b"}(" + b"".join(number(i) + b"N" for i in range(150_000)) + b"u0" + END),
    "a long name": START + b"X" + struct.pack("<I", 5000) + b"a" * 5000 + text("b") + b"\x93.",
    "a dict full of itself": START
    + (b"}" + put(0) + b"(" + b"".join(text(f"{i}") + get(0) for i in range(200_000)))
    + (text("w") + T + b"u."),
    "names of names": START
    + b"".join(b"}" + text(f"{i}" + "k" * 990) for i in range(30))
    + (b"}(" + b"".join(text(f"{i}") + T for i in range(1000)) + b"u" + b"s" * 30 + b"."),
    "tensors left out again and again": START
    + (T + put(0) + b"0(" + get(0) * 100_000 + b"l" + put(1) + b"0}(" + text("w") + get(0))
    + (text("cfg") + b"(" + get(1) * 100_000 + b"lu."),
    "more elements than can be counted": START
    + T.replace(
        number(4) + b"\x85" + number(1) + b"\x85",
        b"(" + number(0) + number(2**31 - 1) * 3 + b"t(" + number(1) * 4 + b"t",
    )
    + b".",
    "a truth value as a size": START + T.replace(number(4) + b"\x85", b"\x88\x85") + b".",
}
STREAMS = {
    "nested pickles read again": START
    + (b"B" + struct.pack("<I", len(NESTED)) + NESTED + put(0) + b"0")
    + (name("torch.storage", "_load_from_bytes") + put(1) + b"0")
    + ((get(1) + get(0) + b"\x85R0") * 300_000 + b"}."),
    "storage keys nested deeply": OLD_START + START + b"]" * 3000 + b"a" * 2999 + b".",
    "a large number as a storage key": OLD_START + START + b"]" + large_number(5000) + b"a.",
    "pairs of pairs as a storage key": OLD_START + PAIRS + b"]" + get(0) + b"a.",
}


def archive(path: Path, program: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", program)
        file.writestr("a/byteorder", "little")
        file.writestr("a/data/0", bytes(16))
    return path


@pytest.fixture
def limits() -> Iterator[None]:
    """Too much memory or time ends the test, and only it."""
    resource = pytest.importorskip("resource", reason="limits are those of Unix")
    if not Path("/proc/self/statm").exists():
        pytest.skip("Linux says how much is in use")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)

    def too_long(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, too_long)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class TestWork:
    def test_the_tensor_of_these_pickles_is_read_when_nothing_else_is_there(
        self, tmp_path: Path
    ) -> None:
        found = read_pickle(archive(tmp_path / "ae.pt", START + END)).tensors
        assert found["w"].tolist() == [0.0] * 4

    @pytest.mark.parametrize("case", IN_ARCHIVES)
    def test_an_archive_that_multiplies_what_it_shares_is_refused(
        self, tmp_path: Path, case: str, limits: None
    ) -> None:
        with pytest.raises(SaebenchError) as caught:
            read_pickle(archive(tmp_path / "ae.pt", IN_ARCHIVES[case]))
        assert len(str(caught.value)) < 1000

    @pytest.mark.parametrize("case", STREAMS)
    def test_a_stream_that_multiplies_what_it_shares_is_refused(
        self, tmp_path: Path, case: str, limits: None
    ) -> None:
        (tmp_path / "ae.pt").write_bytes(STREAMS[case])
        with pytest.raises(UnsafeFileError) as caught:
            read_pickle(tmp_path / "ae.pt")
        assert len(str(caught.value)) < 1000

    def test_an_unchanged_archive_is_parsed_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parsed: list[Path] = []
        inner = torch_file._read_archive

        def counted(path: Path, asked: str) -> Any:
            parsed.append(path)
            return inner(path, asked)

        monkeypatch.setattr(torch_file, "_read_archive", counted)
        path = tmp_path / "ae.pt"
        torch.save({"W": torch.ones(3)}, path)
        for _ in range(3):
            assert read_pickle(path).tensors["W"].tolist() == [1.0] * 3
        assert len(parsed) == 1
        torch.save({"W": torch.zeros(3)}, path)
        assert read_pickle(path).tensors["W"].tolist() == [0.0] * 3


class TestTensors:
    def test_a_negated_view_is_refused_and_not_read_with_the_wrong_sign(
        self, tmp_path: Path
    ) -> None:
        negated = torch.view_as_complex(torch.randn(4, 3, 2)).conj().imag
        assert negated.is_neg()
        torch.save({"W": negated}, tmp_path / "ae.pt")
        with pytest.raises(UnsafeFileError, match=r"'W' of ae\.pt .* a negated or conjugated view"):
            read_pickle(tmp_path / "ae.pt")
        torch.save({"W": negated.resolve_neg().clone()}, tmp_path / "ae.pt")
        assert torch.equal(read_pickle(tmp_path / "ae.pt").tensors["W"], negated)

    @pytest.mark.parametrize("dtype", ["float4_e2m1fn_x2", "bits8", "uint4", "int3", "complex64"])
    def test_a_dtype_that_does_not_become_float32_is_named(
        self, tmp_path: Path, dtype: str
    ) -> None:
        v3 = T.replace(b"_v2", b"_v3").replace(b")RtR", b")R" + name("torch", dtype) + b"tR")
        path = archive(tmp_path / "ae.pt", START + b"}" + text("w") + v3 + b"s.")
        with pytest.raises(UnsafeFileError, match=rf"numbers of the dtype torch\.{dtype}"):
            read_pickle(path)

    def test_a_number_names_a_tensor_beside_the_state_dict_as_text(self, tmp_path: Path) -> None:
        path = tmp_path / "ae.pt"
        torch.save({"state_dict": {"w": torch.ones(1)}, 7: torch.ones(1)}, path)
        assert list(read_pickle(path).tensors) == ["w", "7"]
        torch.save({"sae": {"w": torch.ones(1)}, 7: torch.ones(1), "7": torch.ones(1)}, path)
        with pytest.raises(CheckpointError, match="with one tensor '7'"):
            read_pickle(path)

    @pytest.mark.parametrize("protocol", [2, 4])
    def test_values_that_nobody_needs_beside_the_tensors_are_left_out(
        self, tmp_path: Path, protocol: int
    ) -> None:
        content = {
            "W": torch.ones(2),
            "loss": np.float64(0.5),
            "when": datetime(2024, 1, 2),
            "counts": defaultdict(int, a=1),
            "k": 4,
        }
        torch.save(content, tmp_path / "ae.pt", pickle_protocol=protocol)
        found = read_pickle(tmp_path / "ae.pt")
        assert list(found.tensors) == ["W"]
        assert found.siblings == {"counts": {"a": 1}, "k": 4}
