"""The shipped suites as a user runs them: items, verdicts, exit codes and what is left behind."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest

from saebench.store import RecordStore
from tests.plugin.conftest import items

pytest_plugins = ["pytester"]

OK, FAILED, USAGE = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.USAGE_ERROR
NO_DEFAULTS = ("[gates]", *(f"{name} = false" for name in ("ce_recovered", "dead_fraction", "l0")))


def records_in(folder):
    return {path: path.stat().st_mtime_ns for path in (Path(folder) / "records").glob("*.json")}


@pytest.fixture
def no_model(monkeypatch):
    """Fails whoever loads the language model."""

    def refuse(*arguments, **options):
        raise AssertionError("the language model was loaded")

    monkeypatch.setattr("saebench.measure.run.LanguageModel.open", refuse)


# --- items and verdicts ----------------------------------------------------------------------------


def test_there_is_one_item_for_each_checkpoint_and_gate(suites):
    result = suites("-v")
    assert items(result) == {
        "test_reconstruction[good-fve]",
        "test_reconstruction[good-ce_recovered]",
        "test_reconstruction[bad-fve]",
        "test_reconstruction[bad-ce_recovered]",
        "test_sparsity[good-l0]",
        "test_sparsity[bad-l0]",
        "test_dead_latents[good-dead_fraction]",
        "test_dead_latents[bad-dead_fraction]",
    }
    assert items(result, "FAILED") == {
        "test_reconstruction[bad-fve]",
        "test_reconstruction[bad-ce_recovered]",
    }
    assert items(result, "SKIPPED") == {"test_sparsity[good-l0]"}  # it states no k
    assert result.ret == FAILED


def test_a_person_selects_items_by_checkpoint_and_metric(suites):
    result = suites("-v", "-k", "good and fve")
    assert items(result) == {"test_reconstruction[good-fve]"}
    assert result.ret == OK


def test_gates_of_the_file_are_added_changed_and_taken_away(suites):
    lines = (*NO_DEFAULTS, "fve = '>= 0.99'", "mse = '< 1e-6'")
    result = suites("-v", lines=lines, saes=("good",))
    assert items(result) == {"test_reconstruction[good-fve]", "test_reconstruction[good-mse]"}
    assert result.ret == OK


def test_a_failure_says_value_interval_gate_and_what_it_rests_on(suites):
    result = suites("--saebench-gate", "fve >= 2", "-k", "good-fve")
    assert result.ret == FAILED
    result.stdout.re_match_lines(
        [r"E +AssertionError: FVE 1\.\S+ \[.*\] is below the gate >= 2 +\(.*tokens,.*, fve@1\)"]
    )


def test_a_limit_on_the_interval_is_judged_by_its_end(suites):
    result = suites("--saebench-gate", "fve <= 2", "--saebench-confidence", "-k", "good-fve")
    assert result.ret == OK
    result = suites("--saebench-gate", "fve >= 2", "--saebench-confidence", "-k", "good-fve")
    result.stdout.fnmatch_lines(["*the lower bound*of FVE*is below the gate >= 2*"])


def test_a_waived_failure_passes_and_the_report_names_the_reason(suites, kept):
    waiver = ("[[waiver]]", "sae = 'b*'", "metric = 'fve'", "reason = 'half trained'")
    result = suites("-k", "bad-fve", lines=(*waiver, "expires = 2999-01-31"))
    assert result.ret == OK
    assert "half trained" in Path(kept, "README.md").read_text()
    result = suites("-k", "bad-fve", lines=(*waiver, "expires = 2001-01-31"))
    assert result.ret == FAILED
    result.stdout.fnmatch_lines(["*its waiver expired on 2001-01-31 (half trained)*"])


def test_verdicts_are_in_the_junit_report_as_plain_values(suites, pytester):
    suites("--junit-xml=found.xml", "-k", "bad")
    cases = ElementTree.parse(pytester.path / "found.xml").getroot().iter("testcase")
    found = {}
    for case in cases:
        found[case.get("name")] = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert {name: entry["saebench.status"] for name, entry in found.items()} == {
        "test_reconstruction[bad-fve]": "FAIL",
        "test_reconstruction[bad-ce_recovered]": "FAIL",
        "test_sparsity[bad-l0]": "PASS",
        "test_dead_latents[bad-dead_fraction]": "PASS",
    }
    entry = found["test_reconstruction[bad-fve]"]
    assert (entry["saebench.name"], entry["saebench.metric"]) == ("bad", "fve")
    assert "is not above the gate > 0" in entry["saebench.message"]


def test_the_report_covers_every_gate_whatever_was_selected(suites, kept):
    assert suites("-k", "good-fve").ret == OK
    report = json.loads(Path(kept, "report.json").read_text())
    assert [record["checkpoint"]["name"] for record in report["records"]] == ["good", "bad"]
    assert (
        len(report["verdicts"]) == 7
    )  # good states no k, so the shipped limit on L0 is not for it


def test_the_session_ends_with_a_table_and_says_what_it_wrote(suites, pytester):
    result = suites("-q")
    result.stdout.fnmatch_lines(["*= saebench =*", "good *", "*FVE *pass*", "bad *", "*FVE *FAIL*"])
    result.stdout.fnmatch_lines(["wrote *README.md", "wrote *report.json"])


def test_the_report_is_written_even_without_a_summary(suites, kept):
    Path(kept, "report.json").unlink(missing_ok=True)
    assert suites("--no-summary", "-k", "good-fve").ret == OK
    assert Path(kept, "report.json").is_file()


def test_a_report_that_cannot_be_written_is_no_success(suites, kept):
    card = Path(kept, "README.md")
    card.unlink(missing_ok=True)
    card.mkdir(parents=True)
    try:
        result = suites("-k", "good-fve")
    finally:
        card.rmdir()
    assert result.ret not in (OK, pytest.ExitCode.INTERNAL_ERROR)
    result.stdout.fnmatch_lines(["saebench: *README.md*"])


# --- measured once ---------------------------------------------------------------------------------


def test_all_checkpoints_are_measured_in_one_pass(suites, pytester, world):
    config = world.config("batch_size = 10", out="fresh")
    suites()  # makes the file
    (pytester.path / "saebench.toml").write_text(config)
    assert suites.run("--pyargs", "saebench.suites", "-q").ret == FAILED
    records = [json.loads(path.read_text()) for path in records_in(pytester.path / "fresh")]
    assert len(records) == 2
    for record in records:
        n_batches = -(-record["data"]["n_sequences"] // 10)
        assert record["passes"]["prefix"] == n_batches
        assert record["passes"]["suffix"] == n_batches * (1 + 2 + 2)


def test_what_another_process_measured_meanwhile_is_not_measured_again(
    suites, pytester, monkeypatch
):
    lock, waited = RecordStore.lock, []

    @contextmanager
    def lock_after_another_process(store, name="measure"):
        if not waited:
            waited.append(name)
            assert suites("-k", "fve", "--saebench-out=fresh").ret == FAILED
        with lock(store, name):
            before.update(records_in(pytester.path / "fresh"))
            yield

    before = {}
    monkeypatch.setattr(RecordStore, "lock", lock_after_another_process)
    result = suites("-k", "fve", "--saebench-out=fresh")
    result.assert_outcomes(passed=1, failed=1, deselected=19)
    assert len(before) == 2
    assert records_in(pytester.path / "fresh") == before


def test_another_limit_measures_nothing_again(suites, kept, no_model, world, pytester):
    before = records_in(kept)
    assert suites("--saebench-gate", "fve >= -5", "-k", "fve").ret == OK
    assert suites("--saebench-gate", "l0 = 3..5", "-k", "bad-l0").ret == OK
    assert before
    assert records_in(kept) == before


def test_another_name_measures_nothing_again_and_is_the_one_reported(suites, kept, no_model):
    before = records_in(kept)
    result = suites(
        "-v",
        "-k",
        "fve",
        lines=("[[sae]]", f"ref = '{suites.world.good}'", "name = 'mine'"),
        saes=("bad",),
    )
    assert items(result, "PASSED") == {"test_reconstruction[mine-fve]"}
    result.stdout.fnmatch_lines(["mine *"])
    assert records_in(kept) == before


# --- nothing measured is a usage error ---------------------------------------------------------------


def test_without_a_configuration_there_is_nothing_to_measure(run):
    result = run("--pyargs", "saebench.suites")
    assert result.ret == USAGE
    assert "checkpoints to measure: none" in result.stderr.str() + result.stdout.str()


def test_everything_deselected_is_a_usage_error(suites):
    result = suites("-k", "no_such_metric")
    assert result.ret == USAGE
    result.stdout.fnmatch_lines(["saebench: nothing was measured*"])


def test_everything_skipped_is_a_usage_error(suites):
    result = suites("-k", "good-l0")
    result.assert_outcomes(skipped=1, deselected=20)
    assert result.ret == USAGE


def test_suites_without_a_gate_are_a_usage_error(suites):
    result = suites(lines=("suites = ['dead_latents']", "[gates]", "dead_fraction = false"))
    assert result.ret == USAGE
    result.stdout.fnmatch_lines(["saebench: nothing was measured*"])


def test_only_collecting_is_no_error(suites, no_model):
    result = suites("--collect-only", "-q")
    assert result.ret == OK
    assert "saebench" not in result.stdout.lines[-1]


# --- what is wrong is said before anything is measured ----------------------------------------------


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("modle = 'x'",), "unknown key 'modle'. Did you mean 'model'?"),
        (("[gates]", "fvee = '> 0'"), "unknown key 'fvee'. Did you mean 'fve'?"),
        (("[gates]", "fve = '>> 0'"), "'>> 0'"),
        (("suites = ['sparsty']",), "Did you mean 'sparsity'?"),
        (("suites = ['sparsity']", "[gates]", "fve = '> 0'"), "'reconstruction' is not in suites"),
    ],
)
def test_a_configuration_that_is_wrong_is_a_usage_error_that_helps(suites, lines, message):
    result = suites(lines=lines)
    assert result.ret == USAGE
    assert message in result.stderr.str() + result.stdout.str()
    assert "Traceback" not in result.stderr.str() + result.stdout.str()


def test_two_bounds_of_the_data_are_a_usage_error(suites):
    result = suites("--saebench-tokens=100", "--saebench-sequences=4")
    assert result.ret == USAGE
    assert "both n_sequences and n_tokens" in result.stderr.str() + result.stdout.str()


def test_an_output_that_cannot_be_written_is_found_before_the_model_is_loaded(
    suites, no_model, world
):
    result = suites(f"--saebench-out={world.data}/below")
    assert result.ret not in (OK, pytest.ExitCode.INTERNAL_ERROR)
    result.stdout.fnmatch_lines(["*writing to *below*Choose another directory with --out*"])


def test_a_measurement_that_fails_is_tried_once(suites, monkeypatch):
    tried = []

    def failing(*arguments, **options):
        from saebench.errors import ModelError

        tried.append(arguments)
        raise ModelError("the model", "broken", "Mend it.")

    monkeypatch.setattr("saebench.measure.measure", failing)
    result = suites("-q")
    assert result.ret == FAILED
    assert len(tried) == 1
    result.stdout.fnmatch_lines(["*the model: broken. Mend it.*"])
