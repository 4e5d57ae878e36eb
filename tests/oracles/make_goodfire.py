"""Checkpoints in the layout of Goodfire's SAEs, and their formulas in plain torch.

Options and output as in make_saelens.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

LIBRARY = None
FILES = {
    torch.float32: "Llama-3.1-8B-Instruct-SAE-l19.pth",
    torch.bfloat16: "Llama-3.3-70B-Instruct-SAE-l50.pt",
}


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
    for seed, (dtype, file) in enumerate(FILES.items()):
        torch.manual_seed(seed)
        d, f = options.d_in, options.d_sae
        content = {
            "encoder_linear.weight": torch.randn(f, d) / d**0.5,
            "encoder_linear.bias": torch.randn(f) * 0.3,
            "decoder_linear.weight": torch.randn(d, f) * torch.rand(1, f),
            "decoder_linear.bias": torch.randn(d) * 0.5,
        }
        content = {key: value.to(dtype) for key, value in content.items()}
        name = str(dtype).removeprefix("torch.")
        (options.out / name).mkdir(parents=True, exist_ok=True)
        torch.save(content, options.out / name / file)
        encoder, b_enc, decoder, b_dec = (value.float() for value in content.values())
        x = torch.randn(options.rows, d) * 2 + 0.5
        codes = (x @ encoder.T + b_enc).clamp(min=0)
        output = codes @ decoder.T + b_dec
        found = {"x": x, "codes": codes, "decoded": output, "output": output.clone()}
        save_file(found, options.out / "expected" / f"{name}.safetensors")


if __name__ == "__main__":
    main()
