"""Crosscoders in saebench's own layout, from its formulas written out.

Options and output as in make_saelens.py; any Python with torch runs this. ``saebench.train`` writes the
same files; here they are made without it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

LIBRARY = None
K = 4


@dataclass
class Case:
    """``scales``: none, one number a source (``[M]``) or one a dimension (``[M, d_in]``)."""

    activation: str
    sources: int = 2
    scales: str = "dimension"
    subtracts: bool = True
    dtype: torch.dtype = torch.float32

    def tensors(self, d_in: int, d_sae: int) -> dict[str, Tensor]:
        M = self.sources
        found = {
            "W_enc": (torch.randn(M, d_in, d_sae) * d_in**-0.5).to(self.dtype),
            "W_dec": (torch.randn(d_sae, M, d_in) * d_in**-0.5).to(self.dtype),
            "b_enc": torch.randn(d_sae) * 0.3,
            "b_dec": torch.randn(M, d_in) * 0.3,
            "format_version": torch.tensor(1),
        }
        if self.activation == "jumprelu":
            norms = found["W_dec"].float().norm(dim=2).sum(1)
            found["threshold"] = 2.0 / norms
        if self.scales == "source":
            found["input_scale"] = torch.rand(M) + 0.5
            found["input_mean"] = torch.zeros(M, d_in)
        if self.scales == "dimension":
            found["input_scale"] = torch.rand(M, d_in) + 0.5
            found["input_mean"] = torch.randn(M, d_in)
        return found

    def config(self, d_in: int, d_sae: int) -> dict[str, Any]:
        sites = [f"blocks.{layer}.hook_resid_post" for layer in range(self.sources)]
        models = {"site": sites[0], "models": ["org/base", "org/tuned"]}
        return {
            "format": "saebench crosscoder",
            "version": 1,
            "architecture": "topk" if self.activation == "topk" else "batchtopk",
            "activation": self.activation,
            "d_in": d_in,
            "d_sae": d_sae,
            "n_sources": self.sources,
            **(models if self.sources == 2 else {"sites": sites, "model": "org/base"}),
            **({} if self.activation == "relu" else {"k": K}),
            "normalization": "none" if self.scales == "none" else "affine",
            "subtract_b_dec": self.subtracts,
            "saebench": {"version": "0", "seeds": {"weights": 0}},
        }


def inputs(w: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised inputs ``[n, M, d_in]``, with scales and means that undo it."""
    M = x.shape[1]
    scale = w.get("input_scale", torch.ones(M)).reshape(M, -1)
    mean = w.get("input_mean", torch.zeros(()))
    return (x - mean) * scale, scale, mean


def encode(case: Case, w: dict[str, Tensor], x: Tensor) -> Tensor:
    h, _, _ = inputs(w, x)
    centred = h - w["b_dec"] if case.subtracts else h
    pre = torch.einsum("nmd,mdf->nf", centred, w["W_enc"].float()) + w["b_enc"]
    if case.activation == "relu":
        return pre.relu()
    if case.activation == "jumprelu":
        return pre.relu() * (pre > w["threshold"])
    kept = pre.topk(K).indices
    return torch.zeros_like(pre).scatter(1, kept, pre.gather(1, kept).relu())


def decode(w: dict[str, Tensor], f: Tensor, x: Tensor) -> Tensor:
    _, scale, mean = inputs(w, x)
    y = torch.einsum("nf,fmd->nmd", f, w["W_dec"].float()) + w["b_dec"]
    return y / scale + mean


def cases() -> Iterator[tuple[str, Case]]:
    yield "two_models", Case("jumprelu")
    yield "two_models_unscaled", Case("jumprelu", scales="none", subtracts=False)
    yield "three_layers", Case("topk", sources=3, scales="source", dtype=torch.bfloat16)
    yield "relu", Case("relu", subtracts=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--d-in", type=int, default=16)
    parser.add_argument("--d-sae", type=int, default=64)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--golden", action="store_true", help="every case is a golden one")
    options = parser.parse_args()
    torch.manual_seed(0)
    sizes = (options.d_in, options.d_sae)
    (options.out / "expected").mkdir(parents=True, exist_ok=True)
    for name, case in cases():
        w = case.tensors(*sizes)
        (options.out / name).mkdir()
        save_file(w, options.out / name / "sae_weights.safetensors")
        (options.out / name / "cfg.json").write_text(json.dumps(case.config(*sizes), indent=2))
        x = torch.randn(options.rows, case.sources, options.d_in) * 2 + 0.5
        codes = encode(case, w, x)
        decoded = decode(w, codes, x)
        found = {"x": x, "codes": codes, "decoded": decoded, "output": decoded.clone()}
        save_file(found, options.out / "expected" / f"{name}.safetensors")


if __name__ == "__main__":
    main()
