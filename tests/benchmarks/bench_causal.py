"""What one ablation costs when hundreds go on together, against a whole forward for each, in the same run.

    python -m pytest tests/benchmarks/bench_causal.py -s

On the shipped models, with every latent of a shipped SAE at tokens on which it fires. The plain way is a
forward with a hook for every latent, probe and model, of the whole text as a notebook does it, or cut after
the probe; the clean distribution is known beforehand. Ratios are of processor time.
``SAEBENCH_BENCH_SMALL=1`` runs small sizes, to see that it runs.
``SAEBENCH_BENCH_WRITE=1`` writes reports/benchmarks/causal.json.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from saebench import load_sae
from saebench.causal import Arm, ContextIndex, shifts
from saebench.data import open_stream
from saebench.environment import environment
from saebench.models import LanguageModel
from saebench.models.steered import at_positions, steered

ROOT = Path(__file__).parents[2]
SMALL = os.environ.get("SAEBENCH_BENCH_SMALL") == "1"
WRITE = os.environ.get("SAEBENCH_BENCH_WRITE") == "1"
ROUNDS = 1 if SMALL else 3
SITE = "blocks.1.hook_resid_post"
SEQUENCES, LATENTS, PROBES = (8, 20, 4) if SMALL else (128, 1024, 32)
PLAIN = 10 if SMALL else 40  # ablations of the plain way, in each model


def the_models():
    """The shipped pair, or the shipped model and itself with noise where there is no pair."""
    base = LanguageModel.load(ROOT / "fixtures" / "model", device="cpu")
    if (ROOT / "fixtures" / "finetuned" / "config.json").exists():
        return [base, LanguageModel.load(ROOT / "fixtures" / "finetuned", device="cpu")]
    other = LanguageModel.load(ROOT / "fixtures" / "model", device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.05 * parameter.std() * noise)
    return [base, other]


def the_stream(model):
    """Held-out text of the shipped model."""
    path = ROOT / "fixtures" / "text" / "heldout.jsonl"
    return open_stream(str(path), model.tokenizer, context_size=128, n_sequences=SEQUENCES)


def indexed(model, stream, sae):
    """The contexts of an SAE's latents, from one pass up to its site, and how long reading them took."""
    index = ContextIndex(sae.cfg.d_sae, PROBES, 0)
    spent = 0.0
    for batch in stream.batches(32):
        x = model.prefix(batch.ids, batch.attention_mask, [SITE]).at(SITE)[batch.counted]
        codes = sae.codes(x)
        ids = batch.sequence_ids[:, None].expand_as(batch.counted)[batch.counted]
        places = torch.arange(batch.counted.shape[1]).expand_as(batch.counted)[batch.counted]
        started = time.perf_counter()
        index.update(codes, ids, places)
        spent += time.perf_counter() - started
    return index, spent


def plain(model, row, position, vector):
    """The next-token distribution at one token of a text, after a whole forward with a hook there."""
    ids = torch.from_numpy(row)[None]
    where = torch.zeros_like(ids, dtype=torch.bool)
    where[0, position] = True
    with steered(model, SITE, at_positions(lambda h: h - vector, where)):
        return model.model(ids, use_cache=False).logits[0, position].double().log_softmax(0)


@torch.no_grad()
def one_by_one(models, rows, probes, some, directions, clean, cut):
    """KL of some probes in every model, one forward each."""
    found = []
    for i in some:
        vector = float(probes.code[i]) * directions[probes.latent[i]]
        row, position = rows[probes.sequence[i]], probes.position[i]
        for number, model in enumerate(models):
            p = clean[i, number]
            q = plain(model, row[: position + 1] if cut else row, position, vector)
            found.append(float((p.exp() * (p - q)).sum()))
    return np.array(found)


def timed(function):
    """What a function returns, and its processor time."""
    started = time.process_time()
    return function(), time.process_time() - started


def test_ablations_together_against_one_at_a_time():
    models = the_models()
    sae = load_sae(ROOT / "fixtures" / "saes" / "batchtopk-s0")
    stream = the_stream(models[0])
    index, reading = indexed(models[0], stream, sae)
    most = np.argsort(-index.counts[0], kind="stable")[:LATENTS]
    probes = index.probes(most)
    decoder = sae.normalization.directions(sae.W_dec).detach()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(decoder.shape, generator=generator)
    drawn *= decoder.norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True)
    sites = {0: SITE, 1: SITE}
    real = Arm("real", {0: decoder, 1: decoder}, probes.latent, probes.code)
    null = Arm("random", {0: drawn, 1: drawn}, probes.latent, probes.code)
    rows = [row.ids for row in stream.sequences()]
    some = np.random.default_rng(0).choice(len(probes), PLAIN, replace=False)
    clean = {}
    with torch.no_grad():
        for i in some:
            ids = torch.from_numpy(rows[probes.sequence[i]])[None]
            for number, model in enumerate(models):
                logits = model.model(ids, use_cache=False).logits[0, probes.position[i]]
                clean[i, number] = logits.double().log_softmax(0)
    arms = {"one arm": [real], "two arms": [real, null]}
    spent = {name: [] for name in ("whole forwards", "cut forwards", *arms)}
    for _ in range(ROUNDS):
        for name, cut in (("whole forwards", False), ("cut forwards", True)):
            expected, seconds = timed(
                lambda cut=cut: one_by_one(models, rows, probes, some, decoder, clean, cut)
            )
            spent[name].append(seconds / (PLAIN * len(models)))
        for name, those in arms.items():
            done, seconds = timed(
                lambda those=those: shifts(models, stream.batches(32), sites, probes, those)
            )
            spent[name].append(seconds / (len(probes) * len(models) * len(those)))
    got = np.array([done.kl["real"][number][i] for i in some for number in (0, 1)])
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=1e-7)
    medians = {name: statistics.median(values) for name, values in spent.items()}
    report = {
        "n": {
            "probes": len(probes),
            "latents": len(np.unique(probes.latent)),
            "sequences": SEQUENCES,
            "models": len(models),
        },
        "how": done.how,
        "milliseconds an ablation": {name: 1e3 * value for name, value in medians.items()},
        "times faster": {
            f"{name} than {plain}": medians[plain] / medians[name]
            for name in arms
            for plain in ("whole forwards", "cut forwards")
        },
        "seconds of indexing": reading,
        "largest error of the shifts": float(np.abs(got / expected - 1).max()),
        "threads": torch.get_num_threads(),
        "environment": environment(),
    }
    print(json.dumps(report, indent=1))
    if WRITE and not SMALL:
        target = ROOT / "reports" / "benchmarks" / "causal.json"
        target.write_text(json.dumps(report, indent=1) + "\n")
