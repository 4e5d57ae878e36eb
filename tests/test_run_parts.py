"""A run with all its parts, on what ships: groups, other texts and labels, over one pass of its own text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from saebench import cli
from saebench.record import Record, united
from saebench.session import Session

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "fixtures"
OK, FAILED, USAGE = 0, 1, 4
EXTRA = ("seeds", "fake_features", "probing")


BRIEFLY = {
    "seeds": ["--match=n_tokens=2000"],
    "fake_features": ["--fake=n_sequences=20"],
    "probing": [
        "--probe=max_train=60",
        "--probe=max_test=40",
        f"--task={FIXTURES / 'labelled' / 'part'}",
    ],
}


def arguments(out: Path, *more: str, saes: tuple[str, ...] = ("topk-s0", "topk-s1")) -> list[str]:
    """A run of a few sequences, brief in every suite that it asks for."""
    brief = [
        option
        for suite, options in BRIEFLY.items()
        if f"--suite={suite}" in more
        for option in options
    ]
    return [
        "run",
        *(str(FIXTURES / "saes" / name) for name in saes),
        f"--model={FIXTURES / 'model'}",
        f"--data={FIXTURES / 'text' / 'heldout.jsonl'}",
        "--sequences=40",
        *brief,
        f"--out={out}",
        *more,
    ]


def suites(*names: str) -> list[str]:
    return [f"--suite={name}" for name in names]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of everything."""
    out = tmp_path_factory.mktemp("parts") / "out"
    code = cli.main(arguments(out, *suites("reconstruction", "sparsity", "dead_latents", *EXTRA)))
    assert code in (OK, FAILED)
    return out


@pytest.fixture
def kept(ran: Path, tmp_path: Path) -> Path:
    """A copy of its records."""
    shutil.copytree(ran, tmp_path / "out")
    return tmp_path / "out"


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


def test_a_record_unites_the_parts_of_its_checkpoint(ran):
    first, second = report(ran)["records"]
    assert (first["checkpoint"]["name"], second["checkpoint"]["name"]) == ("topk-s0", "topk-s1")
    for metric in ("fve@1", "l0@1", "fake_token@1", "probe_accuracy_latents@1"):
        assert first["measurements"][metric]["value"] is not None
        assert metric in first["definitions"]
    assert set(first["details"]) == {"fake_features", "probing"}


def test_checkpoints_named_after_their_seeds_are_a_group_with_a_record(ran):
    (group,) = report(ran)["groups"]
    assert group["checkpoint"]["name"] == "topk"
    assert group["checkpoint"]["members"] == ["topk-s0", "topk-s1"]
    assert 0 < group["measurements"]["shared_decoder@1"]["value"] < 1
    assert (
        group["measurements"]["matched_cosine_decoder@1"]["value"]
        > group["measurements"]["matched_cosine_floor@1"]["value"]
    )


def test_the_card_shows_every_part(ran):
    text = (ran / "README.md").read_text()
    for words in (
        "## Groups",
        "`topk-s0` and `topk-s1`",
        "Latents above the limit on random text",
        "| `part` | 4 | 60 | 40 |",
    ):
        assert words in text


def test_the_card_is_written_again_from_the_report_alone(kept):
    before = (kept / "README.md").read_text()
    (kept / "README.md").unlink()
    assert cli.main(["card", str(kept)]) == OK
    assert (kept / "README.md").read_text() == before


def test_what_has_a_record_is_not_measured_again(kept, monkeypatch):
    for module in ("jobs", "fake_features", "probing"):
        monkeypatch.delattr(f"saebench.measure.{module}.run_pass")
    everything = suites("reconstruction", "sparsity", "dead_latents", *EXTRA)
    assert cli.main(arguments(kept, *everything, "--gate=fake_token >= 0")) in (OK, FAILED)
    assert cli.main(arguments(kept, *everything, "--gate=shared_decoder >= 1")) == FAILED


def test_another_part_or_protocol_measures_only_what_is_new(kept):
    names = {path.name for path in (kept / "records").iterdir()}
    everything = suites("reconstruction", "sparsity", "dead_latents", *EXTRA)
    assert cli.main(arguments(kept, *everything, "--fake=n_sequences=21")) in (OK, FAILED)
    new = {path.name for path in (kept / "records").iterdir()} - names
    assert len(new) == 2
    assert all("-fake_features-" in name for name in new)


def test_the_pass_over_the_own_text_is_shared_by_all_parts(tmp_path, monkeypatch):
    from saebench.measure import jobs

    texts = []
    own = jobs.run_pass
    monkeypatch.setattr(
        jobs,
        "run_pass",
        lambda models, *rest, **known: texts.append(1) or own(models, *rest, **known),
    )
    everything = suites("reconstruction", "sparsity", "dead_latents", *EXTRA)
    assert cli.main(arguments(tmp_path / "out", *everything)) in (OK, FAILED)
    assert len(texts) == 1
    (main,) = {
        json.dumps(found["passes"], sort_keys=True)
        for path in (tmp_path / "out" / "records").glob("topk-s?-*.json")
        if (found := json.loads(path.read_text()))["part"] == ""
    }
    assert json.loads(main)["prefix"] == 2  # 40 sequences in batches of 32


def test_parts_only_run_where_their_suite_is_asked_for(tmp_path):
    assert cli.main(arguments(tmp_path / "out")) in (OK, FAILED)
    found = report(tmp_path / "out")
    assert found["groups"] == []
    assert all(record["details"] == {} for record in found["records"])


def test_the_suite_of_groups_alone_has_items_for_groups(tmp_path, capsys):
    code = cli.main(arguments(tmp_path / "out", *suites("seeds"), "--gate=shared_decoder >= 2"))
    assert code == FAILED
    assert "test_seeds[topk-shared_decoder]" in capsys.readouterr().out


def test_groups_are_gated_by_their_own_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saebench.toml").write_text(
        f"""
        model = "{FIXTURES / "model"}"
        data = {{ spec = "{FIXTURES / "text" / "heldout.jsonl"}", n_sequences = 32 }}
        out = "out"
        suites = ["seeds"]
        [[sae]]
        ref = "{FIXTURES / "saes"}"
        [[group]]
        name = "both"
        saes = ["topk-*"]
        block = "k16"
        gates = {{ shared_decoder = "<= 1%" }}
        [[group]]
        name = "batch"
        saes = ["batchtopk-*"]
        """
    )
    assert cli.main(["run"]) == FAILED
    found = report(tmp_path / "out")
    assert [group["checkpoint"]["name"] for group in found["groups"]] == ["both", "batch"]
    assert found["groups"][0]["checkpoint"]["block"] == "k16"
    failed = [one["name"] for one in found["verdicts"] if one["status"] == "FAIL"]
    assert failed == ["both"]


def test_comparing_writes_a_card_about_groups(kept):
    assert cli.main(["compare", str(kept), "--group=a=topk-s0", "--group=b=topk-s1"]) == OK
    assert (kept / "comparison" / "README.md").is_file()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--suite=seeds", "--group=a=topk-s0"], "two or more checkpoints in group 'a'"),
        (["--suite=seeds", "--group=a=nothing"], "none of topk-s0, topk-s1"),
        (["--suite=probing", "--task=no-such-folder"], "no folder and no known task of that name"),
        (["--suite=fake_features", "--fake=colour=red"], "unknown key 'colour'"),
        (["--suite=fake_features", "--fake=length=4096"], "was made for at most 256"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_one_line(tmp_path, capsys, more, words):
    assert cli.main(arguments(tmp_path / "out", *more)) == USAGE
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line


def test_probing_without_a_task_is_refused(tmp_path, capsys):
    without = [one for one in arguments(tmp_path / "out") if not one.startswith("--task")]
    assert cli.main([*without, "--suite=probing"]) == USAGE
    assert "--task" in capsys.readouterr().err


def test_a_group_of_other_hook_points_is_refused(tmp_path, capsys):
    other = tmp_path / "topk-s2"
    shutil.copytree(FIXTURES / "saes" / "topk-s1", other)
    cfg = json.loads((other / "cfg.json").read_text())
    text = json.dumps(cfg).replace("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
    (other / "cfg.json").write_text(text)
    command = arguments(tmp_path / "out", *suites("seeds"), saes=("topk-s0",))
    command.insert(1, str(other))
    assert cli.main(command) == USAGE
    assert "checkpoints of one hook point in the group 'topk'" in capsys.readouterr().err


def test_united_records_keep_the_first_and_add_up_what_they_cost():
    first = Record("a", {"name": "x"}, {}, {}, {}, {}, passes={"prefix": 2}, seconds=1.0)
    second = Record(
        "b",
        {"name": "x"},
        {},
        {"n": 1},
        {},
        {},
        passes={"prefix": 3, "suffix": 1},
        seconds=0.5,
        part="probing",
        details={"probing": {"tasks": {}}},
    )
    both = united([first, second])
    assert (both.key, both.part, both.data) == ("a", "", {})
    assert both.passes == {"prefix": 5, "suffix": 1}
    assert both.seconds == 1.5
    assert both.details == {"probing": {"tasks": {}}}


def test_a_plan_names_the_other_texts_and_what_is_measured_of_them(ran, kept, capsys):
    everything = suites("reconstruction", *EXTRA)
    command = ["plan", *arguments(kept, *everything, "--fake=n_sequences=21")[1:]]
    assert cli.main(command) == OK
    out = capsys.readouterr().out
    assert "random text  for 2 checkpoints: 21 sequences of 128" in out
    assert "probes  " not in out  # their records are there
    assert "passes       only those on other texts" in out


def test_a_run_that_needs_less_is_served_by_a_record_of_more(kept):
    names = {path.name for path in (kept / "records").iterdir()}
    for some in (["sparsity"], ["seeds"], ["sparsity", "seeds"], ["dead_latents"]):
        assert cli.main(arguments(kept, *suites(*some))) in (OK, FAILED)
    assert {path.name for path in (kept / "records").iterdir()} == names


def test_suites_about_other_texts_decode_nothing_of_the_own_one(tmp_path, monkeypatch):
    from saebench.sae import SAE

    monkeypatch.delattr(SAE, "reconstruct")
    assert cli.main(arguments(tmp_path / "out", *suites("fake_features", "seeds"))) in (OK, FAILED)
    record = report(tmp_path / "out")["records"][0]
    assert "fve@1" not in record["measurements"]
    assert record["measurements"]["l0@1"]["value"] == 16


def test_members_of_a_group_have_no_order(kept):
    names = {path.name for path in (kept / "records").iterdir()}
    command = arguments(kept, *suites("seeds"), saes=("topk-s1", "topk-s0"))
    assert cli.main(command) in (OK, FAILED)
    assert {path.name for path in (kept / "records").iterdir()} == names


def test_a_session_names_groups_for_the_suite_about_them():
    from saebench.config import Config, SAESpec

    saes = tuple(SAESpec(str(FIXTURES / "saes" / f"topk-s{seed}")) for seed in (0, 1))
    session = Session(Config(saes=saes, suites=("sparsity", "seeds")))
    assert session.names("seeds") == ("topk",)
    assert session.names("sparsity") == session.names(None) == ("topk-s0", "topk-s1")
