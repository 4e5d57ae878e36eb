"""A comparison is a card, its data and plots, the same bytes from the same reports."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

import pytest

import saebench.comparison
from saebench.cli.compare import declare
from saebench.comparison import write_comparison
from saebench.errors import ConfigError, OutputError, SaebenchError
from tests.comparison.studies import group, record, report, save, small_study


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def run(tmp_path):
    return save(tmp_path / "run", small_study())


def test_a_comparison_is_a_card_its_data_and_plots_beside_the_run(run):
    written = write_comparison([run])
    assert [str(p.relative_to(run / "comparison")) for p in written] == [
        *("README.md", "comparison.json", "plots/matching.png", "plots/matched-cosines.png"),
    ]
    card = written[0].read_text()
    assert "](plots/matching.png)" in card
    assert "](plots/matched-cosines.png)" in card


def test_writing_twice_changes_no_byte(run, tmp_path):
    write_comparison([run], tmp_path / "a" / "README.md", command="saebench compare run")
    write_comparison([run], tmp_path / "b" / "README.md", command="saebench compare run")
    first = contents(tmp_path / "a")
    assert first == contents(tmp_path / "b")
    write_comparison([run], tmp_path / "a" / "README.md", command="saebench compare run")
    assert contents(tmp_path / "a") == first


def test_another_process_writes_the_same_bytes(run, tmp_path):
    write_comparison([run], tmp_path / "a" / "c.md", plots=False)
    code = (
        "import sys; from pathlib import Path; from saebench.comparison import write_comparison; "
        "write_comparison([Path(sys.argv[1])], Path(sys.argv[2]), plots=False)"
    )
    other = str(tmp_path / "b" / "c.md")
    environment = {**dict(os.environ), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, str(run), other], check=True, env=environment)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_data_hold_what_the_tables_show_and_no_folder_of_this_computer(run):
    card, data, *_ = write_comparison([run], command=f"saebench compare {run}")
    plain = json.loads(data.read_text())
    assert str(run) not in data.read_text() + card.read_text()
    (pair,) = plain["pairs"]
    assert (pair["a"], pair["b"]) == ("faithful", "web")
    fve = pair["headline"][0]
    assert fve["quantity"] == "fve@1"
    assert fve["overall"]["difference"] == pytest.approx(-0.01)
    signs = {"wins": 0, "ties": 0, "losses": 2, "p": 0.5, "smallest_p": 0.5}
    assert fve["overall"]["sign"] == fve["overall"]["sign_test_cells"] == signs
    assert fve["overall"]["n_places"] == 2
    assert pair["notes"] == []
    assert [one["block"] for one in plain["alike"]] == ["k8", "k16"]
    assert plain["alike"][0]["within"] == {"mean": 0.6, "sd": 0.0, "n": 2}
    assert plain["alike"][0]["chance"] == pytest.approx(0.2)
    assert [cell["block"] for cell in fve["cells"]] == ["k8", "k16"]
    assert plain["seeds"][0]["pairs"][0]["values"]["decoder.matched_cosine"] == 0.6
    assert plain["groups"][0]["members"][0]["name"] == "faithful-k8-s0"
    assert plain["quantities"]["mse@1"]["better"] == "lower"
    assert {one["over_seeds"]["n"] for one in plain["values"] if one["quantity"] == "fve@1"} == {2}


def test_the_card_of_a_run_is_never_written_over(run):
    for output in (run, run / "README.md"):
        with pytest.raises(ConfigError, match="is the card of a run"):
            write_comparison([run], output)
    assert write_comparison([run], run / "groups.md", plots=False)[0].name == "groups.md"


def test_a_folder_without_a_report_is_an_error(tmp_path):
    with pytest.raises(OutputError, match=r"there is no report\.json"):
        write_comparison([tmp_path])
    with pytest.raises(ConfigError, match="no run folder"):
        write_comparison([])


def test_a_folder_named_twice_counts_once(run, tmp_path):
    write_comparison([run, run / "."], tmp_path / "c.md", plots=False)
    once = contents(tmp_path)["c.md"]
    write_comparison([run], tmp_path / "c.md", plots=False)
    assert contents(tmp_path)["c.md"] == once


def test_folders_of_one_name_are_told_apart_in_errors(tmp_path):
    runs = [save(tmp_path / at / "run", report([record("a", part={"key": at})])) for at in "xy"]
    with pytest.raises(ConfigError, match=r"run \(1\) and run \(2\) have different measurements"):
        write_comparison(runs, tmp_path / "c.md", groups=[("g", "a")])


def test_a_damaged_card_stops_it_before_anything_is_written(run, tmp_path):
    card = tmp_path / "out" / "README.md"
    card.parent.mkdir()
    card.write_text("<!-- saebench:begin -->\nno end\n")
    before = contents(card.parent)
    with pytest.raises(OutputError, match="there is no"):
        write_comparison([run], card)
    assert contents(card.parent) == before


def test_without_matplotlib_there_are_no_pictures(run, monkeypatch):
    monkeypatch.setattr(saebench.comparison, "has_matplotlib", lambda: False)
    written = write_comparison([run])
    assert [path.name for path in written] == ["README.md", "comparison.json"]
    assert "![" not in written[0].read_text()


def parse(*arguments):
    places = argparse.ArgumentParser().add_subparsers()

    def command(places, name, handler, summary, epilog):
        parser = places.add_parser(name)
        parser.set_defaults(handler=handler)
        return parser

    declare(places, command)
    parser = places.choices["compare"]
    values = parser.parse_args([str(one) for one in arguments])
    values.command_line = "saebench compare run"
    return values


def test_the_command_writes_the_card_and_says_where(run, tmp_path, capsys):
    out = tmp_path / "c.md"
    values = parse(
        run, "--group", "f=faithful-k8-*", "--group", "w=web-k8-*", "--reference", "f", "-o", out
    )
    assert values.handler(values) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"wrote {out}"
    assert "### w against f" in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "there is none"),
        (["run", "--group", "f"], "NAME=GLOB"),
        (["run", "--group", "f=nothing*"], "no checkpoint has such a name"),
        (["run", "--reference", "webb"], "Did you mean 'web'"),
        (["run", "-o", "run"], "is the card of a run"),
    ],
)
def test_a_wrong_command_says_what_to_do(run, monkeypatch, arguments, message):
    monkeypatch.chdir(run.parent)
    values = parse(*arguments)
    with pytest.raises(SaebenchError, match=message):
        values.handler(values)


def test_no_groups_at_all_is_an_error_that_names_the_option(tmp_path):
    values = parse(save(tmp_path / "bare", report([record("a")])))
    with pytest.raises(ConfigError, match="Name groups with --group NAME=GLOB"):
        values.handler(values)


def test_declaring_the_command_imports_nothing_heavy():
    code = (
        "import sys, saebench.cli.compare; "
        "print([m for m in ('torch', 'scipy', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_stored_group_of_one_can_be_compared(tmp_path):
    stored = report(
        [record("a", fve=0.5), record("b", fve=0.4)], [group("g", "a"), group("h", "b")]
    )
    card, *_ = write_comparison([save(tmp_path / "run", stored)])
    assert "g against h" in card.read_text()


def test_cards_of_other_names_keep_files_of_their_own(run, tmp_path):
    one = write_comparison([run], tmp_path / "one.md")
    two = write_comparison([run], tmp_path / "two.md")
    assert not set(one) & set(two)
    assert (tmp_path / "one.json").is_file()
    assert "](one-plots/matching.png)" in (tmp_path / "one.md").read_text()
