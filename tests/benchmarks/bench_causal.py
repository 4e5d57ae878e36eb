"""What one ablation costs when hundreds go on together, against a whole forward for each, in the same run.

    python -m pytest tests/benchmarks/bench_causal.py -s

On the shipped models, with latents of a shipped SAE at the tokens on which they fire. The plain way is a
forward with a hook for every latent, probe and model, as a notebook does it: cut after the probe, the clean
distribution known beforehand. ``SAEBENCH_BENCH_SMALL=1`` runs small sizes, to see that it runs.
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
ROUNDS = 1 if SMALL else 5
SITE = "blocks.1.hook_resid_post"
SEQUENCES, LATENTS, PROBES = (8, 20, 4) if SMALL else (256, 400, 32)
PLAIN = 10 if SMALL else 60  # ablations of the plain way, in each model


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
    """KL of one ablation by a whole forward of the text up to its token."""
    ids = torch.from_numpy(row[: position + 1])[None]
    where = torch.zeros_like(ids, dtype=torch.bool)
    where[0, position] = True
    with steered(model, SITE, at_positions(lambda h: h - vector, where)):
        return model.model(ids, use_cache=False).logits[0, position].double().log_softmax(0)


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
    timings = {"plain": [], "real": [], "real and random": []}
    found = {}
    for _ in range(ROUNDS):
        started = time.perf_counter()
        with torch.no_grad():
            for i in some:
                vector = float(probes.code[i]) * decoder[probes.latent[i]]
                for number, model in enumerate(models):
                    p = clean[i, number]
                    q = plain(model, rows[probes.sequence[i]], probes.position[i], vector)
                    found[i, number] = float((p.exp() * (p - q)).sum())
        timings["plain"].append((time.perf_counter() - started) / (PLAIN * len(models)))
        for name, arms in (("real", [real]), ("real and random", [real, null])):
            started = time.perf_counter()
            done = shifts(models, stream.batches(32), sites, probes, arms)
            n = len(probes) * len(models) * len(arms)
            timings[name].append((time.perf_counter() - started) / n)
    expected = np.array([found[i, number] for i in some for number in (0, 1)])
    got = np.array([done.kl["real"][number][i] for i in some for number in (0, 1)])
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=1e-7)
    medians = {name: statistics.median(values) for name, values in timings.items()}
    report = {
        "n": {"probes": len(probes), "latents": LATENTS, "sequences": SEQUENCES},
        "how": done.how,
        "milliseconds an ablation": {name: 1e3 * value for name, value in medians.items()},
        "times faster": {
            name: medians["plain"] / medians[name] for name in ("real", "real and random")
        },
        "seconds of indexing": reading,
        "largest error of the shifts": float(np.abs(got / expected - 1).max()),
        "threads": torch.get_num_threads(),
        "environment": environment(),
    }
    print(json.dumps(report, indent=1))
    if not SMALL:
        assert min(report["times faster"].values()) > 0
    if WRITE and not SMALL:
        target = ROOT / "reports" / "benchmarks" / "causal.json"
        target.write_text(json.dumps(report, indent=1) + "\n")
