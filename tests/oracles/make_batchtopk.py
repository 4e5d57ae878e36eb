"""Checkpoints of BatchTopK, matryoshka_sae and FaithfulSAE, with the formulas of their classes in torch.

The repositories are scripts, not packages: nothing can be installed to compare with. Options and output
as in make_saelens.py, one case per class, with and without standardised inputs; one has no config, so
that its folder's name has to say what it would.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

LIBRARY = None
K = 4
THRESHOLD = 0.7
SMALL = 1e-4  # of activations in one case: what is added to deviations shows there

NAME = "gpt2-small_blocks.8.hook_resid_pre_{}_topk_4_0.0003_42_faithful-gpt2-small_128_24413"


def config(d_in: int, d_sae: int, sae_type: str, unit_norm: bool) -> dict[str, Any]:
    """The keys that training writes; what JSON has no type for was turned into text."""
    return {
        "seed": 42,
        "batch_size": 4096,
        "lr": 0.0003,
        "num_tokens": 100000000,
        "l1_coeff": 0,
        "beta1": 0.9,
        "beta2": 0.99,
        "max_grad_norm": 100000,
        "seq_len": 128,
        "dtype": "torch.float32",
        "model_name": "gpt2-small",
        "site": "resid_pre",
        "layer": 8,
        "act_size": d_in,
        "dict_size": d_sae,
        "device": "cuda",
        "model_batch_size": 512,
        "num_batches_in_buffer": 10,
        "dataset_path": "seonglae/faithful-gpt2-small",
        "wandb_project": "sparse_autoencoders",
        "input_unit_norm": unit_norm,
        "perf_log_freq": 1000,
        "sae_type": sae_type,
        "checkpoint_freq": 10000,
        "n_batches_to_dead": 5,
        "top_k": K,
        "top_k_aux": 512,
        "aux_penalty": 0.03125,
        "bandwidth": 0.001,
        "hook_point": "blocks.8.hook_resid_pre",
        "name": f"gpt2-small_blocks.8.hook_resid_pre_{d_sae}_{sae_type}_{K}_0.0003",
    }


def weights(d_in: int, d_sae: int, sae_type: str) -> dict[str, Tensor]:
    found = {
        "W_enc": torch.randn(d_in, d_sae) * d_in**-0.5,
        "W_dec": torch.randn(d_sae, d_in) * d_in**-0.5,
        "b_enc": torch.randn(d_sae) * 0.2,  # not zero, so that using it where it is unused shows
        "b_dec": torch.randn(d_in) * 0.2,
    }
    if sae_type == "jumprelu":
        found["jumprelu.log_threshold"] = torch.rand(d_sae) - 1.5
    if sae_type in ("batch-topk", "global-matryoshka-topk"):
        found["threshold"] = torch.tensor(THRESHOLD)
    return found


def encode(w: dict[str, Tensor], sae_type: str, x: Tensor) -> Tensor:
    if sae_type == "vanilla":
        return torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    if sae_type == "jumprelu":
        p = torch.relu(x @ w["W_enc"] + w["b_enc"])
        return p * (p > torch.exp(w["jumprelu.log_threshold"])).float()
    p = torch.relu((x - w["b_dec"]) @ w["W_enc"])
    if sae_type == "topk":
        kept = torch.topk(p, K, dim=-1)
        return torch.zeros_like(p).scatter(-1, kept.indices, kept.values)
    return torch.where(p > THRESHOLD, p, torch.zeros_like(p))


def measure(w: dict[str, Tensor], sae_type: str, unit_norm: bool, x: Tensor) -> dict[str, Tensor]:
    mean, std = torch.zeros(len(x), 1), torch.ones(len(x), 1)
    inputs = x
    if unit_norm:
        mean = x.mean(dim=-1, keepdim=True)
        std = (x - mean).std(dim=-1, keepdim=True)
        inputs = (x - mean) / (std + 1e-5)
    codes = encode(w, sae_type, inputs)
    decoded = (codes @ w["W_dec"] + w["b_dec"]) * std + mean
    return {"x": x, "codes": codes, "decoded": decoded, "output": decoded.clone()}


def cases(d_in: int, d_sae: int) -> Iterator[tuple[str, str, bool, dict[str, Any] | None]]:
    """Name, class, whether inputs are standardised, and config."""
    for sae_type in ("vanilla", "topk", "batchtopk", "jumprelu"):
        for unit_norm in (False, True):
            name = sae_type + ("_unit_norm" if unit_norm else "")
            yield name, sae_type, unit_norm, config(d_in, d_sae, sae_type, unit_norm)
    yield "batch-topk", "batch-topk", False, config(d_in, d_sae, "batch-topk", False)
    grouped = config(d_in, d_sae, "global-matryoshka-topk", True)
    grouped["group_sizes"] = str([d_sae // 4, d_sae // 4, d_sae - 2 * (d_sae // 4)])
    yield "matryoshka", "global-matryoshka-topk", True, grouped
    yield NAME.format(d_sae), "topk", False, None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--d-in", type=int, default=16)
    parser.add_argument("--d-sae", type=int, default=64)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--golden", action="store_true", help="every case is a golden one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    (options.out / "expected").mkdir(parents=True, exist_ok=True)
    settings = {}
    for seed, (name, sae_type, unit_norm, said) in enumerate(cases(options.d_in, options.d_sae)):
        torch.manual_seed(seed)
        folder = options.out / name
        folder.mkdir(parents=True, exist_ok=True)
        w = weights(options.d_in, options.d_sae, sae_type)
        torch.save(w, folder / "sae.pt")
        if said is None:
            settings[name] = {"settings": {"normalization": "none"}}
        else:
            (folder / "config.json").write_text(json.dumps(said, indent=4))
        if sae_type == "batchtopk":
            settings[name] = {"settings": {"threshold": str(THRESHOLD)}}
        x = torch.randn(options.rows, options.d_in) * 2 + 0.5  # off centre, for the standardising
        x *= SMALL if name == "topk_unit_norm" else 1
        found = measure(w, sae_type, unit_norm, x)
        save_file(found, options.out / "expected" / f"{name}.safetensors")
    (options.out / "settings.json").write_text(json.dumps(settings, indent=4))


if __name__ == "__main__":
    main()
