"""Records on disk are whole or absent, found by what they are about, and measured by one process."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saebench.errors import OutputError
from saebench.record import Measurement, Record
from saebench.store import RecordStore, read_records, record_key, slug

KEY = record_key(checkpoint="c" * 64)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def record(name: str = "topk-s0", key: str = KEY, **more: Any) -> Record:
    fve = Measurement("fve@1", 0.812, 0.806, 0.818, 1024, 8)
    return Record(key, {"name": name}, {"id": "m"}, {"spec": "d"}, {}, {"fve@1": fve}, **more)


def shuffled(value: Any) -> Any:
    """The same value with the keys of every table in the opposite order."""
    if isinstance(value, dict):
        return {key: shuffled(item) for key, item in reversed(value.items())}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(st.dictionaries(st.sampled_from(["data", "model", "policy"]), json_values, min_size=1))
def test_a_key_does_not_depend_on_the_order_of_keys(identity: dict[str, Any]) -> None:
    assert record_key(**identity) == record_key(**shuffled(identity))
    assert re.fullmatch("[0-9a-f]{64}", record_key(**identity))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("checkpoint", "b" * 64),
        ("model", {"id": "m", "revision": "2"}),
        ("precision", "bfloat16"),
        ("data", "other"),
        ("policy", {"mask": "bos"}),
        ("definitions", ["fve@2"]),
    ],
)
def test_a_key_depends_on_every_part_of_the_identity(name: str, value: Any) -> None:
    identity: dict[str, Any] = {
        "checkpoint": "a" * 64,
        "model": {"id": "m", "revision": "1"},
        "precision": "float32",
        "data": "d",
        "policy": {"mask": "special"},
        "definitions": ["fve@1"],
    }
    assert record_key(**{**identity, name: value}) != record_key(**identity)


def test_a_key_is_the_same_in_every_process_and_release_of_this_schema() -> None:
    golden = "dac2ea33887045032229c4b4b148257def82516a098ff06a7ad774c761aeec69"
    assert record_key(data="d", policy={"a": (1, 2)}) == golden
    assert record_key(policy={"a": [1, 2]}, data="d") == golden


def test_a_key_of_something_json_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError):
        record_key(policy=float("nan"))
    with pytest.raises(TypeError):
        record_key(policy={1, 2})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("topk-s0", "topk-s0"),
        ("hf:org/repo@abc:sub/dir", "hf-org-repo-abc-sub-dir"),
        ("blocks.2.hook_resid_pre", "blocks.2.hook_resid_pre"),
        ("../../etc/passwd", "etc-passwd"),
        ("a  [b]::c", "a-b-c"),
        ("Über", "Uber"),
    ],
)
def test_a_slug_keeps_what_can_be_read(name: str, expected: str) -> None:
    assert slug(name) == expected


@pytest.mark.parametrize("name", ["", "...", "/", "тест", "a\ud800тb", "x" * 300])
def test_a_slug_that_loses_letters_carries_a_hash_instead(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._-]*-[0-9a-f]{6}", slug(name))


@given(st.text())
def test_any_name_becomes_a_short_safe_slug(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", slug(name))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "deep" / "out")
    written = record(curves={"alive": {"tokens": [1, 2], "alive": [0.5, 0.75]}}, seconds=1.5)
    path = store.write(written)
    assert path == store.path_for(KEY, "topk-s0")
    assert path == tmp_path / "deep" / "out" / "records" / f"topk-s0-{KEY[:12]}.json"
    assert store.read(KEY) == written
    assert RecordStore(tmp_path / "deep" / "out").read(KEY) == written


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    assert RecordStore(tmp_path).read(KEY) is None
    assert RecordStore(tmp_path).all() == []


def test_all_are_sorted_by_name_and_key(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    keys = sorted([record_key(data=i) for i in range(3)])
    for name, key in [("b", keys[0]), ("a", keys[2]), ("a", keys[1])]:
        store.write(record(name, key))
    assert [(r.name, r.key) for r in store.all()] == [
        ("a", keys[1]),
        ("a", keys[2]),
        ("b", keys[0]),
    ]


def test_of_copies_under_two_names_each_is_read_by_its_own(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.write(record("a"))
    store.write(record("b"))
    assert [store.read(KEY, name).name for name in ("a", "b", "c")] == ["a", "b", "a"]


def test_a_part_stands_in_the_name_of_its_file_and_every_part_is_read_by_key(
    tmp_path: Path,
) -> None:
    store = RecordStore(tmp_path)
    own, other = record(), record(key=record_key(part="probing"), part="probing")
    assert store.write(own).name == f"topk-s0-{KEY[:12]}.json"
    assert store.write(other).name == f"topk-s0-probing-{other.key[:12]}.json"
    assert store.path_for(other.key, "topk-s0", "probing").is_file()
    assert [store.read(one.key) for one in (own, other)] == [own, other]
    assert sorted(r.part for r in store.all()) == ["", "probing"]


def test_of_copies_of_a_part_each_is_read_by_its_own(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    for name in ("a", "b"):
        store.write(record(name, part="probing"))
    found = [store.read(KEY, name, "probing") for name in ("a", "b")]
    assert [one.name for one in found if one] == ["a", "b"]


def test_writing_again_replaces_the_record(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.write(record(seconds=1.0))
    store.write(record(seconds=2.0))
    assert [r.seconds for r in store.all()] == [2.0]


def test_the_file_is_strict_json_that_others_may_read(tmp_path: Path) -> None:
    values = [float("nan"), float("inf"), 1.0]
    path = RecordStore(tmp_path).write(record(curves={"loss": values, 3: (1, Path("x"))}))
    stored = json.loads(path.read_text("utf-8"), parse_constant=pytest.fail)
    assert stored["curves"] == {"loss": [None, None, 1.0], "3": [1, "x"]}
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_arrays_are_stored_as_plain_numbers(tmp_path: Path) -> None:
    curves = {"x": np.array([1.0, np.nan]), "n": np.int64(3), "f": np.float32(0.5), "b": np.True_}
    path = RecordStore(tmp_path).write(record(curves=curves))
    assert json.loads(path.read_text())["curves"] == {"x": [1.0, None], "n": 3, "f": 0.5, "b": True}


def test_what_has_no_json_form_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.write(record(seconds=1.0))
    with pytest.raises(OutputError, match=r"record\.curves\.x\[1\]: a set"):
        store.write(record(curves={"x": [1, {2}]}))
    assert store.all() == [record(seconds=1.0)]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_write_that_stops_halfway_leaves_the_earlier_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    store = RecordStore(tmp_path)
    store.write(record(seconds=1.0))

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
            store.write(record(seconds=2.0))
    assert store.all() == [record(seconds=1.0)]
    assert [path.name for path in store.records.iterdir()] == [f"topk-s0-{KEY[:12]}.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"schema_version": 1}',
        b'{"schema_version": 1, "key": "k", "measurements": []}',
        b'{"schema_version": 1, "measurements": {"fve@1": 3}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_record_is_an_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    store = RecordStore(tmp_path)
    store.write(record("other", record_key(data=1)))
    path = store.path_for(KEY, "topk-s0")
    path.write_bytes(content)
    for read in (lambda: store.read(KEY), store.all):
        with pytest.raises(OutputError) as caught:
            read()
        assert str(path) in str(caught.value)
        assert "measure" in caught.value.next_step.lower()
    assert path.read_bytes() == content
    assert store.read(record_key(data=1)) is not None


def test_a_truncated_record_is_damaged(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    path = store.write(record())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(OutputError, match="damaged"):
        store.read(KEY)


def test_a_record_under_a_foreign_key_is_damaged(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.write(record()).rename(store.path_for(record_key(data=2), "topk-s0"))
    with pytest.raises(OutputError, match="its key is"):
        store.read(record_key(data=2))


def test_a_record_of_another_schema_names_the_file_and_both_versions(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    path = store.write(record())
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    with pytest.raises(OutputError, match=rf"version 1 in {re.escape(str(path))}: version 99"):
        store.all()


def test_records_are_read_from_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RecordStore(tmp_path)
    path = store.write(record())

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    for place in (tmp_path, tmp_path / "records", path):
        assert read_records(place) == [record()]


def test_reading_where_there_are_no_records_is_an_error_and_makes_nothing(tmp_path: Path) -> None:
    for place in (tmp_path / "missing", tmp_path):
        with pytest.raises(OutputError, match="no record") as caught:
            read_records(place)
        assert str(place) in caught.value.asked
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_a_file_is_found_before_measuring(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="out") as caught:
        RecordStore(tmp_path / "out")
    assert "--out" in caught.value.next_step
    assert (tmp_path / "out").read_text() == "mine"


def test_a_directory_without_permission_is_found_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # by mode bits the superuser, whom many containers run as, would not be stopped
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        RecordStore(tmp_path)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_is_found_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OutputError, match="No space left") as caught:
        RecordStore(tmp_path)
    assert "Free some space" in caught.value.next_step
    assert list((tmp_path / "records").iterdir()) == []


def test_trying_the_directory_leaves_nothing_in_it(tmp_path: Path) -> None:
    assert list(RecordStore(tmp_path).records.iterdir()) == []


def _measure(out: Path, log: Path) -> None:
    store = RecordStore(out)
    with store.lock("group"):
        if store.read(KEY) is None:
            with log.open("a") as handle:
                handle.write("measured\n")
            time.sleep(0.1)
            store.write(record())


def test_processes_that_share_a_lock_measure_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=_measure, args=(tmp_path / "out", tmp_path / "log"))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert (tmp_path / "log").read_text() == "measured\n"


def test_a_lock_is_free_again_when_its_process_was_killed(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    context = multiprocessing.get_context("fork")
    held = context.Event()

    def hold() -> None:
        with store.lock():
            held.set()
            time.sleep(60)

    worker = context.Process(target=hold)
    worker.start()
    assert held.wait(10)
    worker.kill()
    worker.join(10)
    with store.lock():
        pass


def test_locks_of_other_names_do_not_wait(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    order: list[str] = []
    with store.lock("a"), store.lock("b"):
        other = threading.Thread(target=lambda: _note(store, order))
        other.start()
        other.join(0.1)
        order.append("first")
    other.join(10)
    assert order == ["first", "second"]


def _note(store: RecordStore, order: list[str]) -> None:
    with store.lock("a"):
        order.append("second")


def test_a_lock_is_released_by_an_error(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    with pytest.raises(ZeroDivisionError), store.lock():
        raise ZeroDivisionError
    with store.lock():
        pass
