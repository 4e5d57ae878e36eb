"""Crosscoders of crosscoder-model-diff-replication, with the formulas of its class in torch.

The repository is scripts, not a package: nothing can be installed to compare with. Options and output
as in make_saelens.py: the published files, and a numbered save in 16 bits.
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
SCALES = (0.22, 0.31)


def config(d_in: int, d_sae: int, enc_dtype: str) -> dict[str, Any]:
    return {
        "seed": 49,
        "batch_size": 4096,
        "buffer_mult": 128,
        "lr": 5e-05,
        "num_tokens": 400000000,
        "l1_coeff": 2,
        "beta1": 0.9,
        "beta2": 0.999,
        "d_in": d_in,
        "dict_size": d_sae,
        "seq_len": 1024,
        "enc_dtype": enc_dtype,
        "model_name": "gemma-2-2b",
        "site": "resid_pre",
        "device": "cuda:0",
        "model_batch_size": 4,
        "log_every": 100,
        "save_every": 30000,
        "dec_init_norm": 0.08,
        "hook_point": "blocks.14.hook_resid_pre",
        "wandb_project": "crosscoders",
    }


def weights(d_in: int, d_sae: int, dtype: torch.dtype) -> dict[str, Tensor]:
    found = {
        "W_enc": torch.randn(2, d_in, d_sae) * (2 * d_in) ** -0.5,
        "W_dec": torch.randn(d_sae, 2, d_in) * d_in**-0.5,
        "b_enc": torch.randn(d_sae) * 0.2,
        "b_dec": torch.randn(2, d_in) * 0.2,
    }
    return {name: tensor.to(dtype) for name, tensor in found.items()}


def measure(stored: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    w = {name: tensor.float() for name, tensor in stored.items()}
    scale = torch.tensor(SCALES)[:, None]
    codes = torch.relu(torch.einsum("bmd,mdf->bf", x * scale, w["W_enc"]) + w["b_enc"])
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
    out, sizes = options.out, (options.d_in, options.d_sae)
    (out / "expected").mkdir(parents=True, exist_ok=True)
    kinds = (
        ("published", "cc_weights.pt", "cfg.json", "fp32", torch.float32),
        ("version_0", "3.pt", "3_cfg.json", "bf16", torch.bfloat16),
    )
    for seed, (name, file, config_file, enc_dtype, dtype) in enumerate(kinds):
        torch.manual_seed(seed)
        (out / name).mkdir(exist_ok=True)
        w = weights(*sizes, dtype)
        torch.save(w, out / name / file)
        (out / name / config_file).write_text(json.dumps(config(*sizes, enc_dtype)))
        x = torch.randn(options.rows, 2, options.d_in) * torch.tensor([5.0, 3.0])[:, None]
        save_file(measure(w, x), out / "expected" / f"{name}.safetensors")
    scales = {"settings": {"input_scale": ",".join(map(str, SCALES))}}
    settings = {name: scales for name, *_ in kinds}
    (out / "settings.json").write_text(json.dumps(settings, indent=4))


if __name__ == "__main__":
    main()
