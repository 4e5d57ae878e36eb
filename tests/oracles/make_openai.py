"""Checkpoints as OpenAI's sparse_autoencoder saves them, and its published formulas in plain torch.

Options and output as in make_saelens.py.
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
K = 4
SMALL = 1e-4  # of activations in one case: what is added to deviations shows there


def standardised(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.sum(1, keepdim=True) / x.shape[1]
    centred = x - mean
    std = ((centred**2).sum(1, keepdim=True) / (x.shape[1] - 1)).sqrt()
    return centred / (std + 1e-5), mean, std


def largest(pre: Tensor) -> Tensor:
    bound = pre.sort(dim=1, descending=True).values[:, K - 1 : K]
    return torch.where(pre >= bound, pre, torch.zeros_like(pre))


def run(x: Tensor, content: dict[str, Any], kind: str, postact: str) -> tuple[Tensor, Tensor]:
    encoder, decoder = content["encoder.weight"], content["decoder.weight"]
    z, mean, std = standardised(x) if kind == "TopK" else (x, 0, 1)
    pre = (z - content["pre_bias"]) @ encoder.T + content["latent_bias"]
    codes = pre.clamp(min=0) if kind == "ReLU" else largest(pre)
    codes = codes.clamp(min=0) if postact == "ReLU" else codes
    return codes, (codes @ decoder.T + content["pre_bias"]) * std + mean


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
    kinds = [
        ("topk", "TopK", "ReLU", {"activation_state_dict": {"k": K, "postact_fn": "ReLU"}}, {}),
        ("topk-newer", "TopK", "ReLU", {"activation.k": torch.tensor(K)}, {}),
        (
            "topk-signed",
            "TopK",
            "",
            {"activation_state_dict": {"k": K, "postact_fn": "Identity"}},
            {},
        ),
        ("topk-without-k", "TopK", "ReLU", {}, {"k": str(K)}),
        ("relu", "ReLU", "ReLU", {}, {}),
    ]
    said = {}
    for seed, (name, kind, postact, more, settings) in enumerate(kinds):
        torch.manual_seed(seed)
        d, f = options.d_in, options.d_sae
        content = {
            "pre_bias": torch.randn(d) * 0.5,
            "latent_bias": torch.randn(f) * 0.3 - (2 if name == "topk-signed" else 0),
            "stats_last_nonzero": torch.arange(f),
            "encoder.weight": torch.randn(f, d) / d**0.5,
            "decoder.weight": torch.randn(d, f) * torch.rand(1, f),
        }
        x = (torch.randn(options.rows, d) * 2 + 0.5) * (SMALL if name == "topk-newer" else 1)
        codes, output = run(x, content, kind, postact)
        (options.out / name).mkdir(parents=True, exist_ok=True)
        torch.save(content | {"activation": kind} | more, options.out / name / "8.pt")
        found = {"x": x, "codes": codes, "decoded": output, "output": output.clone()}
        save_file(found, options.out / "expected" / f"{name}.safetensors")
        said[name] = {"settings": settings}
    (options.out / "settings.json").write_text(json.dumps(said, indent=2) + "\n")


if __name__ == "__main__":
    main()
