"""Checkpoints as sparsify saves them, with its own codes and reconstructions.

Run under the Python of an environment that has eai-sparsify (extra ``oracles``); options and output as
in make_saelens.py: both activations, as SAE and as transcoder, with and without skip.
"""

from __future__ import annotations

import argparse
import os
from itertools import product
from pathlib import Path

import torch
import torchvision_guard  # noqa: F401  # first: the peers import torchvision

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # read when it is imported; triton needs a GPU
from safetensors.torch import save_file
from sparsify import SparseCoder, SparseCoderConfig
from torch import Tensor

LIBRARY = "sparsify"
K = 4


def coder(activation: str, transcode: bool, skip: bool, d_in: int, d_sae: int) -> SparseCoder:
    """A coder far from its initial values: unequal decoder norms, biases that are not zero."""
    config = SparseCoderConfig(
        activation=activation,
        num_latents=d_sae if skip else 0,  # 0 means d_in · expansion_factor
        expansion_factor=d_sae // d_in,
        k=K,
        transcode=transcode,
        skip_connection=skip,
        multi_topk=skip,
        normalize_decoder=not transcode,
    )
    made = SparseCoder(d_in, config)
    for weight in made.parameters():
        weight.normal_(0.0, 0.3 if weight.ndim == 1 else d_in**-0.5)
    return made


def dense(values: Tensor, indices: Tensor, d_sae: int) -> Tensor:
    """Codes of all latents from those of the selected ones."""
    return torch.zeros(values.shape[0], d_sae).scatter_(1, indices, values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--d-in", type=int, default=16)
    parser.add_argument("--d-sae", type=int, default=64)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--golden", action="store_true", help="every case is a golden one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    (options.out / "expected").mkdir(parents=True, exist_ok=True)
    combinations = product(("topk", "groupmax"), (False, True), (False, True))
    for seed, (activation, transcode, skip) in enumerate(combinations):
        torch.manual_seed(seed)
        sae = coder(activation, transcode, skip, options.d_in, options.d_sae)
        name = f"{activation}_{'transcoder' if transcode else 'sae'}{'_skip' if skip else ''}"
        sae.save_to_disk(options.out / name)
        sae.cfg.multi_topk = False  # with it, forward returns the second loss's 4 k latents
        x = torch.randn(options.rows, options.d_in) * 2 + 0.5
        values, indices, _ = sae.encode(x)
        found = {"x": x, "codes": dense(values, indices, sae.num_latents)}
        found["decoded"] = sae.decode(values, indices)
        found["output"] = sae(x).sae_out
        save_file(found, options.out / "expected" / f"{name}.safetensors")


if __name__ == "__main__":
    main()
