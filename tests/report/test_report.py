"""A report is written whole or not at all, and all of it can be written again from what it stored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import saebench.report
from saebench.errors import OutputError
from saebench.gates import Waiver
from saebench.report import load_report, write_card, write_report
from saebench.report.write import read_text, write_changed
from tests.report.records import TODAY, make_record, make_verdicts

ROOT = Path(__file__).parents[2]
COMMAND = "saebench run saes --model ./model"


def make_run():
    records = [make_record("a"), make_record("b", shift=-0.02, missing={"kl": "no logits"})]
    waiver = Waiver("b", "fve", "known", TODAY)
    limits = {"fve": ">= 0.80", "kl": "<= 0.2", "l0": "60..70", "dead_fraction": "<= 10%"}
    return records, [v for record in records for v in make_verdicts(record, waiver, **limits)]


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_report_is_a_card_its_data_and_plots(tmp_path):
    written = write_report(*make_run(), tmp_path / "new" / "out", command=COMMAND)
    names = [str(path.relative_to(tmp_path / "new" / "out")) for path in written]
    assert names == [
        "README.md",
        "report.json",
        "plots/fve.png",
        "plots/density.png",
        "plots/alive.png",
    ]
    assert sorted(names) == sorted(contents(tmp_path / "new" / "out"))
    card = written[0].read_text()
    for name in names[2:]:
        assert f"]({name})" in card


def test_writing_twice_changes_no_byte_and_touches_no_file(tmp_path):
    written = write_report(*make_run(), tmp_path, command=COMMAND)
    before, times = contents(tmp_path), [path.stat().st_mtime_ns for path in written]
    write_report(*make_run(), tmp_path, command=COMMAND)
    assert contents(tmp_path) == before
    assert [path.stat().st_mtime_ns for path in written] == times


def test_hand_written_parts_survive(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Ours\n\nBy hand.\n")
    write_report(*make_run(), tmp_path, plots=False, command=COMMAND)
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("---\nlicense: mit\ntags:\n")
    assert "# Ours\n\nBy hand.\n\n<!-- saebench:begin -->" in text


def test_a_damaged_card_stops_the_report_before_anything_is_written(tmp_path):
    (tmp_path / "README.md").write_text("text\n<!-- saebench:begin -->\nno end\n")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="there is no <!-- saebench:end -->"):
        write_report(*make_run(), tmp_path, command=COMMAND)
    assert contents(tmp_path) == before


def test_plots_are_drawn_when_they_can_be_or_when_asked_for(tmp_path, monkeypatch):
    write_report(*make_run(), tmp_path / "a", plots=False, command=COMMAND)
    assert set(contents(tmp_path / "a")) == {"README.md", "report.json"}
    monkeypatch.setattr(saebench.report, "has_matplotlib", lambda: False)
    write_report(*make_run(), tmp_path / "b", command=COMMAND)
    assert "![" not in (tmp_path / "b" / "README.md").read_text()


def test_asking_for_plots_without_the_extra_is_an_error(tmp_path):
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from pathlib import Path\n"
        "from saebench.report import write_report\n"
        "from tests.report.records import make_record\n"
        f"write_report([make_record()], [], Path({str(tmp_path)!r}), plots=True, command='')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert "MissingExtraError: drawing plots: matplotlib is not installed." in done.stderr
    assert contents(tmp_path) == {}


def test_a_stored_report_reads_back_as_it_was(tmp_path):
    records, verdicts = make_run()
    write_report(records, verdicts, tmp_path, plots=False, command=COMMAND)
    stored = load_report(tmp_path)
    assert list(stored.records) == records
    assert list(stored.verdicts) == verdicts
    assert stored.command == COMMAND
    assert stored.verdicts[4].waiver is not None


def test_the_data_of_a_report_is_strict_json(tmp_path):
    write_report(*make_run(), tmp_path, plots=False, command=COMMAND)
    text = (tmp_path / "report.json").read_text()
    data = json.loads(text, parse_constant=pytest.fail)
    assert data["verdicts"][0]["gate"]["limit"] == ">= 0.8"


def test_a_value_that_json_does_not_have_is_one_clear_error(tmp_path):
    record = make_record(curves={"alive": [], "odd": float("nan")})
    with pytest.raises(OutputError, match="JSON does not have"):
        write_report([record], [], tmp_path, plots=False, command=COMMAND)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "there is no report.json"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"schema_version": 99}', "schema version 99"),
        ('{"schema_version": 1, "records": [{}], "verdicts": [], "command": ""}', "damaged"),
    ],
)
def test_a_missing_or_damaged_report_is_one_clear_error(tmp_path, content, complaint):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(OutputError, match=complaint):
        load_report(tmp_path)


def test_a_card_above_the_report_links_the_plots_where_they_lie(tmp_path):
    folder = tmp_path / "reports" / "run 1"
    write_report(*make_run(), folder, command=COMMAND)
    card = write_card(folder, tmp_path / "README.md")
    assert "](reports/run%201/plots/fve.png)" in card.read_text()
    assert set(contents(tmp_path)) - {"README.md"} == {
        f"reports/run 1/{name}" for name in contents(folder)
    }


def test_a_card_elsewhere_gets_plots_of_its_own(tmp_path):
    write_report(*make_run(), tmp_path / "report", command=COMMAND)
    card = write_card(tmp_path / "report", tmp_path / "upload" / "README.md")
    assert "](plots/fve.png)" in card.read_text()
    assert (tmp_path / "upload" / "plots" / "fve.png").is_file()


def test_the_card_written_from_the_stored_report_is_the_card_of_the_report(tmp_path):
    written = write_report(*make_run(), tmp_path, command=COMMAND)
    before = written[0].read_bytes()
    written[0].unlink()
    write_card(tmp_path, tmp_path / "README.md")
    assert written[0].read_bytes() == before


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "README.md"
    write_changed(path, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match="No space left"):
        write_changed(path, b"new")
    assert contents(tmp_path) == {"README.md": b"old"}


def test_a_link_is_followed_and_permissions_stay(tmp_path):
    real = tmp_path / "real.md"
    real.write_bytes(b"old")
    real.chmod(0o640)
    link = tmp_path / "README.md"
    link.symlink_to(real)
    write_changed(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert real.stat().st_mode & 0o777 == 0o640


def test_a_card_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "README.md"
    assert read_text(path) is None
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(OutputError, match="not UTF-8"):
        read_text(path)
    path.write_bytes(b"x" * (5 * 2**20))
    with pytest.raises(OutputError, match="more than any card"):
        read_text(path)
    path.write_bytes(b"\xef\xbb\xbfwith a byte order mark")
    assert read_text(path) == "with a byte order mark"


def test_a_file_in_the_place_of_the_folder_is_one_clear_error(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="writing"):
        write_report(*make_run(), tmp_path / "out", plots=False, command=COMMAND)


def test_reporting_needs_no_torch_and_no_matplotlib_until_it_draws():
    code = "import sys, saebench.report; print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
