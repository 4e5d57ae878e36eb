"""What the pass costs, against the parts of it that nothing can avoid, and what memory it takes.

    python -m pytest tests/benchmarks/bench_pass.py -s

The shape of GPT-2 small (12 blocks of width 768, 50,257 tokens) with random weights, 32 sequences of 128
tokens, float32, TopK SAEs 768 → 24,576 with k = 32 after block 5. *Unavoidable* are: the prefix once, three
suffixes and three unembeddings (clean, spliced, ablated), and one encoder product. Each round times the
parts and the passes one after the other, and the table gives medians of the ratios within rounds.

``SAEBENCH_BENCH_ROUNDS`` is the number of rounds. ``SAEBENCH_BENCH_SMALL=1`` takes a model of two blocks of
width 64, to see that the benchmark runs: ratios at that size are of fixed costs, and are only reported.
Memory is read from ``/proc``, so that test needs Linux.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from saebench.data import stream_from_ids
from saebench.environment import environment
from saebench.evals import ReconstructionEval, SiteEval, SparsityEval
from saebench.evals.reconstruction import random_init
from saebench.models import LanguageModel
from saebench.passes import PassRequest, Subject, run_pass

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("SAEBENCH_BENCH_ROUNDS", "3"))
SMALL = os.environ.get("SAEBENCH_BENCH_SMALL") == "1"
SHAPE = {"n_layer": 2, "n_embd": 64, "n_head": 2, "vocab_size": 500} if SMALL else {}
SITE = "blocks.0.hook_resid_post" if SMALL else "blocks.5.hook_resid_post"
SEQUENCES, CONTEXT, D_SAE, K, N_SAES = 32, 128, 512 if SMALL else 24_576, 32, 4

ONE_SAE_TARGET = 1.15  # the pass for one SAE, over its unavoidable parts
FOUR_SAES_TARGET = 2.2  # the pass for four SAEs, over the pass for one
MEMORY_TARGET = 1.05  # the peak after six batches, over the peak after three


def make_model():
    torch.manual_seed(0)
    config = GPT2Config(bos_token_id=None, eos_token_id=None, **SHAPE)
    return LanguageModel(GPT2LMHeadModel(config).eval(), id="gpt2-small-shape")


def make_saes(model, n):
    return [random_init(torch.zeros(model.d_model), D_SAE, K, seed) for seed in range(n)]


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def saes(model):
    return make_saes(model, N_SAES)


def tokens(model, n_sequences, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.vocab_size, (n_sequences, CONTEXT), generator=generator)


def whole_pass(model, saes, ids):
    """Seconds of the pass with every reconstruction, prediction and sparsity metric accumulated."""
    site = model.site(SITE)
    subjects = [Subject.at(f"s{i}", sae, site) for i, sae in enumerate(saes)]
    shared = SiteEval(site)
    request = PassRequest(
        subjects,
        {shared.stack: [shared]},
        {
            s.name: [
                ReconstructionEval(shared, s.sae.cfg.width_out, predictions=True),
                SparsityEval(s.sae.cfg.d_sae, model.device),
            ]
            for s in subjects
        },
    )
    started = time.perf_counter()
    run_pass(model, stream_from_ids(ids).batches(SEQUENCES), request)
    return time.perf_counter() - started


@torch.inference_mode()
def parts(model, sae, ids):
    """Seconds of each unavoidable part, once."""
    site = model.site(SITE)
    found = {}

    def timed(name, function):
        started = time.perf_counter()
        result = function()
        found[name] = time.perf_counter() - started
        return result

    prefix = timed("prefix", lambda: model.prefix(ids, None, [site]))
    x = prefix.at(site)
    hidden = timed("suffix", lambda: model.resume(prefix, site, x)).flatten(0, 1)
    logits = torch.empty(256, model.vocab_size)
    timed("unembed", lambda: [model.unembed(h, logits[: len(h)]) for h in hidden.split(256)])
    flat, pre = x.flatten(0, 1), torch.empty(341, D_SAE)
    timed("encode", lambda: [torch.mm(c, sae.W_enc, out=pre[: len(c)]) for c in flat.split(341)])
    return found


def unavoidable(cost):
    return cost["prefix"] + 3 * (cost["suffix"] + cost["unembed"]) + cost["encode"]


def test_the_whole_pass_against_its_unavoidable_parts(model, saes):
    """Reports; asserts no time, as other work on the machine would decide. The targets stand beside."""
    ids = tokens(model, SEQUENCES)
    whole_pass(model, saes[:1], ids)  # warm-up
    rounds = []
    for _ in range(ROUNDS):
        cost = parts(model, saes[0], ids)
        one, four = whole_pass(model, saes[:1], ids), whole_pass(model, saes, ids)
        rounds.append({**cost, "unavoidable": unavoidable(cost), "one SAE": one, "four SAEs": four})
    seconds = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
    ratios = {
        name: {"measured": ratio_of(rounds, *pair), "target": target}
        for name, pair, target in (
            ("one SAE / unavoidable", ("one SAE", "unavoidable"), ONE_SAE_TARGET),
            ("four SAEs / one SAE", ("four SAEs", "one SAE"), FOUR_SAES_TARGET),
            ("four SAEs / unavoidable of one", ("four SAEs", "unavoidable"), None),
        )
    }
    report("pass", {"median seconds": seconds, "ratios": ratios, "rounds": ROUNDS})
    assert all(value > 0 for value in seconds.values())


def ratio_of(rounds, part, whole):
    """The median over rounds of a ratio within the round, with the smallest and the largest."""
    found = sorted(r[part] / r[whole] for r in rounds)
    return {"median": statistics.median(found), "min": found[0], "max": found[-1]}


def peak_mib():
    """The most memory this process ever held, in MiB.

    Not ``ru_maxrss``: that starts from the high-water mark of the process that started this one.
    """
    status = Path("/proc/self/status").read_text()
    return (
        int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
        / 2**10
    )


def peak_of_a_pass(n_sequences):
    """The peak in MiB of a process of its own that reads ``n_sequences`` for one SAE."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, __file__, str(n_sequences)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return float(done.stdout)


def test_peak_memory_does_not_grow_with_the_tokens_read():
    """Twice the tokens, the same peak: six batches against three.

    One batch against three is reported and not asserted. It is no growth with tokens (six take no more than
    three), but the peak after one batch came out up to 11 % lower, in four runs: 1514 and 1465 MiB, 1503 and
    1601, 1502 and 1661, 1539 and 1627. Where that difference comes from was not found out.
    """
    batches = (1, 3, 6)
    peaks = [peak_of_a_pass(times * SEQUENCES) for times in batches]
    found = {str(n * SEQUENCES): round(peak) for n, peak in zip(batches, peaks, strict=True)}
    report("memory", {"peak MiB by sequences read": found})
    assert peaks[2] < MEMORY_TARGET * peaks[1]


def report(name, found):
    found |= {"cores": os.cpu_count(), "machine": platform.machine(), **environment()}
    print(f"\n{name}: {json.dumps(found, indent=2)}")
    if folder := os.environ.get("SAEBENCH_BENCH_OUT"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    lm = make_model()
    whole_pass(lm, make_saes(lm, 1), tokens(lm, int(sys.argv[1])))
    print(peak_mib())
