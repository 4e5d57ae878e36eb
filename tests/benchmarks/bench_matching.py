"""What matching two large dictionaries costs, beside scipy's dense solver in the same run.

    python -m pytest tests/benchmarks/bench_matching.py -s
    python tests/benchmarks/bench_matching.py 24576 half dense     # one case: size, kind, and "dense" too

Dictionaries of width 768: *half* share every second direction (cosine about .9, permuted), *independent*
share nothing. Each case runs in a process of its own on two threads, whose peak memory is reported. The
dense solver is timed with its float64 product: 5.8 GB at 16,384, 12.5 GB at 24,576.

``SAEBENCH_BENCH_SIZES`` lists the sizes (16384,24576,73728); ``SAEBENCH_BENCH_DENSE`` is the largest size
that the dense solver gets (16384). ``SAEBENCH_BENCH_SMALL=1`` runs 3,000 rows, to see that it runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from saebench.environment import environment
from saebench.matching import CosineScores, match_directions

ROOT = Path(__file__).parents[2]
SMALL = os.environ.get("SAEBENCH_BENCH_SMALL") == "1"
SIZES = [int(m) for m in os.environ.get("SAEBENCH_BENCH_SIZES", "16384,24576,73728").split(",")]
DENSE_UP_TO = int(os.environ.get("SAEBENCH_BENCH_DENSE", "16384"))
WIDTH = 768


def dictionaries(m, kind):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(m, WIDTH, generator=generator) for _ in "ab")
    if kind == "half":
        b[::2] = a[::2] + 0.5 * torch.randn(len(b[::2]), WIDTH, generator=generator)
        b = b[torch.randperm(m, generator=generator)]
    return a, b


def peak_mib():
    """The most memory this process ever held, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) / 2**10


def timed(function):
    started, used = time.perf_counter(), time.process_time()
    result = function()
    return result, time.perf_counter() - started, time.process_time() - used


def case(m, kind, dense):
    torch.set_num_threads(2)
    a, b = dictionaries(m, kind)
    before = peak_mib()
    found, seconds, cpu = timed(lambda: match_directions(a, b))
    report = {
        "rows": m,
        "kind": kind,
        "seconds": seconds,
        "cpu seconds": cpu,
        "peak MiB": peak_mib(),
        "peak MiB before": before,
        "total": found.total,
        "bound - total": found.bound - found.total,
        "certified": found.certified,
        "rounds": found.rounds,
        "exact candidates per row": found.n_candidates / m,
    }
    if dense:
        scores, product, _ = timed(lambda: CosineScores(a, b).dense())
        (rows, columns), solved, solved_cpu = timed(
            lambda: linear_sum_assignment(scores, maximize=True)
        )
        total = float(scores[rows, columns].sum())
        report |= {
            "dense seconds": product + solved,
            "dense solver alone": solved,
            "dense solver cpu seconds": solved_cpu,
            "dense total - total": total - found.total,
            "dense / candidates": (product + solved) / seconds,
            "dense solver alone / candidates": solved / seconds,
        }
    return report


def run_case(m, kind, dense):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, __file__, str(m), kind, *(["dense"] if dense else [])],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["half", "independent"])
@pytest.mark.parametrize("m", [3000] if SMALL else SIZES)
def test_matching_large_dictionaries(m, kind):
    """Reports; asserts no time, as other work on the machine would decide."""
    found = run_case(m, kind, m <= DENSE_UP_TO and kind == "half")
    print(f"\nmatching: {json.dumps(found | environment(), indent=2)}")
    assert found["bound - total"] >= 0


if __name__ == "__main__":
    print(json.dumps(case(int(sys.argv[1]), sys.argv[2], "dense" in sys.argv[3:]), indent=2))
