"""Hostile pickles, in every container and by every instruction that calls: nothing ever is."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from saebench.errors import CheckpointError, UnsafeFileError
from saebench.weights import pickle_program, read_pickle, torch_file

OLD = {"_use_new_zipfile_serialization": False}


def save(root: Path, content: Any, **options: Any) -> Path:
    torch.save(content, root / "ae.pt", **options)
    return root / "ae.pt"


CALLS = {
    "reduce": b"\x80\x02c%s\n%s\nX\x0a\x00\x00\x00touch evil\x85R.",
    "newobj": b"\x80\x02c%s\n%s\nX\x0a\x00\x00\x00touch evil\x85\x81.",
    "newobj_ex": b"\x80\x04c%s\n%s\nX\x0a\x00\x00\x00touch evil\x85}\x92.",
    "obj": b"\x80\x02(c%s\n%s\nX\x0a\x00\x00\x00touch evilo.",
    "inst": b"(S'touch evil'\ni%s\n%s\n.",
    "build": b"\x80\x02c%s\n%s\n}X\x01\x00\x00\x00aX\x0a\x00\x00\x00touch evilsb.",
}
NAMES = (
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("builtins", "getattr"),
    ("__builtin__", "exec"),
    ("builtins", "bytearray"),
    ("torch", "load"),
    ("torch.hub", "load"),
    ("torch.serialization", "load"),
    ("torch.storage", "_load_from_bytes.__globals__"),
    ("torch._utils", "_rebuild_wrapper_subclass"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("copyreg", "add_extension"),
    ("functools", "partial"),
    ("operator", "attrgetter"),
)


def containers(root: Path, data: bytes) -> list[Path]:
    """The pickle as a plain one, gzipped, in torch's archive, and in its older format."""
    (root / "plain.pkl").write_bytes(data)
    (root / "plain.pt").write_bytes(data)
    (root / "packed.pkl.gz").write_bytes(gzip.compress(data))
    torch.save({}, root / "archive.pt")
    with zipfile.ZipFile(root / "archive.pt") as old, zipfile.ZipFile(root / "new.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, data if name.endswith("data.pkl") else old.read(name))
    (root / "archive.pt").unlink()
    head = [torch_file.MAGIC, torch_file.PROTOCOL, {"little_endian": True}]
    start = b"".join(pickle.dumps(item, 2) for item in head)
    (root / "old.pt").write_bytes(start + data + pickle.dumps([], 2))
    return [root / name for name in ("plain.pkl", "plain.pt", "packed.pkl.gz", "new.pt", "old.pt")]


class TestHostile:
    @pytest.mark.parametrize("name", NAMES, ids=".".join)
    @pytest.mark.parametrize("call", CALLS)
    def test_no_instruction_calls_what_a_pickle_names(
        self,
        tmp_path: Path,
        call: str,
        name: tuple[str, str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        data = CALLS[call] % tuple(part.encode() for part in name)
        shown = ".".join(name).replace("__builtin__", "builtins")
        for path in containers(tmp_path, data):
            with pytest.raises(UnsafeFileError, match=f"a pickle that needs {shown}, which"):
                read_pickle(path)
        assert not (tmp_path / "evil").exists()

    @pytest.mark.parametrize("call", CALLS)
    @pytest.mark.parametrize("name", [("torch._utils", "_rebuild_tensor_v2"), ("torch", "Size")])
    def test_known_names_are_not_called_with_what_they_do_not_take(
        self, tmp_path: Path, call: str, name: tuple[str, str]
    ) -> None:
        (tmp_path / "ae.pkl").write_bytes(CALLS[call] % tuple(part.encode() for part in name))
        with pytest.raises(CheckpointError):
            read_pickle(tmp_path / "ae.pkl")

    @pytest.mark.parametrize(
        "data",
        [
            b"\x80\x02\x82\x01.",
            b"\x80\x02K\x01K\x02R.",
            b"\x80\x02]K\x01b.",
            b"\x80\x02X\x01\x00\x00\x00aQ.",
            b"\x80\x05\x97.",
            b"\x80\x02h\x05.",
            b"\x80\x02.",
            b"\x80\x02]K\x01K\x02s.",
            b"\x80\x02}]K\x01s.",
            b"\x80\x02K\x01\x85e.",
            b"I" + b"9" * 5000 + b"\n.",
            b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1),
            b"\x80\x04\x8e" + struct.pack("<Q", 2**62),
            b"\x80\x04\x96" + struct.pack("<Q", 2**40),
            b"c" + b"a" * 10_000_000,
        ],
        ids=range(15),
    )
    def test_damaged_instructions_are_refused(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "ae.pkl").write_bytes(data)
        with pytest.raises(UnsafeFileError, match="no pickle, or one that needs more"):
            read_pickle(tmp_path / "ae.pkl")

    def test_a_pickle_of_endless_instructions_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pickle_program, "MAX_OPCODES", 1000)
        (tmp_path / "ae.pkl").write_bytes(b"\x80\x02" + b"]0" * 1000 + b"].")
        with pytest.raises(UnsafeFileError, match="more than 1,000 instructions"):
            read_pickle(tmp_path / "ae.pkl")

    @pytest.mark.parametrize(
        ("tensor", "found"),
        [
            (torch.eye(3).to_sparse(), "a sparse tensor"),
            (torch.zeros(2, dtype=torch.complex64), "a tensor of complex numbers"),
            (torch.zeros(2, device="meta"), "a tensor without values"),
            (torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8), "a quantised tensor"),
            (torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), "a nested tensor"),
        ],
        ids=["sparse", "complex", "meta", "quantised", "nested"],
    )
    @pytest.mark.filterwarnings("ignore")
    def test_tensors_that_are_not_dense_real_numbers_are_named(
        self, tmp_path: Path, tensor: torch.Tensor, found: str
    ) -> None:
        with pytest.raises(UnsafeFileError, match=found):
            read_pickle(save(tmp_path, {"W": tensor}))

    @pytest.mark.parametrize(
        "tensor",
        [
            torch.zeros(1).expand(1 << 20, 1 << 20),
            torch.zeros(8).as_strided((4, 4), (1, 1)),
        ],
        ids=["repeated", "overlapping"],
    )
    @pytest.mark.parametrize("options", [{}, OLD], ids=["archive", "before 1.6"])
    def test_tensors_with_more_elements_than_their_storage_are_refused(
        self, tmp_path: Path, tensor: torch.Tensor, options: dict[str, Any]
    ) -> None:
        with pytest.raises(UnsafeFileError, match=r"'W' of ae\.pt as a dense array: shape"):
            read_pickle(save(tmp_path, {"W": tensor}, **options))

    def test_a_storage_that_declares_more_than_its_member_has_is_refused(
        self, tmp_path: Path
    ) -> None:
        path = save(tmp_path, {"W": torch.zeros(5)})
        with zipfile.ZipFile(path) as old:
            members = {name: old.read(name) for name in old.namelist()}
        with zipfile.ZipFile(path, "w") as new:
            for name, data in members.items():
                new.writestr(name, data[:-4] if name.endswith("data/0") else data)
        with pytest.raises(UnsafeFileError, match="storage '0' of 20 bytes: 16 bytes"):
            read_pickle(path)

    def test_a_packed_archive_is_refused(self, tmp_path: Path) -> None:
        path = save(tmp_path, {"W": torch.zeros(50_000)})
        with zipfile.ZipFile(path) as old:
            members = {name: old.read(name) for name in old.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for name, data in members.items():
                new.writestr(name, data)
        with pytest.raises(UnsafeFileError, match=r"members as torch\.save stores them"):
            read_pickle(path)

    def test_a_gzip_bomb_is_not_unpacked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch_file, "FREE_BYTES", 1000)
        (tmp_path / "ae.pkl.gz").write_bytes(gzip.compress(bytes(10**7)))
        with pytest.raises(UnsafeFileError, match="once unpacked: more"):
            read_pickle(tmp_path / "ae.pkl.gz")

    @pytest.mark.parametrize("cut", [3, 40, 300])
    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    def test_truncated_pickles_are_refused(self, tmp_path: Path, cut: int, pack: Any) -> None:
        file = io.BytesIO()
        torch.save({"W": torch.zeros(100)}, file, **OLD)
        data = pack(file.getvalue())
        (tmp_path / "ae.pt").write_bytes(data[: -min(cut, len(data) - 2)])
        with pytest.raises(CheckpointError):
            read_pickle(tmp_path / "ae.pt")
