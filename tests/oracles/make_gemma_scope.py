"""Checkpoints laid out as Gemma Scope 1 is published, from its formulas written out.

Any Python with torch and numpy runs this. Options and output as in make_saelens.py. The loader sees the
folder alone, whose name is the path that an embedding SAE is recognised by.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy
import torch
from safetensors.torch import save_file

LIBRARY = None
CASES = ("residual", "transcoder", "embedding")


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
    for seed, name in enumerate(CASES):
        torch.manual_seed(seed)
        d_in, d_sae = options.d_in, options.d_sae
        d_out = d_in + 2 if name == "transcoder" else d_in
        W_enc, W_dec = torch.randn(d_in, d_sae) / d_in**0.5, torch.randn(d_sae, d_out) / d_in**0.5
        b_enc, b_dec = torch.randn(d_sae) * 0.2, torch.randn(d_out) * 0.3
        threshold = torch.rand(d_sae) * 0.5
        weights = {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc, "b_dec": b_dec}
        arrays = {key: value.numpy() for key, value in (weights | {"threshold": threshold}).items()}
        (options.out / name).mkdir(exist_ok=True)
        numpy.savez(options.out / name / "params.npz", **arrays)
        x = torch.randn(options.rows, d_in) * 2 + 0.5
        unit = d_in**0.5 if name == "embedding" else 1.0  # the model multiplies embeddings by it
        pre = (x / unit) @ W_enc + b_enc
        codes = torch.relu(pre) * (pre > threshold)
        output = (codes @ W_dec + b_dec) * unit
        found = {"x": x, "codes": codes, "decoded": output, "output": output.clone()}
        save_file(found, options.out / "expected" / f"{name}.safetensors")


if __name__ == "__main__":
    main()
