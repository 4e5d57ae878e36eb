"""Files are replaced whole or left as they were, and one process at a time holds a lock."""

from __future__ import annotations

import errno
import logging
import os
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from saebench import whole_files
from saebench.errors import OutputError
from saebench.whole_files import cannot_write, locked, put, put_bytes, put_json, put_text


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_is_made_and_replaced_and_nothing_else_stays(tmp_path: Path) -> None:
    for content in (b"one", b""):
        put_bytes(tmp_path / "a", content)
        assert contents(tmp_path) == {"a": content}


def test_the_name_points_at_the_content_only_once_that_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    seen: list[tuple[str, bytes]] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        seen.append(("fsync", path.read_bytes()))
        fsync(descriptor)

    def watched_replace(source: Path, target: Path) -> None:
        seen.append(("replace", Path(source).read_bytes()))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    put_bytes(path, b"new")
    assert seen[:2] == [("fsync", b"old"), ("replace", b"new")]
    assert seen[2:] in ([], [("fsync", b"new")])  # the folder, where that can be synchronised


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), KeyboardInterrupt()])
def test_whatever_stops_a_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    put_bytes(tmp_path / "a", b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
        put_bytes(tmp_path / "a", b"new")
    assert contents(tmp_path) == {"a": b"old"}


def test_a_writer_that_fails_halfway_leaves_the_old_file(tmp_path: Path) -> None:
    put_bytes(tmp_path / "a", b"old")

    def write(place: Path) -> None:
        place.write_bytes(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        put(tmp_path / "a", write)
    assert contents(tmp_path) == {"a": b"old"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_permissions_of_an_existing_file_stay_and_a_new_one_has_the_usual(tmp_path: Path) -> None:
    put_bytes(tmp_path / "a", b"old")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask
    (tmp_path / "a").chmod(0o600)
    put_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    put_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_only_who_is_alone_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    (tmp_path / ".a.12-ab.tmp").write_bytes(b"half")
    (tmp_path / ".b.12-ab.tmp").write_bytes(b"half of another")
    put_bytes(tmp_path / "a", b"1")
    assert set(contents(tmp_path)) == {"a", ".a.12-ab.tmp", ".b.12-ab.tmp"}
    put(tmp_path / "a", lambda place: place.write_bytes(b"2"), alone=True)
    assert contents(tmp_path) == {"a": b"2", ".b.12-ab.tmp": b"half of another"}


def test_texts_and_json_are_written_as_they_are(tmp_path: Path) -> None:
    put_text(tmp_path / "text", "é\r\n\ud800")
    assert (tmp_path / "text").read_bytes() == b"\xc3\xa9\r\n\\ud800"
    put_json(tmp_path / "json", {"b": 1, "a": "é"})
    assert (tmp_path / "json").read_text("utf-8") == '{\n "b": 1,\n "a": "é"\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        put_json(tmp_path / "json", {"a": float("nan")})


def test_a_full_disk_has_its_own_advice() -> None:
    full = cannot_write(Path("x"), OSError(errno.ENOSPC, "No space left"), "Choose another one.")
    assert full.next_step == "Free some space, or choose another one."
    refused = cannot_write(Path("x"), OSError(errno.EACCES, "Permission denied"), "Choose.")
    assert (refused.asked, refused.found) == ("writing to x", "Permission denied")
    assert refused.next_step == "Choose."


def test_a_folder_that_cannot_be_made_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="writing to"), locked(tmp_path / "file"):
        pass


def test_who_waits_for_another_process_says_so_and_then_has_its_turn(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    waits, order = threading.Event(), []

    def second() -> None:
        with locked(tmp_path, waiting=waits.set):
            order.append("second")

    with locked(tmp_path, waiting=pytest.fail):
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


class OneByte(types.SimpleNamespace):
    """Locks as on Windows: refused at once, or after ten tries, while another one has the byte."""

    LK_UNLCK, LK_LOCK, LK_NBLCK = 0, 1, 2

    def __init__(self, *refusals: int) -> None:
        super().__init__(refusals=list(refusals), asked=[])

    def locking(self, descriptor: int, mode: int, n_bytes: int) -> None:
        assert (n_bytes, os.lseek(descriptor, 0, os.SEEK_CUR)) == (1, 0)
        self.asked.append(mode)
        if mode != self.LK_UNLCK and self.refusals:
            raise OSError(self.refusals.pop(0), "held")


def on_windows(monkeypatch: pytest.MonkeyPatch, locks: Any) -> None:
    monkeypatch.setattr(whole_files, "fcntl", None)
    monkeypatch.setattr(whole_files, "msvcrt", locks)


def test_windows_locks_a_byte_waits_for_it_and_gives_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    locks = OneByte(errno.EACCES, errno.EDEADLK)
    on_windows(monkeypatch, locks)
    caplog.set_level(logging.INFO)
    with locked(tmp_path):
        assert locks.asked == [locks.LK_NBLCK, locks.LK_LOCK, locks.LK_LOCK]
    assert locks.asked[3:] == [locks.LK_UNLCK]
    assert caplog.messages == [f"another process is writing to {tmp_path}: waiting for it"]


@pytest.mark.parametrize("locks", [None, OneByte(errno.EINVAL)])
def test_without_locks_the_work_goes_on_and_the_caller_is_warned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: Any
) -> None:
    on_windows(monkeypatch, locks)
    with pytest.warns(RuntimeWarning, match="one process at a time") as caught, locked(tmp_path):
        pass
    assert caught[0].filename == __file__
    assert locks is None or locks.LK_UNLCK not in locks.asked


def test_a_lock_that_fails_for_another_reason_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_windows(monkeypatch, OneByte(errno.EIO))
    with pytest.raises(OutputError, match="held"), locked(tmp_path):
        pass
