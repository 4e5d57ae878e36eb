"""The command line: what each command prints and leaves behind, its exit codes, and how it refuses."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from saebench import cli
from tests.small_world import SITE, make_world

OK, FAILED, USAGE = 0, 1, 4


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def saebench(capsys, monkeypatch, tmp_path):
    """Run a command in an empty folder: ``(exit code, stdout, stderr)``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.setattr("saebench.report.has_matplotlib", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)

    def run(*arguments):
        capsys.readouterr()
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def refused(saebench):
    """Run a command that has to be refused with one line on stderr; gives back that line."""

    def run(*arguments):
        code, out, err = saebench(*arguments)
        (line,) = err.strip().splitlines()
        assert code == USAGE
        assert line.startswith("saebench: ")
        assert "Traceback" not in out + err
        return line

    return run


# --- run --------------------------------------------------------------------------------------------


def test_run_measures_gates_and_writes_the_report(saebench, world, tmp_path):
    code, out, _ = saebench("run", world.good, *world.options(), "--out=reports/good")
    assert code == OK
    assert "FVE" in out
    assert "wrote reports/good/README.md" in out
    folder = tmp_path / "reports" / "good"
    assert (folder / "report.json").is_file()
    assert len(list((folder / "records").glob("good-*.json"))) == 1
    assert f"saebench run path/to/{world.good.name}" in (folder / "README.md").read_text()


def test_run_ends_with_one_where_a_gate_fails(saebench, world):
    code, out, _ = saebench("run", world.folder / "saes", *world.options(), "--out=both")
    assert code == FAILED
    assert "test_reconstruction[bad-fve]" in out
    assert "is not above the gate > 0" in out
    assert "test_reconstruction[good-fve]" not in out  # what passes is in the table


def test_another_limit_gates_what_is_kept_and_measures_nothing(saebench, world, monkeypatch):
    arguments = ("run", world.good, *world.options(), "--out=kept")
    assert saebench(*arguments)[0] == OK
    monkeypatch.delattr("saebench.passes.run_pass")
    monkeypatch.delattr("saebench.measure.jobs.run_pass")
    assert saebench(*arguments, "--gate", "fve >= 2")[0] == FAILED
    assert saebench(*arguments, "--gate", "l0 = 10..20", "--gate", "mse <= 0.1")[0] == OK
    code, out, _ = saebench(*arguments, "--gate", "l0 >= 30", "--confidence")
    assert code == FAILED
    assert "the lower bound" in out


def test_a_configuration_says_everything_and_the_rest_goes_to_pytest(saebench, world, tmp_path):
    (tmp_path / "saebench.toml").write_text(world.config())
    code, out, _ = saebench("run", "--", "-k", "good and fve", "--junit-xml=found.xml")
    assert code == OK
    assert "1 passed" in out
    assert "saebench" in (tmp_path / "found.xml").read_text()
    assert saebench("run", "--", "-k", "no_such_gate")[0] == USAGE


def test_the_settings_of_the_folder_for_pytest_play_no_part(saebench, world, tmp_path, monkeypatch):
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (tmp_path / "conftest.py").write_text("raise RuntimeError")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    assert saebench("run", world.good, *world.options())[0] == OK
    assert (tmp_path / ".saebench" / "report.json").is_file()


def test_only_throughput_needs_neither_model_nor_data(saebench, world):
    briefly = ("--", "--benchmark-max-time=0.01", "--benchmark-min-rounds=1")
    code, out, _ = saebench("run", world.good, "--suite", "throughput", *briefly)
    assert code == OK
    assert "3 passed" in out


# --- plan, inspect, card ------------------------------------------------------------------------------


def test_plan_says_what_would_run_and_what_is_there_already(saebench, world, tmp_path):
    arguments = (world.folder / "saes", *world.options(), "--batch-size=10", "--out=here")
    code, out, _ = saebench("plan", *arguments)
    assert code == OK
    assert "good: standard 16 → 32" in out
    assert "4 prefixes" in out
    assert f"{4 * (1 + 2 + 2)} suffixes" in out
    assert "to measure" in out
    saebench("run", *arguments)
    assert "every record is there" in saebench("plan", *arguments)[1]


def test_inspect_says_what_a_checkpoint_is_and_where_it_was_read(saebench, world):
    code, out, _ = saebench("inspect", world.bad)
    assert code == OK
    for text in ("topk", "24", SITE, "cfg.json", "sae_weights.safetensors"):
        assert text in out
    code, out, _ = saebench("inspect", world.bad, "--json", "--site", "blocks.0.hook_mlp_out")
    found = json.loads(out)
    assert found["facts"]["k"]["value"] == 4
    assert found["facts"]["site"] == {
        "value": "blocks.0.hook_mlp_out",
        "source": "--site blocks.0.hook_mlp_out",
        "how": "user",
    }


def test_card_writes_the_card_again_from_what_is_stored(saebench, world, tmp_path, monkeypatch):
    saebench("run", world.good, *world.options(), "--out=reports")
    monkeypatch.delattr("saebench.measure.measure")
    code, out, _ = saebench("card", "reports", "-o", "CARD.md")
    assert code == OK
    assert "wrote CARD.md" in out
    card = (tmp_path / "CARD.md").read_text()
    assert card == (tmp_path / "reports" / "README.md").read_text()
    (tmp_path / "CARD.md").write_text(card + "\nMine stays.\n")
    saebench("card", "reports", "-o", "CARD.md")
    assert "Mine stays." in (tmp_path / "CARD.md").read_text()


def test_train_makes_a_checkpoint_that_can_be_inspected(saebench, world, tmp_path):
    (tmp_path / "recipe.toml").write_text(
        f"""
        model = "{world.model}"
        data = "{world.data}"
        site = "{SITE}"
        architecture = "topk"
        d_sae = 32
        k = 4
        tokens = 512
        batch_size = 64
        buffer_size = 128
        model_batch_size = 4
        context_size = 16
        heldout_tokens = 64
        out = "made"
        """
    )
    code, out, err = saebench("train", "recipe.toml")
    assert code == OK, err
    assert f"made: SAE of {SITE}, topk, k 4, 32 latents" in out
    assert "training: 512 of 512 tokens" in err  # which is no terminal here
    assert "topk" in saebench("inspect", "made")[1]


def test_the_help_of_train_names_all_that_can_be_trained(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    found = capsys.readouterr().out
    assert "difference SAEs and crosscoders" in found
    assert 'reads = "difference_ftb"' in found
    assert 'reads = "models"' in found


# --- what is wrong is one message --------------------------------------------------------------------


def test_checkpoints_that_are_not_there(refused, tmp_path):
    assert "'nowhere': no such file or folder" in refused("inspect", "nowhere")
    assert "no such file or folder" in refused("run", "nowhere")
    assert "org/repo" in refused("inspect", "hf:bad")
    (tmp_path / "empty").mkdir()
    assert "no weight file" in refused("inspect", "empty")


def test_a_run_that_names_too_little(refused, world):
    assert "checkpoints to measure: none" in refused("run")
    assert "text to measure on: none" in refused("run", world.good, f"--model={world.model}")
    assert "'counting'" in refused(
        "run", world.good, f"--data={world.data}"
    )  # what it was made for


def test_a_model_that_is_not_there(refused, world):
    line = refused("run", world.good, "--model=./nowhere", f"--data={world.data}")
    assert "nowhere" in line
    line = refused("run", world.good, f"--model={world.good}", f"--data={world.data}")
    assert "has no model_type" in line or "config.json" in line


def test_data_that_is_not_there_or_too_short(refused, world, tmp_path):
    arguments = ("run", world.good, f"--model={world.model}", "--context-size=16")
    assert "nowhere.jsonl" in refused(*arguments, "--data=nowhere.jsonl")
    (tmp_path / "empty.txt").write_text("")
    assert "empty.txt" in refused(*arguments, "--data=empty.txt")
    assert "context_size" in refused(*arguments, f"--data={world.data}", "--context-size=1")
    assert "at most 32" in refused(*arguments, f"--data={world.data}", "--context-size=64")


def test_a_checkpoint_for_a_model_of_another_width(refused, world, tmp_path):
    from saebench.train import save_checkpoint
    from tests.small_runs import random_sae

    wide = random_sae(width=20)
    save_checkpoint(wide, tmp_path / "wide")
    line = refused("run", "wide", *world.options(), f"--site={SITE}")
    assert "d_in 20" in line
    assert "width 16" in line


def test_a_site_that_is_missing_or_that_the_model_lacks(refused, world, tmp_path):
    from saebench.train import save_checkpoint
    from tests.small_runs import random_sae

    save_checkpoint(random_sae(), tmp_path / "homeless")
    assert "--site" in refused("run", "homeless", *world.options())
    assert "3 layers" in refused(
        "run", "homeless", *world.options(), "--site=blocks.7.hook_resid_post"
    )


def test_options_that_make_no_sense(refused, world):
    arguments = ("run", world.good, *world.options())
    assert "fve" in refused(*arguments, "--gate", "fvee > 0")
    assert "'>> 0'" in refused(*arguments, "--gate", "fve >> 0")
    assert "sparsity" in refused(*arguments, "--suite", "sparsty")
    assert "float32" in refused(*arguments, "--precision", "float31")
    assert "Keep the one" in refused(*arguments, "--tokens=100", "--sequences=3")


def test_an_output_that_cannot_be_written_is_found_before_the_model_is_read(
    refused, world, monkeypatch
):
    monkeypatch.setattr("saebench.model_choice.locate", lambda *_, **__: pytest.fail("too late"))
    assert "Choose another directory" in refused(
        "run", world.good, *world.options(), f"--out={world.data}/below"
    )


def test_a_failed_run_leaves_earlier_results_alone(saebench, world, tmp_path):
    arguments = ("run", world.good, *world.options(), "--out=kept")
    saebench(*arguments)
    before = {p: p.read_bytes() for p in (tmp_path / "kept").rglob("*") if p.is_file()}
    assert saebench(*arguments, "--data=nowhere.jsonl")[0] == USAGE
    assert saebench("run", "nowhere", *world.options(), "--out=kept")[0] == USAGE
    assert {p: p.read_bytes() for p in (tmp_path / "kept").rglob("*") if p.is_file()} == before


def test_a_hub_that_cannot_be_reached_is_one_message(refused, world):
    assert "org/none" in refused("inspect", "hf:org/none")
    assert "org/none" in refused("run", "hf:org/none", *world.options())
    assert "org/none" in refused("run", world.good, "--model=org/none", f"--data={world.data}")
    hub_data = ("--data=hf:org/none#train:text", "--context-size=16")
    assert "org/none" in refused("run", world.good, f"--model={world.model}", *hub_data)


def test_other_commands_refuse_what_is_not_there(refused, tmp_path):
    assert "report folder nowhere" in refused("card", "nowhere")
    (tmp_path / "empty").mkdir()
    assert "empty" in refused("card", "empty")
    assert "recipe.toml" in refused("train", "recipe.toml")


def test_control_characters_of_an_error_do_not_reach_the_terminal(saebench):
    code, _, err = saebench("inspect", "no\x1b]0;title\x07where")
    assert code == USAGE
    assert err.rstrip("\n").isprintable()
    assert "where" in err


def test_the_lines_of_an_error_are_kept(saebench, monkeypatch):
    from saebench.errors import CheckpointError

    def refuse(*_, **__):
        raise CheckpointError("a sheet", "one\n  two\x1b[2J", "Say which")

    monkeypatch.setattr("saebench.loading.inspect", refuse)
    assert saebench("inspect", "x")[2] == "saebench: a sheet: one\n  two [2J. Say which.\n"


def test_debug_shows_where_an_error_comes_from(saebench):
    from saebench.errors import SaebenchError

    with pytest.raises(SaebenchError, match="nowhere"):
        saebench("inspect", "nowhere", "--debug")


@pytest.mark.parametrize("arguments", [(), ("frobnicate",), ("run", "--no-such"), ("inspect",)])
def test_arguments_that_cannot_be_parsed_have_the_exit_code_of_usage(saebench, arguments):
    code, _, err = saebench(*arguments)
    assert code == USAGE
    assert "usage: saebench" in err


def test_an_interrupt_is_no_traceback(saebench, world, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("saebench.measure.measure", interrupt)
    code, _, err = saebench("run", world.good, *world.options())
    assert code == 2
    assert "interrupted" in err


# --- help --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["demo", "run", "plan", "inspect", "train", "card"])
def test_help_of_every_command_teaches(saebench, command):
    code, out, _ = saebench(command, "--help")
    assert code == OK
    assert f"usage: saebench {command}" in out
    assert command in saebench("--help")[1]


def test_the_version_is_printed(saebench):
    from saebench import __version__

    assert saebench("--version")[1] == f"saebench {__version__}\n"


def test_help_and_errors_of_arguments_import_nothing_heavy():
    script = "import sys; from saebench import cli; sys.argv = ['saebench', {!r}]\n"
    script += "try: cli.main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    for argument in ("--help", "frobnicate"):
        done = subprocess.run(
            [sys.executable, "-c", script.format(argument)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
