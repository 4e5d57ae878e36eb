"""Silence where nobody asked, and the same verdicts with xdist, without the plugin's neighbours."""

from __future__ import annotations

import json
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from tests.plugin.conftest import items

pytest_plugins = ["pytester"]

HEAVY = ("torch", "transformers", "numpy", "datasets", "huggingface_hub")
PROBE = """
import sys
import pytest

status = pytest.main(sys.argv[1:])
heavy = [name for name in {heavy} if name in sys.modules]
assert not heavy, heavy
sys.exit(status)
"""


def probed(folder, *arguments):
    """pytest in a process of its own that fails when anything heavy was imported."""
    command = [sys.executable, "-c", PROBE.format(heavy=HEAVY), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)


def test_help_teaches_the_options_and_imports_nothing_heavy(tmp_path):
    done = probed(tmp_path, "--help")
    assert done.returncode == 0, done.stderr
    for option in ("config", "sae", "model", "data", "out", "gate", "suite", "batch-size"):
        assert f"--saebench-{option}" in done.stdout


def test_a_session_without_saebench_is_silent_and_imports_nothing_heavy(tmp_path):
    (tmp_path / "saebench.toml").write_text("this is = not TOML = at all")
    source = "def test_right():\n    pass\n\ndef test_wrong():\n    assert [1.0] == [2.0]\n"
    (tmp_path / "test_plain.py").write_text(source)
    done = probed(tmp_path, "-q", "-p", "no:cacheprovider")
    assert done.returncode == 1, done.stderr
    assert "saebench" not in done.stdout + done.stderr
    assert not (tmp_path / ".saebench").exists()


def test_a_broken_configuration_is_refused_before_anything_heavy_is_imported(tmp_path):
    (tmp_path / "saebench.toml").write_text("modle = 'x'")
    done = probed(tmp_path, "--pyargs", "saebench.suites", "--saebench-config=saebench.toml")
    assert done.returncode == 4
    assert done.stderr.count("Did you mean 'model'?") == 1


def test_without_the_plugin_its_options_are_unknown(run):
    assert run("-p", "no:saebench").ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result = run("-p", "no:saebench", "--saebench-model=x")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*unrecognized arguments: --saebench-model=x*"])


def test_the_marker_is_registered(run):
    run("--markers").stdout.fnmatch_lines(["@pytest.mark.saebench(suite)*"])


# --- throughput --------------------------------------------------------------------------------------

BRIEFLY = ("--benchmark-max-time=0.01", "--benchmark-min-rounds=1", "--benchmark-warmup=off")


def test_throughput_times_load_encode_and_decode_and_needs_no_model(suites, monkeypatch):
    monkeypatch.delattr("saebench.measure.measure")
    result = suites("-v", *BRIEFLY, lines=("suites = ['throughput']",), saes=("good",))
    assert items(result, "PASSED") == {
        f"test_{what}[good]" for what in ("load", "encode", "decode")
    }
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*benchmark: 3 tests*"])


# --- xdist -------------------------------------------------------------------------------------------


def test_two_workers_measure_once_and_give_the_same_verdicts(suites, pytester, world):
    suites = ("'throughput'", "'reconstruction'", "'sparsity'", "'dead_latents'")
    lines = (f"suites = [{', '.join(suites)}]", "batch_size = 10")
    (pytester.path / "saebench.toml").write_text(world.config(*lines, out="fresh"))
    result = pytester.runpytest_inprocess(
        *("-n", "2", "-p", "no:cacheprovider", "--pyargs", "saebench.suites"),
        *("--saebench-config=saebench.toml", "--junit-xml=found.xml", "-v"),
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=5 + 6, failed=2, skipped=1)
    result.stdout.fnmatch_lines(["*= saebench =*", "wrote *README.md"])
    records = list((pytester.path / "fresh" / "records").glob("*.json"))
    assert len(records) == 2
    for path in records:
        record = json.loads(path.read_text())
        n_batches = -(-record["data"]["n_sequences"] // 10)
        assert record["passes"]["suffix"] == n_batches * (1 + 2 + 2)  # both in one pass
    found = {}
    for case in ElementTree.parse(pytester.path / "found.xml").getroot().iter("testcase"):
        entry = {p.get("name"): p.get("value") for p in case.iter("property")}
        if "saebench.status" in entry:
            found[entry["saebench.name"], entry["saebench.metric"]] = entry["saebench.status"]
    assert found == {
        ("good", "fve"): "PASS",
        ("good", "ce_recovered"): "PASS",
        ("good", "dead_fraction"): "PASS",
        ("bad", "fve"): "FAIL",
        ("bad", "ce_recovered"): "FAIL",
        ("bad", "l0"): "PASS",
        ("bad", "dead_fraction"): "PASS",
    }


def test_with_workers_a_wrong_configuration_is_refused_once(run, pytester):
    (pytester.path / "saebench.toml").write_text("[[sae]]\nref = 'nowhere'\n")
    result = run("-n", "2", "--pyargs", "saebench.suites", "--saebench-config=saebench.toml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.stderr.str().count("nowhere") >= 1
    assert "INTERNALERROR" not in result.stdout.str()
