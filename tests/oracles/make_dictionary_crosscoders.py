"""Crosscoders as forks of dictionary_learning save them, from their formulas written out.

The forks are not on the package index, so any Python with torch runs this. Options and output as in
make_saelens.py: folders for the hub, and ``model_final.pt`` with the trainer's ``config.json``.
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
TARGET_RMS = 100.0
IDS = {"CROSSCODER": 1, "SAE": 2, "MIXED": 3, "NONE": 4}


@dataclass
class Case:
    """``norm`` is the code normalisation (None: ReLU alone), ``run`` a run's files instead of the hub's."""

    norm: str | None
    sources: int = 2
    normalized: bool = True
    run: bool = False
    old: bool = False  # written before code_normalization_id and the buffers existed
    alphas: tuple[float, float] = (1.0, 0.1)

    def tensors(self, d_in: int, d_sae: int) -> dict[str, Tensor]:
        M = self.sources
        spread = torch.rand(M, d_sae, 1) + 0.2  # decoder norms that differ by source and latent
        found = {
            "encoder.weight": torch.randn(M, d_in, d_sae) * d_in**-0.5,
            "encoder.bias": torch.randn(d_sae) * 0.3,
            "decoder.weight": torch.randn(M, d_sae, d_in) * d_in**-0.5 * spread,
            "decoder.bias": torch.randn(M, d_in) * 0.3,
        }
        if self.norm is not None:
            at = 60.0 if self.normalized else 1.2
            found["threshold"] = torch.tensor(at)
            found["k"] = torch.tensor(K, dtype=torch.int32)
        if self.old:
            return found
        mean, std = torch.randn(M, d_in), torch.rand(M, d_in) * 2 + 0.2
        scale = TARGET_RMS / torch.sqrt((std**2).sum(-1) + 1e-8)
        if not self.normalized:
            mean, std, scale = mean * torch.nan, std * torch.nan, torch.ones(M)
        return found | {
            "code_normalization_id": torch.tensor(IDS[self.norm or "CROSSCODER"]),
            "activation_mean": mean,
            "activation_std": std,
            "activation_global_scale": scale,
            "target_rms": torch.tensor(TARGET_RMS),
        }

    def config(self, d_in: int, d_sae: int) -> dict[str, Any]:
        batch = self.norm is not None
        sizes = {"activation_dim": d_in, "dict_size": d_sae}
        alphas = dict(zip(("sae", "cc"), self.alphas, strict=True))
        mixing = {f"code_normalization_alpha_{key}": value for key, value in alphas.items()}
        name = {"dict_class": "BatchTopKCrossCoder" if batch else "CrossCoder"}
        layers = 1 if self.sources == 2 else list(range(self.sources))
        if self.run:
            trainer = {**name, **sizes, **mixing, "layer": layers, "lm_name": "org/tuned-org/base"}
            return {"trainer": trainer | ({"k": 9, "k_initial": 9} if batch else {})}
        options = {"num_layers": self.sources, "norm_init_scale": 1.0, "target_rms": 1.0}
        found = {
            **name,
            **sizes,
            **options,
            **mixing,
            "code_normalization": self.norm or "CROSSCODER",
        }
        return found | ({"k": 100} if batch else {})


def scales(case: Case, w: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Means ``[M, d_in]`` and scales ``[M, 1]`` of the normaliser; 0 and 1 without one."""
    if case.old or not case.normalized:
        return torch.zeros(()), torch.ones(case.sources, 1)
    return w["activation_mean"], w["activation_global_scale"][:, None]


def encode(case: Case, w: dict[str, Tensor], x: Tensor) -> Tensor:
    mean, scale = scales(case, w)
    inner = torch.einsum("nmd,mdf->nf", (x - mean) * scale, w["encoder.weight"])
    f = (inner + w["encoder.bias"]).relu()
    if case.norm is None:
        return f
    each = w["decoder.weight"].norm(dim=2)  # [M, d_sae]
    crosscoder, sae = each.sum(0), each.pow(2).sum(0).sqrt()
    mixed = case.alphas[0] * sae + case.alphas[1] * crosscoder
    norms = {"CROSSCODER": crosscoder, "SAE": sae, "MIXED": mixed, "NONE": torch.ones(())}
    return f * (f * norms[case.norm] > w["threshold"])


def decode(case: Case, w: dict[str, Tensor], f: Tensor) -> Tensor:
    mean, scale = scales(case, w)
    y = torch.einsum("nf,mfd->nmd", f, w["decoder.weight"]) + w["decoder.bias"]
    return y / (scale + 1e-8) + mean if case.normalized and not case.old else y


def cases() -> Iterator[tuple[str, Case]]:
    yield "relu", Case(None)
    yield "crosscoder", Case("CROSSCODER")
    yield "sae", Case("SAE")
    yield "mixed", Case("MIXED", normalized=False, alphas=(0.5, 2.0))
    yield "none", Case("NONE", normalized=False)
    yield "old_compiled_run", Case("CROSSCODER", normalized=False, run=True, old=True)
    yield "three_layers", Case("SAE", sources=3, run=True)


def write(case: Case, w: dict[str, Tensor], path: Path, sizes: tuple[int, int]) -> None:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(case.config(*sizes), indent=2))
    if not case.run:
        save_file(w, path / "model.safetensors")
        return
    prefix = "_orig_mod." if case.old else ""
    torch.save({f"{prefix}{key}": value for key, value in w.items()}, path / "model_final.pt")


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
        write(case, w, options.out / name, sizes)
        x = torch.randn(options.rows, case.sources, options.d_in) * 2 + 0.5
        codes = encode(case, w, x)
        decoded = decode(case, w, codes)
        found = {"x": x, "codes": codes, "decoded": decoded, "output": decoded.clone()}
        save_file(found, options.out / "expected" / f"{name}.safetensors")


if __name__ == "__main__":
    main()
