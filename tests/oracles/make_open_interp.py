"""OpenInterpretability crosscoders over two models, with the formulas of its notebook in torch.

The notebook is no package: nothing can be installed to compare with. Options and output as in
make_saelens.py: the files that it publishes, and a checkpoint of a run that had not ended.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

LIBRARY = None
SCALES = (0.21, 0.34)
K = 5


def config(d_in: int, d_sae: int) -> dict[str, Any]:
    return {
        "architecture": "cross_model_crosscoder",
        "variant": "BatchTopK with JumpReLU inference threshold",
        "reference": "Lindsey 2024 + Anthropic Jan-2025 update + Minder NeurIPS 2025",
        "base_model": "google/gemma-2-2b",
        "chat_model": "google/gemma-2-2b-it",
        "layer": 13,
        "d_model": d_in,
        "expansion": 32,
        "n_features": d_sae,
        "k_batchtopk": K,
        "k_warmup_init": 1000,
        "k_warmup_steps": 2000,
        "token_budget": 100000000,
        "seq_len": 1024,
        "lr": 0.0001,
        "dec_init_norm": 1.0,
        "norm_scale_A": SCALES[0],
        "norm_scale_B": SCALES[1],
        "val_metrics": {"ve_A": 0.8773, "ve_B": 0.8666, "L0": 100.5, "dead_frac": 0.4289},
        "taxonomy_counts": {"shared": d_sae - 3, "dead": 2, "chat_only": 1},
    }


def weights(d_in: int, d_sae: int) -> dict[str, Tensor]:
    found = {
        "W_enc": torch.randn(2, d_in, d_sae) * (2 * d_in) ** -0.5,
        "W_dec": torch.randn(d_sae, 2, d_in) * d_in**-0.5,
        "b_enc": torch.randn(d_sae) * 0.2,
        "b_dec": torch.randn(2, d_in) * 0.2,
        "threshold": torch.rand(d_sae),
    }
    found["threshold"][: d_sae // 4] = 0.0  # latents that survived nowhere
    return found


def encode(w: dict[str, Tensor], h: Tensor, threshold: Tensor) -> Tensor:
    centred = h - w["b_dec"]
    pre = torch.einsum("bmd,mdf->bf", centred, w["W_enc"]) + w["b_enc"]
    return torch.where(pre > threshold, torch.relu(pre), torch.zeros_like(pre))


def measure(w: dict[str, Tensor], x: Tensor, threshold: Tensor) -> dict[str, Tensor]:
    scale = torch.tensor(SCALES)[:, None]
    codes = encode(w, x * scale, threshold)
    decoded = (torch.einsum("bf,fmd->bmd", codes, w["W_dec"]) + w["b_dec"]) / scale
    return {"x": x, "codes": codes, "decoded": decoded, "output": decoded.clone()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--d-in", type=int, default=16)
    parser.add_argument("--d-sae", type=int, default=64)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--golden", action="store_true", help="every case is a golden one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    out, (d_in, d_sae) = options.out, (options.d_in, options.d_sae)
    for name in ("expected", "final", "resume"):
        (out / name).mkdir(parents=True, exist_ok=True)
    w = weights(d_in, d_sae)
    x = torch.randn(options.rows, 2, d_in) * torch.tensor([5.0, 3.0])[:, None]

    final = out / "final"
    save_file(w, final / "crosscoder_final.safetensors")
    (final / "cfg.json").write_text(json.dumps(config(d_in, d_sae), indent=2))
    taxonomy = {"thresholds": {"base_only": [0, 0.1]}, "features": [{"feature": 0}]}
    (final / "feature_taxonomy.json").write_text(json.dumps(taxonomy))
    (final / "train_log.json").write_text(json.dumps({"step": [0, 50], "loss": [9.5, 8.25]}))
    save_file(measure(w, x, w["threshold"]), out / "expected" / "final.safetensors")

    unset = {**w, "threshold": torch.zeros(d_sae)}
    run = {"cc": unset, "opt": {"state": {}, "param_groups": []}, "step": 500, "tokens_seen": 4096}
    log = {"step": [0], "loss": [9.5]}
    torch.save({**run, "log": log, "cfg": config(d_in, d_sae)}, out / "resume/crosscoder_resume.pt")
    (out / "resume/cfg.json").write_text(json.dumps(config(d_in, d_sae), indent=2))
    found = measure(w, x, torch.full((d_sae,), 0.4))
    save_file(found, out / "expected" / "resume.safetensors")
    settings = {"resume": {"settings": {"threshold": "0.4"}}}
    (out / "settings.json").write_text(json.dumps(settings, indent=4))


if __name__ == "__main__":
    main()
