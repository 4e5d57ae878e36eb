"""What nulls of concepts, shuffled probes and precision regimes cost, against a plain way in the same run.

    python -m pytest tests/benchmarks/bench_concepts.py -s

``SAEBENCH_BENCH_SMALL=1`` runs small sizes, to see that it runs.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from saebench.concepts import Columns, Exchange, permuted, separate
from saebench.environment import environment
from saebench.models import LanguageModel
from saebench.probing.cv_folds import draw_folds
from saebench.probing.cv_null import null_of

ROOT = Path(__file__).parents[2]
SMALL = os.environ.get("SAEBENCH_BENCH_SMALL") == "1"
ROUNDS = 1 if SMALL else 3
REGIMES = ("float32", "bfloat16", "float16", "int8", "nf4", "nf4+double", "fp4", "fp8", "rtn4")


def codes(n, m, active, seed=0):
    """Codes ``[n, m]`` with about so many active a row, and labels of two equal classes."""
    generator = np.random.default_rng(seed)
    values = sparse.random_array(
        (n, m), density=active / m, format="csr", dtype=np.float32, rng=generator
    )
    return values, np.arange(n) % 2 == 0


def seconds(function):
    """The median of some rounds, wall clock and processor."""
    walls, cpus = [], []
    for _ in range(ROUNDS):
        started, used = time.perf_counter(), time.process_time()
        function()
        walls.append(time.perf_counter() - started)
        cpus.append(time.process_time() - used)
    return {"seconds": statistics.median(walls), "cpu seconds": statistics.median(cpus)}


def null(n, m, active, n_permutations):
    """The null of d_max, AUROC and n over 1, against d of every column for one arrangement, in a loop."""
    x, labels = codes(n, m, active)
    columns = Columns.of(x)
    ranks = columns.ranks()
    exchange = Exchange.of(labels)
    found = separate(columns, ranks, labels)
    ours = seconds(lambda: permuted(columns, ranks, found, exchange, n_permutations, 0))

    def plain():
        dense = x.toarray()
        a, b = dense[labels], dense[~labels]
        pooled = np.sqrt((a.var(0, ddof=1) + b.var(0, ddof=1)) / 2)
        return np.divide(a.mean(0) - b.mean(0), pooled, where=pooled > 0, out=np.zeros(m))

    one = seconds(plain)
    ratio = one["cpu seconds"] * n_permutations / ours["cpu seconds"]
    return {
        "n": n,
        "m": m,
        "active": active,
        "permutations": n_permutations,
        **ours,
        "d alone, dense": ratio,
    }


def shuffles(n, m, active, n_permutations):
    """The null of a cross-validated probe, against scikit-learn's fits of one shuffle times their number."""
    x, labels = codes(n, m, active)
    folds = draw_folds(labels, None, n_folds=5, n_repeats=1, seed=0)
    ours = seconds(lambda: null_of(x, folds, n_permutations, 1.0))

    def plain():
        for train, test in folds.splits(0):
            scale = StandardScaler(with_mean=False).fit(x[train])
            fit = LogisticRegression(solver="newton-cg").fit(
                scale.transform(x[train]), labels[train]
            )
            fit.decision_function(scale.transform(x[test]))

    one = seconds(plain)
    ratio = one["cpu seconds"] * n_permutations / ours["cpu seconds"]
    return {
        "n": n,
        "m": m,
        "active": active,
        "shuffles": n_permutations,
        **ours,
        "scikit-learn": ratio,
    }


def regimes():
    """One forward of 8 × 128 tokens of the shipped model in each regime, against float32."""
    ids = (torch.arange(128) + 4).expand(8, -1)
    found = {}
    for name in REGIMES:
        model = LanguageModel.load(ROOT / "fixtures" / "model", precision=name, device="cpu")
        with torch.no_grad():
            model.model(ids)
            spent = seconds(lambda m=model: m.model(ids))
        said = model.identity()["precision"]
        found[name] = {**spent, "backend": said["backend"], "emulated": said["emulated"]}
    for spent in found.values():
        spent["against float32"] = spent["cpu seconds"] / found["float32"]["cpu seconds"]
    return found


def test_nulls_probes_and_regimes():
    scale = 10 if SMALL else 1
    report = {
        "nulls": [
            null(400 // scale, 6144 // scale, 64, 1000 // scale),
            null(4000 // scale, 24_576 // scale, 256 // scale, 1000 // scale),
        ],
        "shuffled probes": [
            shuffles(40, 6144 // scale, 64, 1000 // scale),
            shuffles(400 // scale, 6144 // scale, 64, 1000 // scale),
        ],
        "regimes": regimes(),
        "threads": torch.get_num_threads(),
        "environment": environment(),
    }
    print(json.dumps(report, indent=1))
    assert all(row["seconds"] > 0 for row in report["nulls"])
    if not SMALL:
        target = ROOT / "reports" / "benchmarks" / "concepts.json"
        target.write_text(json.dumps(report, indent=1) + "\n")
