"""What starting costs: importing saebench, `pytest --help` with the plugin, and the demo.

python -m pytest tests/benchmarks/bench_start.py -s
"""

import statistics
import subprocess
import sys
import time

ROUNDS = 5


def seconds(*command, cwd=None):
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=cwd)
    return time.perf_counter() - started


def median_of(rounds, *command, **options):
    return statistics.median(seconds(*command, **options) for _ in range(rounds))


def test_importing_saebench_against_starting_python():
    bare = median_of(ROUNDS, sys.executable, "-c", "pass")
    ours = median_of(ROUNDS, sys.executable, "-c", "import saebench, saebench.plugin")
    print(
        f"\nimport: python {bare:.3f} s, with saebench and its plugin {ours:.3f} s (target: 0.3 s more)"
    )
    assert ours > 0


def test_pytest_help_with_the_plugin_against_without():
    without = median_of(ROUNDS, sys.executable, "-m", "pytest", "--help", "-p", "no:saebench")
    with_it = median_of(ROUNDS, sys.executable, "-m", "pytest", "--help")
    print(f"\npytest --help: {without:.3f} s without the plugin, {with_it:.3f} s with it")
    assert with_it > 0


def test_the_demo_from_installed_to_finished(tmp_path):
    took = seconds(sys.executable, "-m", "saebench.cli", "demo", cwd=tmp_path)
    print(f"\ndemo: {took:.1f} s (target: 90 s)")
    assert (tmp_path / "saebench-demo" / "README.md").is_file()
