"""Files of a checkpoint: what is refused, and that what is declared is what is there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file

from saebench.errors import BadReferenceError, CheckpointError, UnsafeFileError
from saebench.files import (
    CheckpointFiles,
    list_files,
)
from saebench.weights import TensorInfo, read_pickle

NOBODY = 65534  # a user without rights, by convention of Unix systems


def folder(root: Path, **options: bool) -> CheckpointFiles:
    names = tuple(sorted(path.name for path in root.iterdir()))
    return CheckpointFiles(root, names, **options)


class TestNamesAndLinks:
    @pytest.mark.parametrize("name", ["../secret.json", "/etc/passwd", "a/../../b", "a\\b", ""])
    def test_names_that_lead_out_of_the_folder_are_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(UnsafeFileError, match="inside the checkpoint's folder"):
            CheckpointFiles(tmp_path, ()).path(name)

    def test_a_link_out_of_the_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "secret.json").write_text("{}")
        (tmp_path / "sae").mkdir()
        (tmp_path / "sae" / "cfg.json").symlink_to(tmp_path / "secret.json")
        with pytest.raises(UnsafeFileError, match=r"a link out of the folder, to .*secret\.json"):
            folder(tmp_path / "sae").json("cfg.json")

    def test_a_link_inside_the_folder_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "cfg-v2.json").write_text('{"a": 1}')
        (tmp_path / "cfg.json").symlink_to("cfg-v2.json")
        assert folder(tmp_path).json("cfg.json") == {"a": 1}

    def test_the_links_of_a_hub_snapshot_to_its_blobs_are_followed(self, tmp_path: Path) -> None:
        snapshot = tmp_path / "snapshots" / "abc" / "layer_1"
        snapshot.mkdir(parents=True)
        (tmp_path / "blobs").mkdir()
        (tmp_path / "blobs" / "0123").write_text('{"a": 1}')
        (snapshot / "cfg.json").symlink_to("../../../blobs/0123")
        assert folder(snapshot).json("cfg.json") == {"a": 1}

    def test_a_blob_folder_that_is_itself_a_link_is_not_trusted(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "secret").write_text("{}")
        snapshot = tmp_path / "cache" / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (tmp_path / "cache" / "blobs").symlink_to(tmp_path / "elsewhere")
        (snapshot / "cfg.json").symlink_to("../../blobs/secret")
        with pytest.raises(UnsafeFileError, match="a link out of the folder"):
            folder(snapshot).json("cfg.json")

    def test_a_blob_that_is_a_link_elsewhere_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("{}")
        snapshot = tmp_path / "cache" / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (tmp_path / "cache" / "blobs").mkdir()
        (tmp_path / "cache" / "blobs" / "0123").symlink_to(tmp_path / "secret")
        (snapshot / "cfg.json").symlink_to("../../blobs/0123")
        with pytest.raises(UnsafeFileError, match=r"a link out of the folder, to .*secret"):
            folder(snapshot).json("cfg.json")

    def test_a_link_by_way_of_a_linked_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "secrets").mkdir()
        (tmp_path / "secrets" / "w.safetensors").write_bytes(b"")
        (tmp_path / "sae").mkdir()
        (tmp_path / "sae" / "inner").symlink_to(tmp_path / "secrets")
        files = CheckpointFiles(tmp_path / "sae", (), allow_pickle=True)
        for read in (files.header, files.state_dict, files.path):
            with pytest.raises(UnsafeFileError, match="a link out of the folder"):
                read("inner/w.safetensors")
        with pytest.raises(UnsafeFileError, match="a link out of the folder"):
            files.digests(["inner/w.safetensors"])

    @pytest.mark.parametrize("kind", ["fifo", "folder"])
    def test_what_is_no_regular_file_is_not_opened(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "cfg.json"
        os.mkfifo(path) if kind == "fifo" else path.mkdir()
        found = "not a regular file" if kind == "fifo" else "a folder"
        with pytest.raises(CheckpointError, match=rf"'cfg\.json' in .*: {found}\. Found there"):
            CheckpointFiles(tmp_path, ("cfg.json",)).json("cfg.json")

    def test_a_missing_file_and_a_dangling_link_say_what_is_there(self, tmp_path: Path) -> None:
        (tmp_path / "cfg.json").symlink_to("gone.json")
        with pytest.raises(CheckpointError, match=r"a link to nothing.*cfg\.json"):
            folder(tmp_path).path("cfg.json")
        with pytest.raises(CheckpointError, match="no such file"):
            folder(tmp_path).path("other.json")


class TestSafetensors:
    def write(self, root: Path, header: dict[str, object], data: bytes) -> CheckpointFiles:
        text = json.dumps(header).encode()
        (root / "w.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
        return folder(root)

    def test_the_header_gives_shapes_and_dtypes_without_prefixes(self, tmp_path: Path) -> None:
        tensors = {
            "module._orig_mod.W_dec": torch.zeros(3, 2, dtype=torch.bfloat16),
            "b_dec": torch.zeros(2),
        }
        save_file(tensors, tmp_path / "w.safetensors")
        assert folder(tmp_path).header("w.safetensors") == {
            "W_dec": TensorInfo("bfloat16", (3, 2)),
            "b_dec": TensorInfo("float32", (2,)),
        }
        assert set(folder(tmp_path).state_dict("w.safetensors").tensors) == {"W_dec", "b_dec"}

    def test_the_header_is_read_once_and_each_caller_gets_its_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_file({"b": torch.zeros(1)}, tmp_path / "w.safetensors")
        files = folder(tmp_path)
        files.header("w.safetensors").clear()
        monkeypatch.setattr("saebench.files.read_header", None)
        assert set(files.header("w.safetensors")) == {"b"}

    def test_two_tensors_with_one_name_after_the_prefix_are_refused(self, tmp_path: Path) -> None:
        save_file({"module.b": torch.zeros(1), "b": torch.ones(1)}, tmp_path / "w.safetensors")
        with pytest.raises(CheckpointError, match="both 'b' without their prefixes"):
            folder(tmp_path).header("w.safetensors")

    def test_a_truncated_file_is_refused(self, tmp_path: Path) -> None:
        save_file({"W": torch.zeros(8, 8)}, tmp_path / "w.safetensors")
        whole = (tmp_path / "w.safetensors").read_bytes()
        (tmp_path / "w.safetensors").write_bytes(whole[:-10])
        with pytest.raises(UnsafeFileError, match=r"w\.safetensors.*truncated, damaged, or lies"):
            folder(tmp_path).header("w.safetensors")

    @pytest.mark.parametrize(
        ("shape", "offsets"),
        [([1000, 1000], [0, 16]), ([2, 2], [0, 1 << 40]), ([2**62, 4], [0, 16]), ([4], [4, 20])],
    )
    def test_a_header_that_lies_about_sizes_is_refused(
        self, tmp_path: Path, shape: list[int], offsets: list[int]
    ) -> None:
        header = {"W": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}
        files = self.write(tmp_path, header, bytes(16))
        with pytest.raises(UnsafeFileError, match="lies about its sizes"):
            files.header("w.safetensors")
        with pytest.raises(UnsafeFileError, match="lies about its sizes"):
            files.state_dict("w.safetensors")

    def test_a_header_longer_than_the_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "w.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
        with pytest.raises(UnsafeFileError, match="10 bytes"):
            folder(tmp_path).header("w.safetensors")

    def test_a_relayed_text_leaves_no_second_full_stop(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise OSError("blocked.")

        (tmp_path / "w.safetensors").write_bytes(bytes(8))
        monkeypatch.setattr("saebench.weights.safetensors_file.safe_open", refuse)
        with pytest.raises(UnsafeFileError, match=r": blocked \(the file has 8 bytes\)\. "):
            folder(tmp_path).header("w.safetensors")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("evil-was-here"),))


class TestPickles:
    def test_a_pickle_is_not_opened_unless_allowed(self, tmp_path: Path) -> None:
        torch.save({"W": torch.zeros(2)}, tmp_path / "ae.pt")
        with pytest.raises(UnsafeFileError, match="--allow-pickle"):
            folder(tmp_path).state_dict("ae.pt")
        with pytest.raises(UnsafeFileError, match="--allow-pickle"):
            folder(tmp_path).header("ae.pt")

    def test_an_allowed_pickle_of_tensors_is_read(self, tmp_path: Path) -> None:
        torch.save({"module.W": torch.arange(2.0)}, tmp_path / "ae.pt")
        found = folder(tmp_path, allow_pickle=True).state_dict("ae.pt")
        assert torch.equal(found.tensors["W"], torch.arange(2.0))
        assert found.wrapper is None

    def test_the_format_before_torch_1_6_is_read(self, tmp_path: Path) -> None:
        old = {"_use_new_zipfile_serialization": False}
        torch.save({"W": torch.ones(2)}, tmp_path / "ae.pt", **old)
        assert torch.equal(read_pickle(tmp_path / "ae.pt").tensors["W"], torch.ones(2))

    @pytest.mark.parametrize("key", ["state_dict", "ae", "model_state_dict"])
    def test_a_training_checkpoint_is_unwrapped_and_remembered(
        self, tmp_path: Path, key: str
    ) -> None:
        content = {key: {"W": torch.ones(2)}, "step": 7, "optimizer": {"state": {}}}
        torch.save(content, tmp_path / "ae.pt")
        found = read_pickle(tmp_path / "ae.pt")
        assert (list(found.tensors), found.wrapper, found.siblings) == (["W"], key, {"step": 7})

    def test_a_pickle_that_would_run_code_is_refused_even_when_allowed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        torch.save({"W": torch.zeros(1), "x": Evil()}, tmp_path / "ae.pt")
        (tmp_path / "raw.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
        for name in ("ae.pt", "raw.pt"):
            with pytest.raises(UnsafeFileError, match="a pickle that needs "):
                folder(tmp_path, allow_pickle=True).state_dict(name)
        assert not (tmp_path / "evil-was-here").exists()

    def test_a_tensor_that_claims_more_than_its_storage_is_refused(self, tmp_path: Path) -> None:
        torch.save({"W": torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / "ae.pt")
        with pytest.raises(UnsafeFileError, match="over a smaller or special storage"):
            read_pickle(tmp_path / "ae.pt")

    @pytest.mark.parametrize("content", [[torch.ones(1)], {"step": 3}, torch.ones(2)])
    def test_a_pickle_that_is_no_state_dict_is_refused(
        self, tmp_path: Path, content: object
    ) -> None:
        torch.save(content, tmp_path / "ae.pt")
        with pytest.raises(CheckpointError, match="as a state dict"):
            read_pickle(tmp_path / "ae.pt")

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            (torch.nn.Linear(1, 1), "a pickle that needs torch.nn.modules.linear.Linear, which"),
            ({"W": torch.ones(1), "x": Evil()}, "a pickle that needs "),
            (b"<html>", "an HTML page: the download was an error or login page"),
            (b"<xml>", "no pickle, or one that needs more than tensors and containers ("),
            (b"\x80\x04\x95", "no pickle, or one that needs more than tensors and containers ("),
            (b"", "an empty file. The file is damaged or truncated"),
        ],
    )
    def test_what_cannot_be_unpickled_is_told_without_the_advice_to_allow_code(
        self, tmp_path: Path, content: object, found: str
    ) -> None:
        if isinstance(content, bytes):
            (tmp_path / "ae.pt").write_bytes(content)
        else:
            torch.save(content, tmp_path / "ae.pt")
        with pytest.raises(CheckpointError) as error:
            read_pickle(tmp_path / "ae.pt")
        message = str(error.value)
        assert found in message
        for advice in ("False", "safe_globals", "PyTorch", "\x1b"):
            assert advice not in message

    def test_a_long_name_in_a_pickle_is_cut(self, tmp_path: Path) -> None:
        name = "x" * 500
        (tmp_path / "ae.pt").write_bytes(b"\x80\x02c" + b"module\n" + name.encode() + b"\n.")
        with pytest.raises(UnsafeFileError, match=r"needs module\.x{113}…, which"):
            read_pickle(tmp_path / "ae.pt")

    def test_a_truncated_pickle_is_damaged_not_unsafe(self, tmp_path: Path) -> None:
        torch.save({"W": torch.zeros(64)}, tmp_path / "ae.pt")
        whole = (tmp_path / "ae.pt").read_bytes()
        (tmp_path / "ae.pt").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match="damaged or truncated") as error:
            read_pickle(tmp_path / "ae.pt")
        assert not isinstance(error.value, UnsafeFileError)


class TestFolders:
    def test_linked_folders_are_not_entered(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "real" / "w.safetensors").touch()
        (tmp_path / "root").mkdir()
        (tmp_path / "root" / "loop").symlink_to(tmp_path / "real")
        assert list_files(tmp_path / "root") == ()

    def test_a_folder_with_very_many_files_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("saebench.files.MAX_FILES", 2)
        for i in range(3):
            (tmp_path / f"{i}.json").touch()
        with pytest.raises(BadReferenceError, match="closer to the checkpoints"):
            list_files(tmp_path)

    def test_names_that_cannot_be_shown_are_left_out(self, tmp_path: Path) -> None:
        for name in ("a.json", "b\x1b[31m.json", "c\n.safetensors", "\udcff.json"):
            (tmp_path / name).touch()
        (tmp_path / "d\x07").mkdir()
        (tmp_path / "d\x07" / "e.json").touch()
        assert list_files(tmp_path) == ("a.json",)

    def test_digests_are_those_of_sha256(self, tmp_path: Path) -> None:
        (tmp_path / "cfg.json").write_bytes(b"{}")
        (tmp_path / "w.safetensors").write_bytes(b"x")
        expected = {"cfg.json": hashlib.sha256(b"{}").hexdigest()}
        assert folder(tmp_path).digests(["cfg.json"]) == expected
        assert set(folder(tmp_path).digests()) == {"cfg.json", "w.safetensors"}

    def test_sizes_are_those_on_disk(self, tmp_path: Path) -> None:
        (tmp_path / "cfg.json").write_bytes(b"{}")
        (tmp_path / "w.safetensors").write_bytes(b"xyz")
        assert folder(tmp_path).sizes() == {"cfg.json": 2, "w.safetensors": 3}
        assert folder(tmp_path).sizes(["cfg.json"]) == {"cfg.json": 2}


class TestFilesThatTheSystemRefuses:
    """Root reads everything: what the system says is put in its mouth."""

    @staticmethod
    def refuse(monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
        def refused(path: Path, *_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number), str(path))

        monkeypatch.setattr(Path, call, refused)

    @pytest.mark.parametrize(
        ("number", "why"),
        [(errno.EACCES, "permission denied"), (errno.EMFILE, "too many open files")],
    )
    @pytest.mark.parametrize(
        "read",
        [
            lambda files: files.json("cfg.json"),
            lambda files: files.yaml("cfg.json"),
            lambda files: files.header("w.safetensors"),
            lambda files: files.state_dict("w.safetensors"),
            lambda files: files.header("w.pt"),
            lambda files: files.digests(["cfg.json"]),
        ],
        ids=["json", "yaml", "header", "state dict", "pickle", "digests"],
    )
    def test_a_file_that_cannot_be_opened(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        read: Callable[[CheckpointFiles], object],
        number: int,
        why: str,
    ) -> None:
        for name in ("cfg.json", "w.safetensors", "w.pt"):
            (tmp_path / name).write_bytes(b"{}")
        files = folder(tmp_path, allow_pickle=True)
        self.refuse(monkeypatch, "open", number)
        with pytest.raises(CheckpointError, match=rf"file \S+: cannot be read: {why}") as error:
            read(files)
        assert not isinstance(error.value, UnsafeFileError)

    def test_a_folder_that_may_not_be_searched(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "cfg.json").write_text("{}")
        files = folder(tmp_path)
        self.refuse(monkeypatch, "is_file", errno.EACCES)
        with pytest.raises(CheckpointError, match=r"cfg\.json: cannot be read: permission denied"):
            files.sizes()

    def test_a_folder_that_may_not_be_listed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(path: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))  # type: ignore[call-overload]

        monkeypatch.setattr(os, "scandir", refused)
        with pytest.raises(CheckpointError, match="cannot be read: permission denied"):
            list_files(tmp_path)

    def test_an_archive_without_permission_is_not_called_damaged(self, unprivileged: Path) -> None:
        (unprivileged / "w.npz").chmod(0)
        with pytest.raises(CheckpointError, match=r"w\.npz: cannot be read: permission denied"):
            folder(unprivileged).header("w.npz")


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder with an archive, and nobody's rights where the tests run as root, who reads all."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        numpy.savez(root / "w.npz", b=numpy.ones(2))
        folder(root).header("w.npz")  # whatever this imports may lie where nobody can read
        if os.geteuid() != 0:
            yield root
            return
        os.chown(root, NOBODY, NOBODY)
        os.chown(root / "w.npz", NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            yield root
        finally:
            os.seteuid(0)
