"""Records as a real measurement leaves them, with numbers made by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from datetime import date
from typing import Any

from saebench.gates import Gate, Verdict, Waiver, judge_record, parse_limit
from saebench.metrics.definitions import definition
from saebench.record import Measurement, Record

N_TOKENS, N_SEQUENCES = 65_024, 512
TODAY = date(2026, 6, 1)

NUMBERS: Mapping[str, tuple[float, float | None, float | None]] = {
    "fve": (0.8123456, 0.80611, 0.81827),
    "fve_legacy": (0.7912, 0.7840, 0.7979),
    "fve_uncentred": (0.9641, 0.9630, 0.9652),
    "mse": (41.2345, 40.102, 42.377),
    "cosine": (0.9412, 0.9391, 0.9433),
    "l2_ratio": (0.9623, 0.9611, 0.9635),
    "relative_reconstruction_bias": (0.9871, 0.9866, 0.9876),
    "l0": (31.874, 31.81, 31.93),
    "l1": (118.2, 117.5, 118.9),
    "dead_fraction": (0.0415, 0.0371, 0.0459),
    "alive": (1963.0, None, None),
    "freq_over_1_percent": (0.31, 0.301, 0.319),
    "freq_over_10_percent": (0.0127, 0.0098, 0.0156),
    "ce_clean": (4.0123, 3.982, 4.043),
    "ce_spliced": (4.1881, 4.157, 4.22),
    "ce_zero": (8.9012, 8.81, 8.99),
    "ce_mean": (6.7301, 6.69, 6.77),
    "ce_delta": (0.1758, 0.1702, 0.1815),
    "ce_recovered": (0.9640, 0.9627, 0.9653),
    "ce_recovered_mean": (0.9353, 0.9331, 0.9376),
    "kl": (0.1923, 0.1871, 0.1979),
    "kl_zero": (5.312, 5.22, 5.41),
    "kl_recovered": (0.9638, 0.9626, 0.9649),
    "fve_mean_predictor": (0.0, None, None),
    "fve_random_init": (0.2871, 0.2812, 0.2934),
    "fve_pca": (0.6613, None, None),
}
DETAILS = {
    "fve_pca": {"components": 32},
    "dead_fraction": {
        "n_latents": 2048,
        "dead": 85,
        "density_upper_bound": 3 / N_TOKENS,
        "alive_rise_last_doubling": 0.021,
        "window_too_short": True,
    },
}


def make_record(name: str = "topk-s0", **parts: Any) -> Record:
    """A record of a TopK SAE on a small model; ``shift`` moves the FVE, other keys replace whole parts."""
    shift, alive = parts.pop("shift", 0.0), parts.pop("alive", 1963)
    missing: Mapping[str, str] = parts.pop("missing", {})
    measurements = {m.metric: m for m in _measurements(shift, missing)}
    known = {
        "key": parts.pop("key", f"{abs(hash_of(name)):064x}"),
        "checkpoint": {**make_checkpoint(name), **parts.pop("checkpoint", {})},
        "model": {
            "id": "fixtures/model",
            "revision": None,
            "class": "GPTNeoXForCausalLM",
            "dtype": "float32",
            "device": "cpu",
            "digest": "5f" * 32,
        },
        "data": {
            "spec": "fixtures/text/heldout.jsonl",
            "digest": "d1" * 32,
            "n_sequences": N_SEQUENCES,
            "n_tokens": 65_536,
            "n_tokens_counted": N_TOKENS,
            "context_size": 128,
            "mask": "special",
            "pack": True,
        },
        "policy": {
            "mask": "special",
            "uncounted_positions": "keep their clean activation in every continuation",
            "ablation": "zero, and the mean over the first 32 sequences",
            "resampling": "sequences, in at most 512 groups",
            "n_resamples": 1000,
            "seed": 0,
        },
        "measurements": measurements,
        "definitions": {metric: definition(metric).to_json() for metric in measurements},
        "curves": make_curves(alive),
        "passes": {"prefix": 32, "suffix": 96},
        "environment": {"saebench": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
        "created": "2026-05-30T12:00:00+00:00",
        "seconds": 21.5,
    }
    return Record(**{**known, **parts})


def hash_of(text: str) -> int:
    """A number from a text that is the same in every process."""
    return sum(ord(char) * 131**place for place, char in enumerate(text))


def make_checkpoint(name: str) -> dict[str, Any]:
    """The ``checkpoint`` part of a record."""
    fact = {"source": "cfg.json: d_sae", "how": "file"}
    return {
        "name": name,
        "reference": f"fixtures/saes/{name}",
        "commit": None,
        "files": {"cfg.json": "ab" * 32, "sae_weights.safetensors": "cd" * 32},
        "digest": "ef" * 32,
        "format": "saelens",
        "cfg": {
            "architecture": "topk",
            "d_in": 128,
            "d_sae": 2048,
            "d_out": 128,
            "k": 32,
            "site": "blocks.2.hook_resid_post",
            "site_out": None,
            "model": "fixtures/model",
            "dtype": "float16",
            "normalization": "none",
        },
        "facts": {
            "architecture": {"value": "topk", "source": "cfg.json: architecture", "how": "file"},
            "d_sae": {"value": 2048, **fact},
            "site": {"value": "blocks.2.hook_resid_post", "source": "--site", "how": "user"},
            "normalization": {"value": "none", "source": "the format's default", "how": "assumed"},
        },
        "notes": ["the decoder rows have unit norm"],
        "provenance": make_provenance(),
    }


def make_provenance(**parts: Any) -> dict[str, Any]:
    """What our trainer leaves in ``cfg.json``, beside the keys of SAELens; ``parts`` replace its own."""
    ours = {
        "version": "0.1.0",
        "recipe": {
            "architecture": "topk",
            "expansion": 16,
            "d_sae": None,
            "k": 32,
            "tokens": 2_000_000,
            "batch_size": 2048,
            "lr": 0.0005,
            "warmup": 0.05,
            "betas": [0.9, 0.999],
        },
        "seeds": {"weights": 0, "shuffle": 7},
        "tokens": 2_000_000,
        "final": {"fve": 0.8119, "l0": 32.0, "loss": 0.171},
        "dead_window": 500_000,
        "model": {"id": "fixtures/model", "digest": "5f" * 32},
        "data": {
            "spec": "fixtures/text/train.jsonl",
            "sequences_read": 15_770,
            "epochs": 3,
            "digest": "7a" * 32,
        },
        "tokens_per_second": 16334.4,
        "environment": {"torch": "2.13.0"},
    }
    layout = {
        "sae_lens_version": "6.0.0",
        "model_name": "fixtures/model",
        "context_size": 128,
        "training_architecture_details": {"k": 32},
    }
    return {**layout, "saebench": {**ours, **parts}}


def make_curves(alive: int, d_sae: int = 2048) -> dict[str, Any]:
    """An alive curve that saturates, and a log-normal density spectrum."""
    points = []
    for power in range(10):
        n_tokens = 127 * 2**power
        fired = alive * (1 - math.exp(-((n_tokens / 1500) ** 0.55)))
        points.append({"n_sequences": 2**power, "n_tokens": n_tokens, "alive": int(fired)})
    points[-1]["alive"] = alive
    draw = random.Random(alive)
    edges = [round(-8 + 0.2 * step, 6) for step in range(41)]
    counts = [0] * 40
    for _ in range(alive):
        log10 = min(max(draw.gauss(-2.4, 0.65), -4.8), -0.2)
        counts[int((log10 + 8) / 0.2)] += 1
    spectrum = {"log10_edges": edges, "counts": counts, "dead": d_sae - alive, "n_tokens": N_TOKENS}
    return {"alive": points, "density": {**spectrum, "quantiles": {"0.5": 0.004}}}


def section(card: str, title: str) -> str:
    """What stands under a second-level heading of a card."""
    return card.partition(f"## {title}\n")[2].partition("\n## ")[0].strip()


def make_verdicts(record: Record, *waivers: Waiver, **limits: str) -> list[Verdict]:
    """Verdicts of a record under limits by metric: ``make_verdicts(record, fve=">= 0.85")``."""
    gates = [Gate(metric, parse_limit(limit)) for metric, limit in limits.items()]
    return list(judge_record(gates, record, waivers=waivers, today=TODAY))


def _measurements(shift: float, missing: Mapping[str, str]) -> list[Measurement]:
    found = []
    for name, (value, low, high) in NUMBERS.items():
        metric = definition(name).metric
        if name in missing:
            found.append(Measurement(metric, None, n_tokens=N_TOKENS, reason=missing[name]))
            continue
        move = shift if name == "fve" else 0.0
        bounds = [bound + move if bound is not None else None for bound in (low, high)]
        found.append(
            Measurement(
                metric,
                value + move,
                *bounds,
                n_tokens=N_TOKENS,
                n_sequences=N_SEQUENCES,
                interval="percentile bootstrap over sequences" if low is not None else "",
                detail=DETAILS.get(name, {}),
            )
        )
    return found
